"""The equations of the order parameters describe the simulation (R2)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import xarray as xr

from alignlab.experiments._base import Case, Check, Claim, Provenance, Setting, Work
from alignlab.experiments._checking import mean_check
from alignlab.experiments._drawing import legend_beside
from alignlab.experiments._selection import chosen
from alignlab.experiments.refinetti2021._order_parameters import (
    Dynamics,
    State,
    generalisation_error,
)
from alignlab.experiments.refinetti2021._students import drawn_feedback
from alignlab.experiments.refinetti2021._teacher_student import (
    Runs,
    recorded_times,
    simulated,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["OdeEqualsSimulation"]

_VISIBLE = 1e-3
"""Generalisation error above which the two are compared."""

_STATED = {
    2: {"q": "0.005", "r": "0.009", "v": "0.012", "log_error": "0.015"},
    4: {"q": "0.018", "r": "0.024", "v": "0.012", "log_error": "0.027"},
}
_WORDS = {"q": "Q", "r": "R", "v": "v", "log_error": "log10 of the error"}


class OdeEqualsSimulation(Claim):
    """Order parameters of an online simulation beside the integrated equations.

    Both start from the same weights. Units of the student are alike until they specialise; the
    asymmetry that they start with is of order 1/N and the fluctuations of the simulation are of
    order 1/sqrt N, so that these decide when units part and which takes which teacher unit (our
    derivation). The whole run is therefore checked beside the time before that.
    """

    identity: ClassVar[str] = "R2"
    statement: ClassVar[str] = (
        "For many inputs the online dynamics of a shallow erf student under direct feedback "
        "alignment is that of a closed set of ordinary differential equations."
    )
    provenance: ClassVar[Provenance] = "read in its code"
    source: ClassVar[str] = (
        "simulation and solver of the order parameters; inits w/sqrt N, v/sqrt K"
    )
    fast: ClassVar[Setting] = {
        "n_inputs": 500,
        "rate": 0.5,
        "students": [2, 4],
        "teachers": 2,
        "last": {"2": 500.0, "4": 300.0},
        "points": 80,
        "early": 30.0,
        "inits": 5,
        "least_feedback": 0.5,
    }
    caption: ClassVar[str] = (
        "Generalisation error (with the 1/2) over time (steps over N): simulation, solid, and "
        "equations, dashed. Erf students of 2 and 4 units, teachers of 2 with A = 1, normal "
        "feedback of at least 0.5 in size, batch 1, fresh inputs, a seed for each run."
    )

    def cases(self, setting: Setting) -> Sequence[Case]:
        """Return one case a size of the student."""
        return [{"students": count} for count in setting["students"]]

    def measure(self, case: Case, setting: Setting, work: Work) -> xr.Dataset:
        """Simulate and integrate the same starts; return both errors and the differences."""
        k, n = int(case["students"]), int(setting["n_inputs"])
        seeds = range(setting["inits"])
        least = setting["least_feedback"]
        feedback = np.stack([drawn_feedback(seed, k, least=least) for seed in seeds])
        teacher = np.ones(setting["teachers"])
        times = recorded_times(setting["last"][str(k)], setting["points"], n)
        runs = Runs(seeds, teacher, feedback, k, n, setting["rate"])
        found = simulated(runs, times, progress=work.progress)
        errors, apart = [], []
        for run in seeds:
            state = State(found.state.q[:, run], found.state.r[:, run], found.state.v[:, run])
            dynamics = Dynamics(found.t[run], teacher, setting["rate"], feedback[run])
            solved = dynamics.solved(State(state.q[0], state.r[0], state.v[0]), times)
            error = generalisation_error(solved, t=found.t[run], teacher=teacher, activation="erf")
            errors.append(error)
            pairs = [(solved.q, state.q), (solved.r, state.r), (solved.v, state.v)]
            over = [np.abs(a - b).reshape(len(times), -1).max(1) for a, b in pairs]
            ratio = np.abs(np.log10(found.error[:, run] / error))
            over.append(np.where(error > _VISIBLE, ratio, 0.0))
            early = times <= setting["early"]
            apart.append([[each[early].max(), each.max()] for each in over])
        return xr.Dataset(
            {
                "time": ("point", times),
                "error_simulated": (("init", "point"), found.error.T),
                "error_solved": (("init", "point"), np.stack(errors)),
                "difference": (("init", "quantity", "until"), np.array(apart)),
            },
            coords={
                "init": list(seeds),
                "quantity": list(_WORDS),
                "until": ["early", "end"],
            },
        )

    def checks(self, results: xr.Dataset, setting: Setting) -> Sequence[Check]:
        """Hold the mean over runs of the largest difference, to the end and before units part."""
        found = []
        for k, until in product(setting["students"], ("end", "early")):
            last = setting["last"][str(k)] if until == "end" else setting["early"]
            apart = chosen(results, students=k)["difference"].sel(until=until)
            for name, words in _WORDS.items():
                most = 0.05 if name == "log_error" else 0.06
                own = f"ours earlier: {_STATED[k][name]} (one seed)" if k in _STATED else ""
                what = (
                    f"largest difference of {words} up to time {last:g}, mean over runs, "
                    f"{k} student units"
                )
                values = apart.sel(quantity=name).values
                stated = own if until == "end" else ""
                found.append(mean_check(what, values, most=most, stated=stated))
        return found

    def draw(self, results: xr.Dataset, figure: Figure) -> None:
        """Draw the error of every run over time, by both ways."""
        parts = figure.subplots(1, results.sizes["run"], sharey=True, squeeze=False)[0]
        for run, axes in enumerate(parts):
            one = results.isel(run=run)
            for init in range(one.sizes["init"]):
                time, curve = one["time"].values, one.isel(init=init)
                own = {"color": f"C{init}", "lw": 1.2}
                axes.loglog(time, curve["error_simulated"], label=f"simulation {init}", **own)
                axes.loglog(time, curve["error_solved"], "--", color="black", lw=0.8)
            axes.plot([], [], "--", color="black", lw=0.8, label="equations")
            axes.axhline(_VISIBLE, color="grey", ls=":", lw=1, label="compared above")
            axes.set_title(f"{int(one['students'])} student units")
            axes.set_xlabel("time (steps / N)")
        parts[0].set_ylabel("generalisation error")
        legend_beside(parts[-1])

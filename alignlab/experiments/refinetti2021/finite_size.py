"""The simulation comes closer to its equations with more inputs (R2b)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import xarray as xr

from alignlab.experiments._base import Case, Check, Claim, Provenance, Setting, Work
from alignlab.experiments._drawing import dots
from alignlab.experiments._selection import chosen
from alignlab.experiments.refinetti2021._order_parameters import Dynamics, State
from alignlab.experiments.refinetti2021._students import every, parsed
from alignlab.experiments.refinetti2021._teacher_student import Runs, simulated

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FiniteSize"]

_RESAMPLES = 2000


class FiniteSize(Claim):
    """Root mean square of the difference of Q, at two numbers of inputs."""

    identity: ClassVar[str] = "R2b"
    statement: ClassVar[str] = (
        "What separates the simulation from the equations of the order parameters is its finite "
        "number of inputs N: the difference falls as 1/sqrt N."
    )
    provenance: ClassVar[Provenance] = "our derivation"
    source: ClassVar[str] = "fluctuations of order 1/sqrt N of sums over N inputs"
    fast: ClassVar[Setting] = {
        "n_inputs": [500, 2000],
        "rate": 0.5,
        "feedback": "1,-0.7",
        "last": 60.0,
        "inits": 8,
    }
    caption: ClassVar[str] = (
        "Root mean square over time of the difference between Q of the simulation and of the "
        "equations: runs, and their mean with its 95% interval. Erf, 2 student and 2 teacher "
        "units, feedback (1, -0.7), batch 1, time up to 60, a seed of its own for each run."
    )

    def cases(self, setting: Setting) -> Sequence[Case]:
        """Return one case a number of inputs."""
        return [{"n_inputs": count} for count in setting["n_inputs"]]

    def measure(self, case: Case, setting: Setting, work: Work) -> xr.Dataset:
        """Return the root mean square difference of Q of every run."""
        n, count = int(case["n_inputs"]), setting["inits"]
        first = 100 * setting["n_inputs"].index(n)
        seeds = range(first, first + count)
        feedback, teacher = parsed(setting["feedback"]), np.ones(2)
        times = np.arange(0.0, setting["last"] + 0.5)
        runs = Runs(seeds, teacher, every(feedback, len(seeds)), 2, n, setting["rate"])
        found = simulated(runs, times, progress=work.progress)
        state, apart = found.state, []
        for run in range(count):
            dynamics = Dynamics(found.t[run], teacher, setting["rate"], feedback)
            start = State(state.q[0, run], state.r[0, run], state.v[0, run])
            solved = dynamics.solved(start, times)
            apart.append(np.sqrt(np.mean((solved.q - state.q[:, run]) ** 2)))
        return xr.Dataset(
            {"difference": ("init", np.array(apart))}, coords={"init": np.arange(count)}
        )

    def checks(self, results: xr.Dataset, setting: Setting) -> Sequence[Check]:
        """Hold the ratio of the mean differences; its interval is from resampled runs."""
        few, many = (
            chosen(results, n_inputs=count)["difference"].values.ravel()
            for count in setting["n_inputs"]
        )
        source = np.random.default_rng(0)
        picks = source.integers(few.size, size=(2, _RESAMPLES, few.size))
        low, high = np.quantile(few[picks[0]].mean(1) / many[picks[1]].mean(1), [0.025, 0.975])
        ratio = float(few.mean() / many.mean())
        expected = float(np.sqrt(setting["n_inputs"][1] / setting["n_inputs"][0]))
        sizes = " over that with ".join(str(count) for count in setting["n_inputs"])
        return [
            Check(
                f"difference of Q with {sizes} inputs",
                ratio,
                f"interval with {expected:g}, without 1 and {expected**2:g}",
                bool(1.0 < low <= expected <= high < expected**2),
                "ours earlier: 3.5 (3 seeds)"
                if setting["n_inputs"] == self.fast["n_inputs"]
                else "",
                *(float(low), float(high)),
                f"1; {expected**2:g} for a fall as 1/N",
                few.size + many.size,
            )
        ]

    def draw(self, results: xr.Dataset, figure: Figure) -> None:
        """Draw the differences by number of inputs."""
        axes = figure.subplots()
        groups = {
            f"N = {int(one['n_inputs'])}": one["difference"].values
            for one in (results.isel(run=number) for number in range(results.sizes["run"]))
        }
        dots(axes, {name: values.ravel() for name, values in groups.items()})
        axes.set_ylim(bottom=0.0)
        axes.set_ylabel("rms difference of Q")

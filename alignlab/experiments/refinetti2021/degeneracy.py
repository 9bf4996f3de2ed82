"""DFA chooses the signs of the readout (R4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import xarray as xr

from alignlab.experiments._base import Case, Check, Claim, Provenance, Setting, Work
from alignlab.experiments._checking import mean_check, share_check
from alignlab.experiments._drawing import legend_beside
from alignlab.experiments._selection import chosen
from alignlab.experiments.refinetti2021._students import curves, every, parsed
from alignlab.experiments.refinetti2021._teacher_student import (
    Runs,
    recorded_times,
    simulated,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Degeneracy"]

_CONVERGED = 1e-3
_MOST_BY_BP = 0.6


class Degeneracy(Claim):
    """Signs of the second layer at the end, of direct feedback and of backpropagation."""

    identity: ClassVar[str] = "R4"
    statement: ClassVar[str] = (
        "Among the many solutions of low loss direct feedback alignment goes to the one that is "
        "most aligned with its gradient. An erf student may flip the sign of any unit without a "
        "change of its function; it takes the signs of the feedback."
    )
    provenance: ClassVar[Provenance] = "read in the paper"
    source: ClassVar[str] = "abstract, for the choice; that it is one of signs is recalled"
    fast: ClassVar[Setting] = {
        "n_inputs": 200,
        "rate": 1.0,
        "feedback": ["1,-1", "0.6,1.2"],
        "last": 600.0,
        "points": 60,
        "inits": 12,
        "teacher_seed": 5,
    }
    caption: ClassVar[str] = (
        "Second layer at the end of every run, by rule, and the feedback as an arrow; the four "
        "solutions are grey. Erf, 2 student and 2 teacher units, A = 1, N = 200, time 600 (steps "
        "over N), batch 1, one teacher, the same starts and inputs for both rules."
    )

    def cases(self, setting: Setting) -> Sequence[Case]:
        """Return both rules at each feedback, which backpropagation is only compared with."""
        return [
            {"rule": rule, "feedback": entries}
            for entries in setting["feedback"]
            for rule in ("dfa", "bp")
        ]

    def measure(self, case: Case, setting: Setting, work: Work) -> xr.Dataset:
        """Return error, second layer and alignment over time."""
        feedback = parsed(str(case["feedback"]))
        first = 100 * setting["feedback"].index(case["feedback"])
        seeds = range(first, first + setting["inits"])
        acting = every(feedback, len(seeds)) if case["rule"] == "dfa" else None
        runs = Runs(
            *(seeds, np.ones(2), acting, 2, setting["n_inputs"], setting["rate"]),
            teacher_seed=setting["teacher_seed"],
        )
        times = recorded_times(setting["last"], setting["points"], setting["n_inputs"])
        found = simulated(runs, times, progress=work.progress)
        signs = np.sign(found.state.v[-1]) == np.sign(feedback)
        return (
            curves(runs, found, feedback)
            .assign_coords(init=np.arange(len(seeds)))
            .assign(has_signs_of_feedback=("init", signs.all(-1)))
        )

    def checks(self, results: xr.Dataset, setting: Setting) -> Sequence[Check]:
        """Hold the share of converged runs that have the signs of the feedback."""
        checks = []
        for entries in setting["feedback"]:
            dfa = _converged(chosen(results, rule="dfa", feedback=entries))
            stated = f"ours earlier: 12 of 12, F = ({entries})"
            checks.append(_signs(f"DFA with F = ({entries})", dfa, stated=stated))
            last = dfa["weight_alignment"].isel(time=-1).values
            what = f"weight alignment at the end, DFA with F = ({entries})"
            before = "1.000" if entries == "1,-1" else ".93 to .97"
            checks.append(
                mean_check(what, last, least=0.9, stated=f"ours earlier: {before}", chance="0")
            )
        bp = _converged(chosen(results, rule="bp"))
        checks.append(
            _signs(
                "backpropagation", bp, least=0.0, most=_MOST_BY_BP, stated="ours earlier: 2 of 12"
            )
        )
        worst = float(results["error"].isel(time=-1).values.max())
        what, most = "largest generalisation error at the end of any run", f"< {_CONVERGED:g}"
        runs = results["has_signs_of_feedback"].size
        before = "ours earlier: 1.1e-4"
        return [*checks, Check(what, worst, most, worst < _CONVERGED, before, runs=runs)]

    def draw(self, results: xr.Dataset, figure: Figure) -> None:
        """Draw the second layers at the end as points of the plane."""
        names = list(dict.fromkeys(results["feedback"].values))
        parts = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
        for entries, axes in zip(names, parts, strict=True):
            solutions = np.array([[a, b] for a in (-1, 1) for b in (-1, 1)])
            axes.plot(*solutions.T, "s", color="lightgrey", ms=16)
            axes.plot([], [], "s", color="lightgrey", label="solutions")
            for rule, marker, shift in (("dfa", "o", -0.06), ("bp", "x", 0.06)):
                one = chosen(results, rule=rule, feedback=entries)["v"].isel(run=0, time=-1)
                inits = np.linspace(-0.08, 0.08, one.sizes["init"])
                v = one.transpose("unit", "init").values + shift + [0 * inits, inits]
                axes.plot(*v, marker, label=rule.upper(), alpha=0.7)
            arrow = {"arrowstyle": "->", "color": "0.3"}
            axes.annotate("", parsed(str(entries)), (0, 0), arrowprops=arrow)
            axes.set_title(f"F = ({entries}), arrow")
            axes.set_xlabel("$v_1$")
            axes.set_aspect("equal")
            axes.set_xlim(-1.5, 1.5)
            axes.set_ylim(-1.5, 1.5)
        parts[0].set_ylabel("$v_2$")
        legend_beside(parts[-1])


def _converged(results: xr.Dataset) -> xr.Dataset:
    """Return the runs that have learned, along one axis."""
    flat = results.stack(each=("run", "init"))
    return flat.isel(each=np.flatnonzero(flat["error"].isel(time=-1).values < _CONVERGED))


def _signs(of: str, found: xr.Dataset, **options: Any) -> Check:
    """Return the check of the share of runs with the signs of the feedback."""
    what = f"converged runs with the signs of the feedback, {of}"
    return share_check(what, found["has_signs_of_feedback"].values, chance="1/4", **options)

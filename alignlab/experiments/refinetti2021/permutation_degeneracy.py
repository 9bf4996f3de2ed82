"""DFA chooses which unit takes which teacher unit (R4b)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations, product
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import xarray as xr

from alignlab.experiments._base import Case, Check, Claim, Provenance, Setting, Work
from alignlab.experiments._checking import share_check
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

__all__ = ["PermutationDegeneracy"]

_CONVERGED = 1e-4
_FEWEST = 3


class PermutationDegeneracy(Claim):
    """Which of the eight solutions of an unequal teacher runs come to."""

    identity: ClassVar[str] = "R4b"
    statement: ClassVar[str] = (
        "Where the teacher's weights are unequal, units of the student cannot be exchanged "
        "without a change of the alignment: direct feedback alignment goes to the one sign and "
        "order of largest overlap with the feedback, backpropagation to any."
    )
    provenance: ClassVar[Provenance] = "recalled"
    source: ClassVar[str] = "degeneracy of shallow erf students; that orders count is ours"
    fast: ClassVar[Setting] = {
        "n_inputs": 200,
        "rate": 0.7,
        "teacher": [1.5, 0.5],
        "feedback": "0.5,1.2",
        "last": 1500.0,
        "points": 60,
        "inits": 10,
        "teacher_seed": 5,
    }
    caption: ClassVar[str] = (
        "Second layer of every run at the end (open where it has not converged), by rule; the "
        "eight solutions are grey, the feedback is an arrow. Erf, 2 student and 2 teacher units "
        "with A = (1.5, 0.5), F = (0.5, 1.2), N = 200, time 1500, batch 1, one teacher."
    )

    def cases(self, setting: Setting) -> Sequence[Case]:
        """Return one case a rule."""
        del setting
        return [{"rule": "dfa"}, {"rule": "bp"}]

    def measure(self, case: Case, setting: Setting, work: Work) -> xr.Dataset:
        """Return the curves, and which solution each run is nearest to at the end."""
        feedback, seeds = parsed(setting["feedback"]), range(setting["inits"])
        teacher = np.array(setting["teacher"])
        acting = every(feedback, len(seeds)) if case["rule"] == "dfa" else None
        runs = Runs(
            *(seeds, teacher, acting, 2, setting["n_inputs"], setting["rate"]),
            teacher_seed=setting["teacher_seed"],
        )
        times = recorded_times(setting["last"], setting["points"], setting["n_inputs"])
        found = simulated(runs, times, progress=work.progress)
        apart = found.state.v[-1][:, None] - _solutions(teacher)[None]
        nearest = np.linalg.norm(apart, axis=-1).argmin(1)
        return curves(runs, found, feedback).assign(nearest=("init", nearest))

    def checks(self, results: xr.Dataset, setting: Setting) -> Sequence[Check]:
        """Hold which solutions converged runs are at."""
        solutions = _solutions(np.array(setting["teacher"]))
        best = int((solutions @ parsed(setting["feedback"])).argmax())
        ends = {}
        for rule in ("dfa", "bp"):
            one = chosen(results, rule=rule).isel(run=0)
            ends[rule] = one["nearest"].values[one["error"].isel(time=-1).values < _CONVERGED]
        total = results.sizes["init"]
        solution = ", ".join(f"{each:g}" for each in solutions[best])
        distinct = len(np.unique(ends["bp"]))
        what = f"converged DFA runs at v = ({solution}), the solution of largest overlap"
        stated = "ours earlier: 9 of 9 converged"
        return [
            share_check(what, ends["dfa"] == best, stated=stated, chance="1/8"),
            Check(
                "distinct solutions of converged runs by backpropagation", distinct,
                f">= {_FEWEST}", distinct >= _FEWEST, "ours earlier: 4", runs=len(ends["bp"]),
            ),
            Check(
                "DFA runs that converged", len(ends["dfa"]), "at least half of them",
                len(ends["dfa"]) >= total / 2, "ours earlier: 9 of 10", runs=total,
            ),
        ]  # fmt: skip

    def draw(self, results: xr.Dataset, figure: Figure) -> None:
        """Draw the second layers at the end as points of the plane."""
        parts = figure.subplots(1, 2, sharey=True)
        for rule, axes in zip(("dfa", "bp"), parts, strict=True):
            one = chosen(results, rule=rule).isel(run=0, time=-1)
            solutions = _solutions(np.array(self.fast["teacher"]))
            axes.plot(*solutions.T, "s", color="lightgrey", ms=14)
            axes.plot([], [], "s", color="lightgrey", label="solutions")
            v, done = one["v"].transpose("init", "unit").values, one["error"].values < _CONVERGED
            axes.plot(*v[done].T, "o", color="C0", alpha=0.6, label="converged")
            axes.plot(*v[~done].T, "o", mfc="none", color="C0", label="not converged")
            arrow = {"arrowstyle": "->", "color": "0.3"}
            axes.annotate("", parsed(self.fast["feedback"]), (0, 0), arrowprops=arrow)
            axes.set_title(f"{rule.upper()} (arrow: F)")
            axes.set_xlabel("$v_1$")
            axes.set_aspect("equal")
            axes.set_xlim(-2.0, 2.0)
            axes.set_ylim(-2.0, 2.0)
        parts[0].set_ylabel("$v_2$")
        legend_beside(parts[-1])


def _solutions(teacher: np.ndarray) -> np.ndarray:
    """Return all second layers of students that are the teacher, shape ``(8, 2)``."""
    return np.array(
        [
            np.multiply(order, signs)
            for order in permutations(teacher)
            for signs in product((-1.0, 1.0), repeat=len(teacher))
        ]
    )

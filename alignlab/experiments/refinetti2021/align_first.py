"""The student aligns before it learns (R3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import xarray as xr

from alignlab.experiments._base import Case, Check, Claim, Provenance, Setting, Work
from alignlab.experiments._checking import mean_check, share_check
from alignlab.experiments._drawing import legend_beside, level
from alignlab.experiments._statistics import interval_of_mean
from alignlab.experiments.refinetti2021._students import curves, every, parsed
from alignlab.experiments.refinetti2021._teacher_student import Runs, simulated

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["AlignFirst"]

_FEWEST = 8
_LEFT = 0.9
"""Least share of the first error that is left where it is said to hardly fall."""


class AlignFirst(Claim):
    """When the second layer turns towards the feedback, and when the error falls."""

    identity: ClassVar[str] = "R3"
    statement: ClassVar[str] = (
        "Shallow networks under direct feedback alignment first align, their error hardly "
        "falling, and then memorise."
    )
    provenance: ClassVar[Provenance] = "read in the paper"
    source: ClassVar[str] = (
        "abstract, for the two phases; that the error hardly falls in the first is ours, as are "
        "the times that are compared and the bounds"
    )
    fast: ClassVar[Setting] = {
        "n_inputs": 200,
        "rate": 1.0,
        "feedback": ["1,-1", "0.6,1.2"],
        "last": 100.0,
        "spacing": 0.05,
        "inits": 24,
        "teacher_seed": 5,
    }
    caption: ClassVar[str] = (
        "Weight alignment cos(v, F) and generalisation error over that at the start, over time "
        "(steps over N): runs that start opposed to the feedback, thick for their median. Erf, "
        "2 student and 2 teacher units, A = 1, N = 200, batch 1, one teacher, a seed for each "
        "run's weights and inputs. Dotted: alignment by chance, and half of the first error."
    )

    def cases(self, setting: Setting) -> Sequence[Case]:
        """Return one case for each feedback."""
        return [{"feedback": entries} for entries in setting["feedback"]]

    def measure(self, case: Case, setting: Setting, work: Work) -> xr.Dataset:
        """Return error and alignment over time, and when each first crosses its mark."""
        feedback = parsed(str(case["feedback"]))
        first = 100 * setting["feedback"].index(case["feedback"])
        seeds = range(first, first + setting["inits"])
        runs = Runs(
            *(seeds, np.ones(2), every(feedback, len(seeds)), 2, setting["n_inputs"]),
            setting["rate"], teacher_seed=setting["teacher_seed"],
        )  # fmt: skip
        times = np.arange(0.0, setting["last"] + setting["spacing"] / 2, setting["spacing"])
        found = curves(runs, simulated(runs, times, progress=work.progress), feedback)
        found = found.assign_coords(init=np.arange(len(seeds)))
        error, alignment = found["error"], found["weight_alignment"]
        found["time_aligned"] = _first(times, alignment > 0.0)
        found["time_learned"] = _first(times, error < error.isel(time=0) / 2.0)
        is_aligned, left = alignment > 0.0, error / error.isel(time=0)
        left = left.isel(time=is_aligned.argmax("time")).drop_vars("time")
        found["error_left"] = left.where(is_aligned.any("time"))
        return found

    def checks(self, results: xr.Dataset, setting: Setting) -> Sequence[Check]:
        """Hold the order of both times, and the error at the first, where runs start opposed."""
        del setting
        opposed = results["weight_alignment"].isel(time=0).values < 0.0
        aligned = results["time_aligned"].values[opposed]
        learned = results["time_learned"].values[opposed]
        count = int(opposed.sum())
        lead, is_whole = interval_of_mean(learned - aligned), np.isfinite(learned - aligned).all()
        return [
            Check(
                "runs that start with negative alignment", count, f">= {_FEWEST}",
                count >= _FEWEST, "ours earlier: 14", runs=results["time_aligned"].size,
            ),
            share_check(
                "of these, alignment turns positive before the error has halved",
                aligned < learned,
                stated="ours earlier: 14 of 14",
            ),
            mean_check(
                "of these, error when alignment turns positive, over that at the start",
                results["error_left"].values[opposed],
                least=_LEFT,
                chance="below .5 where the error is learned first",
            ),
            Check(
                "mean time between the two (steps / N)", lead[0], "> 0, interval included",
                bool(lead[1] > 0.0 and is_whole),
                "ours earlier: 1.23 against 2.21 in one run", *lead[1:], runs=count,
            ),
        ]  # fmt: skip

    def draw(self, results: xr.Dataset, figure: Figure) -> None:
        """Draw alignment and error of the runs that start opposed."""
        upper, lower = figure.subplots(2, 1, sharex=True)
        for number in range(results.sizes["run"]):
            one = results.isel(run=number)
            opposed = one["weight_alignment"].isel(time=0).values < 0.0
            one, style = one.isel(init=opposed), {"color": f"C{number}"}
            ratio = one["error"] / one["error"].isel(time=0)
            for axes, values in ((upper, one["weight_alignment"]), (lower, ratio)):
                axes.semilogx(one["time"], values.transpose("time", "init"), alpha=0.25, **style)
                label = f"F = ({one['feedback'].item()})"
                axes.semilogx(one["time"], values.median("init"), lw=2.5, label=label, **style)
        level(upper, 0.0, "chance")
        level(lower, 0.5, "half")
        upper.set_ylabel("cos(v, F)")
        lower.set_ylabel("error over first error")
        lower.set_yscale("log")
        lower.set_xlabel("time (steps / N)")
        legend_beside(upper)
        legend_beside(lower)


def _first(times: np.ndarray, holds: xr.DataArray) -> xr.DataArray:
    """Return the first time at which something holds; NaN where it never does."""
    number = holds.argmax("time")
    found = xr.DataArray(times[number.values], dims="init")
    return found.where(holds.any("time").values)

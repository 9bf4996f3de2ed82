"""Weight alignment is how close the alignment matrix is to the identity (R7)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import xarray as xr
from scipy import stats

from alignlab.experiments._base import Case, Check, Claim, Provenance, Setting, Work
from alignlab.experiments._checking import mean_check, worst_check
from alignlab.experiments._drawing import legend_beside, level
from alignlab.experiments._selection import chosen, crossed
from alignlab.experiments._statistics import jackknifed
from alignlab.experiments.refinetti2021._linear import (
    alignment_matrices,
    cosine_to_identity,
    gaussian_feedback,
    linear_task,
    trained_linear,
    weight_alignments,
)
from alignlab.training import Recipe

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["AlignmentMatrices"]

_NEAR = 0.02


class AlignmentMatrices(Claim):
    """Weight alignment beside the cosine of the alignment matrix with the identity."""

    identity: ClassVar[str] = "R7"
    statement: ClassVar[str] = (
        "The worse the alignment matrices of a deep linear network are conditioned, the less its "
        "weights align: for wide normal feedback WA_l is cos(A_l, I), within 0.02."
    )
    provenance: ClassVar[Provenance] = "read in the paper"
    source: ClassVar[str] = (
        "abstract, for the conditioning; that the cosines agree is our derivation, the 0.02 our "
        "bound, set for steps on single samples"
    )
    fast: ClassVar[Setting] = {
        "widths": [9, 50, 60, 50, 3],
        "steps": 150,
        "samples": 30,
        "rate": {"30": 0.001, "1": 0.004},
        "seeds": 20,
    }
    caption: ClassVar[str] = (
        "Weight alignment cos(W_l, F_l F_(l-1)^T) against the signed cosine of A_l with the "
        "identity, and against the condition number of A_l, by layer and {seeds} seeds; dashed, "
        "equality, and dotted, chance. Linear 9-50-60-50-3, zero initial weights, normal feedback "
        "of variance 1/n, a linear teacher, sum of squares, 150 steps: on a batch of 30 (rate "
        "0.001), which learns the teacher, and on one new sample a step (rate 0.004), which learns "
        "little."
    )

    def cases(self, setting: Setting) -> Sequence[Case]:
        """Return every seed with both sizes of the batch."""
        return crossed(batch=(setting["samples"], 1), seed=range(setting["seeds"]))

    def measure(self, case: Case, setting: Setting, work: Work) -> xr.Dataset:
        """Return both cosines, and the condition number, of every layer but the first."""
        del work
        seed, batch, widths = int(case["seed"]), int(case["batch"]), setting["widths"]
        steps = setting["steps"]
        x, y = linear_task(
            seed, samples=max(batch, steps if batch == 1 else 1), inputs=widths[0],
            outputs=widths[-1],
        )  # fmt: skip
        recipe = Recipe(
            epochs=steps * batch // len(x),
            batch_size=batch,
            optimizer_options={"lr": setting["rate"][str(batch)]},
            order_seed=seed,
        )
        found = trained_linear(widths, x=x, y=y, rule=gaussian_feedback(seed), recipe=recipe)
        matrices = alignment_matrices(found.weights, found.feedback)
        output = np.linalg.multi_dot([*found.weights[::-1], found.x.T]).T
        return xr.Dataset(
            {
                "weight_alignment": (
                    "layer",
                    np.array(weight_alignments(found.weights, found.feedback)),
                ),
                "cosine_identity": (
                    "layer",
                    np.array([cosine_to_identity(each) for each in matrices]),
                ),
                "condition": ("layer", np.array([np.linalg.cond(each) for each in matrices])),
                "loss_left": ((output - found.y) ** 2).sum() / (found.y**2).sum(),
            },
            coords={"layer": np.arange(2, len(widths))},
        )

    def checks(self, results: xr.Dataset, setting: Setting) -> Sequence[Check]:
        """Hold the difference, and the fall with the condition number, for both batches."""
        found = []
        regimes = {1: "single samples", setting["samples"]: f"batch {setting['samples']}"}
        for batch, words in regimes.items():
            one = chosen(results, batch=batch).transpose("run", "layer")
            apart = abs(one["weight_alignment"] - one["cosine_identity"]).values
            what = f"{words}: largest difference of WA_l and cos(A_l, I)"
            before = "ours earlier, one run: .992/.991, .985/.984, .965/.965" if batch == 1 else ""
            found += [
                worst_check(what, apart, most=_NEAR, stated=before),
                mean_check(f"{words}: mean difference of both", apart.mean(1)),
                _fall(words, one["condition"].values, one["weight_alignment"].values),
            ]
        return found

    def draw(self, results: xr.Dataset, figure: Figure) -> None:
        """Draw weight alignment against the cosine, and against the condition number."""
        left, right = figure.subplots(1, 2, sharey=True)
        for number, batch in enumerate(np.unique(results["batch"].values)):
            one = chosen(results, batch=batch)
            for layer, marker in zip(one["layer"].values, "os^dv", strict=False):
                here, color = one.sel(layer=layer), f"C{number}"
                label = f"batch {batch}, layer {layer}"
                for axes, name in ((left, "cosine_identity"), (right, "condition")):
                    pair = here[name], here["weight_alignment"]
                    axes.plot(*pair, marker, color=color, alpha=0.7, label=label)
        low = min(float(results["cosine_identity"].min()), 0.0)
        left.plot([low, 1], [low, 1], "--", color="grey", lw=1, label="equal")
        right.plot([], [], "--", color="grey", lw=1, label="equal")
        for axes in (left, right):
            level(axes, 0.0, "chance")
        right.set_xscale("log")
        left.set_xlabel("cos(A, I)")
        right.set_xlabel("condition number of A")
        left.set_ylabel("weight alignment")
        legend_beside(right)


def _fall(words: str, condition: np.ndarray, alignment: np.ndarray) -> Check:
    """Return the check that alignment falls with the condition number, a seed with all layers."""
    number, low, high = jackknifed(_rank_correlation, condition, alignment)
    what = f"{words}: rank correlation of condition number and WA_l, all layers"
    return Check(
        what, number, "< 0, interval included", high < 0.0, "", low, high, "0", len(condition)
    )


def _rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    return float(stats.spearmanr(first.ravel(), second.ravel()).statistic)

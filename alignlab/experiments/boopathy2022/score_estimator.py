"""The alignment score is the cosine of Gram matrices, and by chance far from zero (A7)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
import xarray as xr

from alignlab.experiments._base import Case, Check, Claim, Provenance, Setting, Work
from alignlab.experiments._checking import mean_check, worst_check
from alignlab.experiments._selection import chosen
from alignlab.experiments.boopathy2022._score import (
    alignment_score,
    estimated_score,
    score_by_chance,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["ScoreEstimator"]

TOLERANCE = 0.02


class ScoreEstimator(Claim):
    """Random inputs against the closed form, and independent changes against chance."""

    identity: ClassVar[str] = "A7"
    statement: ClassVar[str] = (
        "The alignment score that is estimated from products with random inputs is the cosine of "
        "the Gram matrices of two weight changes; of two independent normal changes it is about "
        "n_out/(n_out + n_in + 1), not 0."
    )
    provenance: ClassVar[Provenance] = "our derivation"
    source: ClassVar[str] = "closed form and chance level; the estimator is read in its code"
    fast: ClassVar[Setting] = {
        "shapes": ((256, 64), (128, 128), (10, 256), (256, 10)),
        "shares": (0.0, 0.5, 0.9),
        "inputs": 100,
        "draws": 100,
        "seeds": 5,
    }
    caption: ClassVar[str] = (
        "Score of two normal matrices of which a share is common, by the closed form and as "
        "estimated from 100 batches of 100 normal inputs; one point a shape, share and seed. "
        "Crosses: chance level of independent matrices by shape."
    )

    def cases(self, setting: Setting) -> Sequence[Case]:
        """Return one run a shape and seed."""
        seeds = range(setting["seeds"])
        return [{"n_out": o, "n_in": i, "seed": s} for o, i in setting["shapes"] for s in seeds]

    def measure(self, case: Case, setting: Setting, work: Work) -> xr.Dataset:
        """Take both scores of two matrices for every share that they have in common."""
        del work
        shape, seed = (int(case["n_out"]), int(case["n_in"])), int(case["seed"])
        stream = torch.Generator().manual_seed(seed)
        first, own = (torch.randn(shape, generator=stream) for _ in range(2))
        exact, estimated = [], []
        for share in setting["shares"]:
            second = share * first + (1 - share**2) ** 0.5 * own
            exact.append(float(alignment_score(first, second)))
            found = estimated_score(
                first, second, inputs=setting["inputs"], draws=setting["draws"], seed=100 + seed
            )
            estimated.append(float(found))
        return xr.Dataset(
            {"exact": ("share", exact), "estimated": ("share", estimated)},
            {"share": np.array(setting["shares"])},
        )

    def checks(self, results: xr.Dataset, setting: Setting) -> Sequence[Check]:
        """Hold the estimate against the closed form, and independence against chance."""
        difference = np.abs(results["estimated"].values - results["exact"].values)
        what = "largest difference of estimate and closed form"
        found = [worst_check(what, difference.max(1), most=TOLERANCE)]
        for out, into in setting["shapes"]:
            values = chosen(results, n_out=out, n_in=into)["exact"].sel(share=0.0).values
            null = score_by_chance(out, into)
            what = f"score of independent normal changes of shape {out} x {into}"
            found.append(mean_check(what, values, near=(null, TOLERANCE), chance=f"{null:.3f}"))
        return found

    def draw(self, results: xr.Dataset, figure: Figure) -> None:
        """Draw the estimate over the closed form."""
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color="0.7", linewidth=0.8, label="equal")
        shapes = dict.fromkeys(
            zip(results["n_out"].values.tolist(), results["n_in"].values.tolist(), strict=True)
        )
        for place, (out, into) in enumerate(shapes):
            one, null = chosen(results, n_out=out, n_in=into), score_by_chance(out, into)
            exact, estimated = one["exact"].values.ravel(), one["estimated"].values.ravel()
            colour = f"C{place}"
            axes.plot(exact, estimated, ".", color=colour, label=f"{out} x {into}")
            axes.plot([null], [null], "x", color=colour, markersize=9)
        axes.set_xlabel("score, closed form (1)")
        axes.set_ylabel("score, estimated (1)")
        figure.legend(loc="outside right center")

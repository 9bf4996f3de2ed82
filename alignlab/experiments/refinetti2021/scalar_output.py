"""With one output linear weights and gradients align exactly (R8)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import xarray as xr

from alignlab.experiments._base import Case, Check, Claim, Provenance, Setting, Work
from alignlab.experiments._checking import worst_check
from alignlab.experiments._drawing import legend_beside, level
from alignlab.experiments.refinetti2021._linear import (
    gaussian_feedback,
    linear_task,
    squared_error,
    trained_linear,
)
from alignlab.probe import Probe
from alignlab.training import Recipe

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["ScalarOutput"]

_EXACT = 1e-10


class ScalarOutput(Claim):
    """Alignments of a trained linear network with a single output."""

    identity: ClassVar[str] = "R8"
    statement: ClassVar[str] = (
        "Alignment matrices of a network with one output are numbers. Its weights, trained from "
        "zero by direct feedback alignment, are therefore aligned exactly, and so is its gradient."
    )
    provenance: ClassVar[Provenance] = "our derivation"
    source: ClassVar[str] = "deep linear theory with one output"
    fast: ClassVar[Setting] = {
        "widths": [9, 50, 60, 1],
        "steps": 150,
        "rate": 0.004,
        "seeds": 5,
        "batch": 50,
    }
    caption: ClassVar[str] = (
        "Weight alignment, gradient alignment (pre-activation, mean of the cosines of 50 samples) "
        "and the cosine of all weights stacked, by seed; chance is 0. Linear 9-50-60-1, zero "
        "initial weights, normal feedback of variance 1/n, linear teacher, sum of squares, batch "
        "1, 150 steps, rate 0.004, float64."
    )

    def cases(self, setting: Setting) -> Sequence[Case]:
        """Return one case a seed."""
        return [{"seed": seed} for seed in range(setting["seeds"])]

    def measure(self, case: Case, setting: Setting, work: Work) -> xr.Dataset:
        """Return both alignments by layer, measured by a probe, and that of stacked weights."""
        del work
        seed, widths = int(case["seed"]), setting["widths"]
        x, y = linear_task(seed, samples=setting["steps"], inputs=widths[0], outputs=1)
        options = {"lr": setting["rate"]}
        recipe = Recipe(epochs=1, batch_size=1, optimizer_options=options, order_seed=seed)
        found = trained_linear(widths, x=x, y=y, rule=gaussian_feedback(seed), recipe=recipe)
        rules, names = [found.learner.measured()], ["error-signal", "weight-feedback"]
        chosen = slice(0, setting["batch"])
        with Probe(found.model, squared_error, rules=rules, diagnostics=names, draws=32) as probe:
            one = probe.measure(x[chosen], y[chosen]).isel(step=0, rule=0)
        gradients = one["cosine_error_signal"].sel(site="preactivation").values[:-1]
        bounds = zip([*found.feedback[1:], np.eye(1)], found.feedback, strict=True)
        targets = np.concatenate([(above @ below.T).ravel() for above, below in bounds])
        stacked = np.concatenate([each.ravel() for each in found.weights[1:]])
        total = stacked @ targets / np.linalg.norm(stacked) / np.linalg.norm(targets)
        return xr.Dataset(
            {
                "weight_alignment": ("upper", one["cosine_weight_feedback"].values[1:]),
                "gradient_alignment": ("hidden", gradients),
                "total_weight_alignment": total,
            },
            coords={"upper": np.arange(2, len(widths)), "hidden": np.arange(1, len(widths) - 1)},
        )

    def checks(self, results: xr.Dataset, setting: Setting) -> Sequence[Check]:
        """Hold the distance of both from 1; stacked weights are less aligned than each layer."""
        del setting
        total = results["total_weight_alignment"].values
        mean = float(total.mean())
        before = "ours earlier: 1"
        weights = results["weight_alignment"].values
        gradients = results["gradient_alignment"].values
        return [
            worst_check(
                "distance of weight alignment from 1", 1.0 - weights, most=_EXACT, stated=before
            ),
            worst_check(
                "distance of gradient alignment from 1", 1.0 - gradients, most=_EXACT, stated=before
            ),
            Check(
                "mean cosine of all weights stacked, below 1 though every layer is at 1", mean,
                "< 1", bool((total < 1.0 - _EXACT).all()), "ours earlier: .927", runs=total.size,
            ),
        ]  # fmt: skip

    def draw(self, results: xr.Dataset, figure: Figure) -> None:
        """Draw all three by seed."""
        axes = figure.subplots()
        seeds = results["seed"].values
        weights = results["weight_alignment"].min("upper")
        axes.plot(seeds, weights, "o", label="weights, worst layer")
        gradients = results["gradient_alignment"].min("hidden")
        axes.plot(seeds, gradients, "x", label="gradient, worst layer")
        axes.plot(seeds, results["total_weight_alignment"], "s", label="weights stacked")
        level(axes, 0.0, "chance")
        axes.set_xticks(seeds)
        axes.set_xlabel("seed")
        axes.set_ylabel("cosine")
        legend_beside(axes)

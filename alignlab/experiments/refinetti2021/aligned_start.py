"""Weights that start aligned with the feedback follow the gradient from the first step (R21)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
import xarray as xr
from torch import nn

from alignlab.experiments._alignment import (
    accuracy,
    feedback_matrices,
    feedback_products,
    gradient_alignment,
    summed_cross_entropy,
    weights_of,
)
from alignlab.experiments._base import Case, Check, Claim, Setting, Work
from alignlab.experiments._checking import mean_check
from alignlab.experiments._deep_digits import data_of, feedback_rule, started, taught
from alignlab.experiments._drawing import dots_by, legend_beside, level
from alignlab.experiments._selection import chosen, crossed
from alignlab.snapshot import MeasuredRule

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["AlignedStart"]


class AlignedStart(Claim):
    """Alignment at the start and accuracy after training, from weights made of the feedback."""

    identity = "R21"
    statement = (
        "Weights of the form that alignment leads to, products of the feedback of both sides, "
        "give signals close to the gradient from the first step, and training from there does "
        "at least as well as from usual weights."
    )
    provenance = "our derivation"
    source = (
        "Its code has such a start but never runs it; the products as the state of full alignment "
        "follow from the linear theory (our derivation)"
    )
    fast: ClassVar[Setting] = {
        "sizes": (64, 64, 64, 10),
        "activations": ("tanh", "relu"),
        "samples": 1437,
        "lr": 0.001,
        "batch": 32,
        "epochs": 10,
        "probed": 300,
        "seeds": 6,
    }
    full: ClassVar[Setting | None] = {**fast, "seeds": 30}
    caption = (
        "Gradient alignment before the first step (cosine of the error signals of all hidden "
        "layers of a sample at the pre-activations as one vector, mean over {probed} training "
        "samples) and accuracy on the 360 test digits after {epochs} epochs of DFA, from torch's "
        "initial weights and from W_l = F_l F_(l-1)', W_L = F_(L-1)' brought to the same norms "
        "(the first layer as it is); 64-64-64-10 without biases, digits standardised globally, "
        "summed cross-entropy, SGD lr {lr}, batch {batch}, feedback U(-1,1)/8. Dots: {seeds} "
        "seeds of weights, feedback and order; bars: mean with 95% interval."
    )

    def cases(self, setting: Setting) -> Sequence[Case]:
        """Return both starts for every activation and seed."""
        return crossed(
            activation=setting["activations"],
            start=("default", "aligned"),
            seed=range(setting["seeds"]),
        )

    def measure(self, case: Case, setting: Setting, work: Work) -> xr.Dataset:
        """Measure alignment, train, and measure accuracy."""
        del work
        seed = int(case["seed"])
        model, measured = started(
            setting, activation=str(case["activation"]), seed=seed, feedback_seed=1000 + seed
        )
        if case["start"] == "aligned":
            _align(model, measured)
        data = data_of(setting)
        x, y = data.x[: setting["probed"]], data.y[: setting["probed"]]
        (before,) = gradient_alignment(model, summed_cross_entropy, x, y, measured)
        taught(model, feedback_rule(1000 + seed), setting, seed=seed)
        return xr.Dataset(
            {
                "layers": ("layer", before.layers),
                "alignment": before.total,
                "accuracy": accuracy(model, data.x_test, data.y_test),
            }
        )

    def checks(self, results: xr.Dataset, setting: Setting) -> Sequence[Check]:
        """Hold alignment against its bound, accuracy against that of the usual start."""
        found = []
        for activation in setting["activations"]:
            runs = chosen(results, activation=activation)
            usual, aligned = (chosen(runs, start=start) for start in ("default", "aligned"))
            found += [
                mean_check(
                    f"{activation}: alignment of all hidden layers before the first step",
                    aligned["alignment"].values,
                    least=0.9,
                    stated="ours earlier: .94",
                    chance="0",
                ),
                mean_check(
                    f"{activation}: the same from usual weights",
                    usual["alignment"].values,
                    chance="0",
                ),
                mean_check(
                    f"{activation}: test accuracy from aligned minus that from usual weights",
                    aligned["accuracy"].values - usual["accuracy"].values,
                    least=0.0,
                    stated="ours earlier: .94 to .96 against .92",
                ),
                mean_check(
                    f"{activation}: test accuracy from aligned weights",
                    aligned["accuracy"].values,
                    chance=".1",
                ),
            ]
        return found

    def draw(self, results: xr.Dataset, figure: Figure) -> None:
        """Draw alignment and accuracy of both starts for every activation."""
        labels = {
            "alignment": "gradient alignment before training",
            "accuracy": "accuracy on test digits",
        }
        for axes, (name, label) in zip(figure.subplots(1, 2), labels.items(), strict=True):
            dots_by(axes, results, name, "activation", "start")
            axes.set_ylabel(label)
            level(axes, 0.0 if name == "alignment" else 0.1, "chance")
        legend_beside(axes)


def _align(model: nn.Module, measured: MeasuredRule) -> None:
    """Make every weight but the first the product of the feedback of both sides."""
    products = feedback_products(feedback_matrices(measured))
    with torch.no_grad():
        for weight, product in zip(weights_of(model)[1:], products, strict=True):
            weight.copy_(product * weight.norm() / product.norm())

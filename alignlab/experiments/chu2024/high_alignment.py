"""Initial weights that align best need not learn best (R18)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
import xarray as xr

from alignlab.experiments._alignment import (
    accuracy,
    gradient_alignment,
    summed_cross_entropy,
)
from alignlab.experiments._base import Case, Check, Claim, Setting, Work
from alignlab.experiments._checking import mean_check
from alignlab.experiments._deep_digits import data_of, feedback_rule, started, taught
from alignlab.experiments._drawing import dots_by, legend_beside, level
from alignlab.experiments._selection import chosen, crossed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["HighAlignment"]

_STATED = {"tanh": (".59 vs .53", ".83 vs .92"), "relu": (".59 vs .56", ".85 vs .92")}


class HighAlignment(Claim):
    """Positive initial weights beside usual ones: alignment and accuracy after training."""

    identity = "R18"
    statement = (
        "Alignment is necessary for performance and no more: high alignment can come with poor "
        "results. Our case: initial weights whose signs were all made positive."
    )
    provenance = "read in the paper"
    source = (
        "Abstract: alignment is only a necessary criterion, high alignment can coincide with poor "
        "performance; positive initial weights as the case are ours, its own were not read"
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
        "Gradient alignment (cosine of the error signals of all hidden layers of a sample at the "
        "pre-activations as one vector, mean over 300 training samples) and accuracy on the 360 "
        "test digits after 10 epochs of DFA from torch's initial weights and from their absolute "
        "values; 64-64-64-10 without biases, digits standardised globally, summed cross-entropy, "
        "SGD lr .001, batch 32, feedback U(-1,1)/8. Dots: 6 seeds of weights, feedback and order; "
        "bars: mean with 95% interval."
    )

    def cases(self, setting: Setting) -> Sequence[Case]:
        """Return both kinds of initial weights for every activation and seed."""
        return crossed(
            activation=setting["activations"],
            start=("default", "positive"),
            seed=range(setting["seeds"]),
        )

    def measure(self, case: Case, setting: Setting, work: Work) -> xr.Dataset:
        """Train, and measure alignment and accuracy at the end."""
        del work
        seed = int(case["seed"])
        model, measured = started(
            setting, activation=str(case["activation"]), seed=seed, feedback_seed=1000 + seed
        )
        if case["start"] == "positive":
            with torch.no_grad():
                for weight in model.parameters():
                    weight.abs_()
        taught(model, feedback_rule(1000 + seed), setting, seed=seed)
        data = data_of(setting)
        x, y = data.x[: setting["probed"]], data.y[: setting["probed"]]
        (found,) = gradient_alignment(model, summed_cross_entropy, x, y, measured)
        return xr.Dataset(
            {
                "layers": ("layer", found.layers),
                "alignment": found.total,
                "accuracy": accuracy(model, data.x_test, data.y_test),
            }
        )

    def checks(self, results: xr.Dataset, setting: Setting) -> Sequence[Check]:
        """Hold both differences, seed by seed, against their bounds."""
        found = []
        for activation in setting["activations"]:
            runs = chosen(results, activation=activation)
            usual, positive = (chosen(runs, start=start) for start in ("default", "positive"))
            aligned, right = _STATED[activation]
            for name, runs_of in (("usual", usual), ("positive", positive)):
                found += [
                    mean_check(f"{activation}, {name} start: {what}", runs_of[what].values)
                    for what in ("alignment", "accuracy")
                ]
            found += [
                mean_check(
                    f"{activation}: alignment from positive weights minus that from usual ones",
                    positive["alignment"].values - usual["alignment"].values,
                    least=0.0,
                    stated=f"ours earlier: {aligned}",
                ),
                mean_check(
                    f"{activation}: test accuracy from positive weights minus that from usual ones",
                    positive["accuracy"].values - usual["accuracy"].values,
                    most=-0.04,
                    stated=f"ours earlier: {right}",
                    chance=".1 for the accuracy",
                ),
            ]
        return found

    def draw(self, results: xr.Dataset, figure: Figure) -> None:
        """Draw alignment and accuracy of both starts for every activation."""
        labels = {"alignment": "gradient alignment", "accuracy": "accuracy on test digits"}
        for axes, (name, label) in zip(figure.subplots(1, 2), labels.items(), strict=True):
            dots_by(axes, results, name, "activation", "start")
            axes.set_ylabel(label)
            level(axes, 0.0 if name == "alignment" else 0.1, "chance")
        legend_beside(axes)

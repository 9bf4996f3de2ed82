"""From positive weights DFA aligns more and learns less; backpropagation learns less too (R18)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
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
from alignlab.experiments._drawing import dots, legend_beside, level
from alignlab.experiments._selection import chosen, crossed, over_seeds
from alignlab.rules import BP

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["HighAlignment"]

_STATED = {"tanh": (".59 vs .53", ".83 vs .92"), "relu": (".59 vs .56", ".85 vs .92")}


class HighAlignment(Claim):
    """Positive initial weights beside usual ones: alignment and accuracy after training."""

    identity = "R18"
    statement = (
        "High alignment can come with poor results. Our case: from initial weights whose signs "
        "were all made positive DFA ends better aligned and less accurate than from the usual "
        "ones. Backpropagation is less accurate from there too: the start is a bad one, and what "
        "alignment does for accuracy the case does not tell."
    )
    provenance = "read in the paper"
    source = (
        "Abstract: high alignment can coincide with poor performance (its other half, that "
        "alignment is necessary, is not tested); positive initial weights as the case and "
        "backpropagation from both starts are ours, its own cases were not read"
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
        "pre-activations as one vector, mean over {probed} training samples) and accuracy on the "
        "360 test digits after {epochs} epochs of DFA and of backpropagation, from torch's "
        "initial weights (default) and from their absolute values (positive); the alignment of "
        "backpropagation is that with feedback which it never met. 64-64-64-10 without biases, "
        "digits standardised globally, summed cross-entropy, SGD lr {lr}, batch {batch}, feedback "
        "U(-1,1)/8. Dots: {seeds} seeds of weights, feedback and order; bars: mean with 95% "
        "interval."
    )

    def cases(self, setting: Setting) -> Sequence[Case]:
        """Return both rules from both kinds of initial weights for every activation and seed."""
        return crossed(
            activation=setting["activations"],
            rule=("dfa", "bp"),
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
        rule = feedback_rule(1000 + seed) if case["rule"] == "dfa" else BP()
        taught(model, rule, setting, seed=seed)
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
        """Hold differences between the starts, seed by seed, against their bounds."""
        return [
            check
            for activation in setting["activations"]
            for check in _of_activation(chosen(results, activation=activation), activation)
        ]

    def draw(self, results: xr.Dataset, figure: Figure) -> None:
        """Draw alignment and accuracy of both rules from both starts, a column an activation."""
        names = list(dict.fromkeys(results["activation"].values))
        panels = figure.subplots(2, len(names), sharex=True, sharey="row", squeeze=False)
        labels = {"alignment": "gradient alignment", "accuracy": "accuracy on test digits"}
        for row, (name, label) in zip(panels, labels.items(), strict=True):
            for axes, activation in zip(row, names, strict=True):
                groups = {
                    f"{rule.upper()}\n{start}": over_seeds(
                        results, name, activation=activation, rule=rule, start=start
                    )
                    for rule in ("dfa", "bp")
                    for start in ("default", "positive")
                }
                dots(axes, groups)
                level(axes, 0.0 if name == "alignment" else 0.1, "chance")
            row[0].set_ylabel(label)
        for axes, activation in zip(panels[0], names, strict=True):
            axes.set_title(activation)
        legend_beside(panels[1, -1])


def _of_activation(runs: xr.Dataset, activation: str) -> list[Check]:
    aligned, right = _STATED[activation]
    by_dfa, by_bp = (chosen(runs, rule=rule) for rule in ("dfa", "bp"))
    found = []
    for start, name in (("default", "usual"), ("positive", "positive")):
        dfa, bp = (chosen(each, start=start) for each in (by_dfa, by_bp))
        unmet = float(bp["alignment"].mean())
        found += [
            mean_check(
                f"{activation}, {name} start: alignment under DFA",
                dfa["alignment"].values,
                chance=f"{unmet:.3f}, of weights that BP trained, with the same feedback",
            ),
            mean_check(
                f"{activation}, {name} start: accuracy of DFA", dfa["accuracy"].values, chance=".1"
            ),
            mean_check(
                f"{activation}, {name} start: accuracy of BP", bp["accuracy"].values, chance=".1"
            ),
        ]
    return [
        *found,
        mean_check(
            f"{activation}: alignment from positive weights minus that from usual ones",
            _gain(by_dfa, "alignment"),
            above=0.0,
            stated=f"ours earlier: {aligned}",
            chance="0",
        ),
        mean_check(
            f"{activation}: accuracy of DFA from positive weights minus that from usual ones",
            _gain(by_dfa, "accuracy"),
            most=-0.04,
            stated=f"ours earlier: {right}",
            chance="0",
        ),
        mean_check(
            f"{activation}: accuracy of BP from positive weights minus that from usual ones",
            _gain(by_bp, "accuracy"),
            most=-0.04,
            chance="0",
        ),
    ]


def _gain(runs: xr.Dataset, name: str) -> np.ndarray:
    """Return what positive weights have more than usual ones, seed by seed."""
    positive, usual = (over_seeds(runs, name, start=start) for start in ("positive", "default"))
    gain: np.ndarray = positive - usual
    return gain

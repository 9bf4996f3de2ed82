"""Layers align one after the other, from the bottom to the top (R12)."""

from __future__ import annotations

from collections.abc import Sequence
from math import factorial
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import xarray as xr

from alignlab.experiments._base import Case, Check, Claim, Setting, Work
from alignlab.experiments._checking import mean_check, share_check
from alignlab.experiments._drawing import legend_beside
from alignlab.experiments._selection import chosen
from alignlab.experiments.refinetti2021._half_times import draw_layers, noisy_training, order_checks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["BottomToTop"]

_STATED = {
    0.0: "ours earlier: 2.3, 2.3, 3.0 epochs",
    0.5: "ours earlier: 4.7, 6.0, 7.5 epochs",
    0.9: "ours earlier: 15, 24, 39 epochs",
}
_STATED_WEIGHT = {0.0: "ours earlier: 1.9, 3.0, 2.3 epochs"}


class BottomToTop(Claim):
    """In which order do layers reach half of their gradient alignment?"""

    identity = "R12"
    statement = (
        "Align, then memorise, runs through a deep network layer by layer, from the bottom to "
        "the top: lower layers reach half of their gradient alignment earlier. That is not said of "
        "weight alignment, whose half-times are shown beside."
    )
    provenance = "read in the paper"
    source = (
        "Abstract: layers align in sequence from the bottom to the top; the alignment is that of "
        "its code; half-times of it, digits and label noise for the test are ours"
    )
    fast: ClassVar[Setting] = {
        "sizes": (64, 64, 64, 64, 10),
        "activation": "tanh",
        "samples": 1500,
        "lr": 0.003,
        "batch": 32,
        "epochs": 200,
        "noise": (0.0, 0.9),
        "probed": 300,
        "probes": 40,
        "seeds": (3, 3),
    }
    full: ClassVar[Setting | None] = {**fast, "noise": (0.0, 0.5, 0.9), "seeds": (10, 10, 10)}
    caption = (
        "Gradient alignment of the hidden layers (mean over {probed} training samples, with "
        "their labels of the training, of the cosine of error signals at the pre-activations) "
        "over training by DFA; digits ({samples}, standardised globally), tanh 64-64-64-64-10 "
        "without biases, summed cross-entropy, SGD lr {lr}, batch {batch}, {epochs} epochs, "
        "feedback U(-1,1)/8; a share p of the labels is drawn anew from all classes. Bands: 95% "
        "over seeds of weights, feedback, order and noise; dotted: half-times, means over seeds."
    )

    def cases(self, setting: Setting) -> Sequence[Case]:
        """Return every noise for every seed."""
        pairs = zip(setting["noise"], setting["seeds"], strict=True)
        return [{"noise": float(p), "seed": s} for p, seeds in pairs for s in range(seeds)]

    def measure(self, case: Case, setting: Setting, work: Work) -> xr.Dataset:
        """Train and watch."""
        del work
        return noisy_training(
            setting,
            activation=setting["activation"],
            noise=float(case["noise"]),
            seed=int(case["seed"]),
        )

    def checks(self, results: xr.Dataset, setting: Setting) -> Sequence[Check]:
        """Hold the order of half-times against that of the layers."""
        found = []
        for noise in setting["noise"]:
            runs = chosen(results, noise=float(noise))
            found += order_checks(
                f"p={noise:g}",
                runs,
                stated=_STATED.get(noise, ""),
                stated_order="" if noise else "ours earlier: 6/6, tanh and relu",
            )
            found += [
                mean_check(
                    f"p={noise:g}: epochs to half of the weight alignment of layer {number + 2}",
                    column,
                    stated=_STATED_WEIGHT.get(noise, ""),
                )
                for number, column in enumerate(runs["half_time_weight"].values.T)
            ]
        noisy = chosen(results, noise=float(max(setting["noise"])))["half_time_gradient"].values
        found.append(
            share_check(
                f"p={max(setting['noise']):g}: half-times rise from every layer to the next",
                np.all(np.diff(noisy, axis=1) >= 0, axis=1).tolist(),
                chance=f"1/{factorial(noisy.shape[1])}",
            )
        )
        return found

    def draw(self, results: xr.Dataset, figure: Figure) -> None:
        """Draw alignment over epochs, an axes for every noise."""
        noises = list(dict.fromkeys(results["noise"].values))
        panels = figure.subplots(1, len(noises), sharey=True, squeeze=False)[0]
        for axes, noise in zip(panels, noises, strict=True):
            runs = chosen(results, noise=noise)
            draw_layers(axes, runs, runs["epoch"].values, f"p = {noise:g}")
        panels[0].set_ylabel("gradient alignment")
        legend_beside(axes)

"""Layers align from the bottom to the top on images too (R12m)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import xarray as xr

from alignlab.experiments._base import Case, Check, Claim, Setting, Work
from alignlab.experiments._drawing import legend_beside
from alignlab.experiments._selection import chosen
from alignlab.experiments.refinetti2021._half_times import draw_layers, noisy_images, order_checks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["OrderOnImages"]


class OrderOnImages(Claim):
    """In which order do layers reach half of their gradient alignment, on MNIST and CIFAR-10?"""

    identity = "R12m"
    statement = (
        "On MNIST and CIFAR-10 too lower layers reach half of their gradient alignment earlier "
        "than upper ones."
    )
    provenance = "read in the paper"
    source = (
        "Abstract: layers align in sequence from the bottom to the top; images of 14x14 pixels "
        "and the width of 64 are read in its code; half-times, sizes and noise for the test ours"
    )
    fast: ClassVar[Setting] = {
        "data": ("digits",),
        "widths": (64, 64, 64),
        "activation": "relu",
        "samples": 1437,
        "lr": 0.003,
        "batch": 32,
        "epochs": 100,
        "noise": (0.5,),
        "probed": 300,
        "probes": 30,
        "seeds": 3,
    }
    full: ClassVar[Setting | None] = {
        **fast,
        "data": ("mnist", "cifar10"),
        "activation": "tanh",
        "samples": 10_000,
        "lr": 0.001,
        "epochs": 100,
        "noise": (0.0, 0.9),
        "probes": 40,
        "seeds": 5,
    }
    full_data = ("mnist", "cifar10")
    caption = (
        "Gradient alignment of the hidden layers (mean over 300 training samples, with their "
        "labels of the training, of the cosine of error signals at the pre-activations) over "
        "training by DFA, a share p of the labels drawn anew from all classes. The full setting "
        "has 10,000 images of MNIST and the 4,000 of the CIFAR-10 subset, 14x14 pixels, tanh, "
        "100 epochs of SGD lr .001; the fast one, which needs no data, has the 1,437 digits of "
        "8x8 pixels and stands in for them: relu, 100 epochs, lr .003, 3 seeds. Images "
        "standardised globally; three hidden layers of 64 without biases, summed cross-entropy, "
        "batch 32, feedback U(-1,1)/8. Bands: 95% over seeds of weights, feedback, order, noise."
    )

    def cases(self, setting: Setting) -> Sequence[Case]:
        """Return every data set and noise for every seed."""
        return [
            {"data": data, "noise": float(noise), "seed": seed}
            for data in setting["data"]
            for noise in setting["noise"]
            for seed in range(setting["seeds"])
        ]

    def measure(self, case: Case, setting: Setting, work: Work) -> xr.Dataset:
        """Train and watch."""
        del work
        return noisy_images(
            str(case["data"]), setting, noise=float(case["noise"]), seed=int(case["seed"])
        )

    def checks(self, results: xr.Dataset, setting: Setting) -> Sequence[Check]:
        """Hold the half-time of the first layer against that of the last."""
        found = []
        for data in setting["data"]:
            for noise in setting["noise"]:
                runs = chosen(results, data=data, noise=float(noise))
                found += order_checks(f"{data}, p={noise:g}", runs)
        return found

    def draw(self, results: xr.Dataset, figure: Figure) -> None:
        """Draw alignment over epochs, an axes for every data set and noise."""
        pairs = zip(results["data"].values, results["noise"].values, strict=True)
        places = list(dict.fromkeys(pairs))
        panels = figure.subplots(1, len(places), sharey=True, squeeze=False)[0]
        for axes, (data, noise) in zip(panels, places, strict=True):
            runs = chosen(results, data=data, noise=noise)
            draw_layers(axes, runs, runs["epochs_seen"].values[0], f"{data}, p = {noise:g}")
        panels[0].set_ylabel("gradient alignment")
        legend_beside(axes)

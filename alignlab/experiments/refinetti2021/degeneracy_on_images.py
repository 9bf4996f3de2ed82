"""Shared feedback leads networks on images to like weights, different feedback does not (R11m)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
import xarray as xr

from alignlab.experiments._alignment import accuracy, weights_of
from alignlab.experiments._base import Case, Check, Claim, Setting, Work
from alignlab.experiments._checking import mean_check
from alignlab.experiments._selection import chosen
from alignlab.experiments.refinetti2021._images import image_network, image_training, images
from alignlab.experiments.refinetti2021._pairs import GROUPS, cases_of_pairs, draw_pairs, pair_check

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["DegeneracyOnImages"]


class DegeneracyOnImages(Claim):
    """How alike are the weights that different starts end with, on MNIST and CIFAR-10?"""

    identity = "R11m"
    statement = (
        "Degeneracy breaking on MNIST and CIFAR-10: networks from different initial weights end "
        "with like weights where direct feedback alignment has the same feedback, and not "
        "otherwise."
    )
    provenance = "read in the paper"
    source = (
        "Abstract: degeneracy breaking in networks on MNIST and CIFAR-10; the measure, the images "
        "of 14x14 pixels and the width of 64 are read in its code; sizes and bounds ours"
    )
    fast: ClassVar[Setting] = {
        "data": ("digits",),
        "widths": (64, 64, 64),
        "activation": "tanh",
        "samples": 1437,
        "lr": 0.003,
        "batch": 32,
        "epochs": 40,
        "inits": 3,
    }
    full: ClassVar[Setting | None] = {
        **fast,
        "data": ("mnist", "cifar10"),
        "samples": 10_000,
        "lr": 0.001,
        "epochs": 100,
        "inits": 5,
    }
    full_data = ("mnist", "cifar10")
    caption = (
        "Cosine of all weights, flattened, of pairs of runs from different initial weights: DFA "
        "with one feedback for all, DFA with another feedback each, backpropagation. The full "
        "setting has 10,000 images of MNIST and the 4,000 of the CIFAR-10 subset, 14x14 pixels, "
        "100 epochs of SGD lr .001; the fast one, which needs no data, has the 1,437 digits of "
        "8x8 pixels and stands in for them: 40 epochs, lr .003, 3 runs. Images standardised "
        "globally; tanh, three hidden layers of 64 without biases, torch's initial weights, "
        "summed cross-entropy, batch 32, feedback U(-1,1)/8."
    )

    def cases(self, setting: Setting) -> Sequence[Case]:
        """Return rules, inits and feedback for every data set."""
        return [case for name in setting["data"] for case in cases_of_pairs(setting, data=name)]

    def measure(self, case: Case, setting: Setting, work: Work) -> xr.Dataset:
        """Train one network, and keep its weights and accuracy."""
        del work
        data, init, fed = str(case["data"]), int(case["init"]), 1000 + int(case["feedback"])
        model, _ = image_network(data, setting, seed=init, feedback_seed=fed)
        image_training(model, str(case["rule"]), data, setting, seed=init, feedback_seed=fed)
        _, _, tests, classes = images(data, setting["samples"])
        weights = torch.cat([w.flatten() for w in weights_of(model)]).numpy()
        # Of data sets of other sizes the weights differ in number; what lies beyond is 0.
        _, *hidden = setting["widths"]
        most = 3 * 14**2 * setting["widths"][0] + sum(
            a * b for a, b in zip(setting["widths"], (*hidden, 10), strict=True)
        )
        padded = torch.zeros(most)
        padded[: len(weights)] = torch.from_numpy(weights)
        return xr.Dataset(
            {"weights": ("weight", padded.numpy()), "accuracy": accuracy(model, tests, classes)}
        )

    def checks(self, results: xr.Dataset, setting: Setting) -> Sequence[Check]:
        """Hold the mean cosine over pairs against its bounds; show the accuracy."""
        found = []
        for data in setting["data"]:
            runs = chosen(results, data=data)
            found += [pair_check(data, runs, group) for group in GROUPS]
            for rule in ("dfa", "bp"):
                right = chosen(runs, rule=rule)["accuracy"].values
                what = f"{data}, {rule}: accuracy on test images"
                found.append(mean_check(what, right, least=0.2, chance=".1"))
        return found

    def draw(self, results: xr.Dataset, figure: Figure) -> None:
        """Draw the pairs of every group, an axes for every data set."""
        draw_pairs(figure, results, key="data")

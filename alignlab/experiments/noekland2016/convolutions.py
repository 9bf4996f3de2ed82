"""A convolutional network reaches zero training error by DFA (N9)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
import xarray as xr

from alignlab.experiments._base import Case, Check, Claim, Provenance, Setting, Work
from alignlab.experiments._checking import mean_check
from alignlab.experiments._drawing import dots, level
from alignlab.experiments._selection import crossed, over_seeds
from alignlab.experiments.noekland2016._setting import error, fit, images, zeroed
from alignlab.models.cnn import CNN
from alignlab.schedules import every
from alignlab.training import Moment

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Convolutions"]

RULES = ("bp", "dfa")


class Convolutions(Claim):
    """Training and test error of a small convolutional network."""

    identity: ClassVar[str] = "N9"
    statement: ClassVar[str] = (
        "Direct feedback alignment reaches zero training error in a convolutional network."
    )
    provenance: ClassVar[Provenance] = "read in the paper"
    source: ClassVar[str] = "abstract"
    fast: ClassVar[Setting] = {
        "data": "digits",
        "in_features": 64,
        "shape": (1, 8, 8),
        "channels": (16, 32),
        "kernel_size": 3,
        "widths": (64,),
        "lr": 1e-3,
        "batch_size": 64,
        "epochs": 100,
        "seeds": 3,
    }
    full: ClassVar[Setting | None] = {
        "data": "cifar10",
        "in_features": 3072,
        "shape": (3, 32, 32),
        "channels": (96, 128, 256),
        "kernel_size": 5,
        "widths": (2048, 2048),
        "lr": 5e-5,
        "batch_size": 64,
        "epochs": 300,
        "seeds": 1,
    }
    full_data: ClassVar[tuple[str, ...]] = ("cifar10",)
    caption: ClassVar[str] = (
        "Least training error over the epochs, that at the end, and test error, mean "
        "over seeds with 95% interval and single runs. Convolutions with "
        "tanh and 2 x 2 max-pooling, then dense layers; one dense feedback matrix "
        "for each pooled map; binary cross-entropy, RMSprop; DFA from zero, "
        "backpropagation from torch's start. Pixels from 0 to 1, without whitening."
    )

    def cases(self, setting: Setting) -> Sequence[Case]:
        """Return one run a rule and seed."""
        return crossed(rule=RULES, seed=range(setting["seeds"]))

    def measure(self, case: Case, setting: Setting, work: Work) -> xr.Dataset:
        """Train and take both errors, that of training after every epoch."""
        seen, shape = images(setting["data"], device=work.device), setting["shape"]
        torch.manual_seed(int(case["seed"]))
        model = CNN(
            in_channels=shape[0],
            image_size=shape[1],
            channels=tuple(setting["channels"]),
            kernel_size=setting["kernel_size"],
            widths=tuple(setting["widths"]),
            activation="tanh",
        )
        if case["rule"] == "dfa":
            zeroed(model)
        x = seen.x.reshape(-1, *shape)

        def look(moment: Moment) -> Mapping[str, float]:
            return {"error": error(moment.model, x, seen.y)}

        a_pass = every(-(-len(x) // setting["batch_size"]))
        history = fit(model, case, setting, work, watch=look, when=a_pass).history
        return xr.Dataset(
            {
                "least_train_error": min(each["error"] for each in history),
                "train_error": history[-1]["error"],
                "test_error": error(model, seen.x_test.reshape(-1, *shape), seen.y_test),
            }
        )

    def checks(self, results: xr.Dataset, setting: Setting) -> Sequence[Check]:
        """Hold the training error of DFA against zero."""
        stated = "" if setting["data"] == "digits" else "recalled: 0.2"
        what = "training error of DFA {}, per cent"
        last = over_seeds(results, "train_error", rule="dfa")
        least = over_seeds(results, "least_train_error", rule="dfa")
        return [
            mean_check(
                what.format("after the last epoch"), last, most=0.1, stated=stated, chance="90"
            ),
            mean_check(what.format("in its best epoch"), least, most=0.1, chance="90"),
        ]

    def draw(self, results: xr.Dataset, figure: Figure) -> None:
        """Draw both errors of both rules."""
        axes = figure.subplots()
        parts = ("least_train", "train", "test")
        pairs = [(rule, part) for rule in RULES for part in parts]
        groups = {
            f"{rule}\n{part.replace('_', chr(10))}": over_seeds(results, f"{part}_error", rule=rule)
            for rule, part in pairs
        }
        dots(axes, groups)
        level(axes, 0.1, "limit of the check (training)")
        axes.set_ylim(bottom=-0.1)
        axes.set_ylabel("error (%), chance 90")
        figure.legend(loc="outside lower right")

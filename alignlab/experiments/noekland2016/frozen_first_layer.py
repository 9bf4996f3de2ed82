"""DFA improves a first layer that was frozen once it is released (N7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import xarray as xr

from alignlab.experiments._base import Case, Check, Claim, Provenance, Setting, Work
from alignlab.experiments._checking import mean_check
from alignlab.experiments._drawing import curve, level
from alignlab.experiments._selection import crossed, over_seeds
from alignlab.experiments.noekland2016._setting import (
    COLOURS,
    error,
    fit,
    images,
    network,
    zeroed,
)
from alignlab.schedules import every
from alignlab.training import Moment

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FrozenFirstLayer"]

RULES = ("dfa", "bp")


class FrozenFirstLayer(Claim):
    """Training error with the first hidden layer at its random start, and after its release."""

    identity: ClassVar[str] = "N7"
    statement: ClassVar[str] = (
        "A network whose first hidden layer was frozen at its random start ends with a higher "
        "training error; released, DFA trains it and the error falls."
    )
    provenance: ClassVar[Provenance] = "recalled"
    source: ClassVar[str] = "figure with error curves before and after the release"
    fast: ClassVar[Setting] = {
        "data": "digits",
        "in_features": 64,
        "widths": (16, 16, 16),
        "lr": 1e-3,
        "batch_size": 64,
        "epochs": 60,
        "seeds": 2,
    }
    full: ClassVar[Setting | None] = {
        "data": "mnist",
        "in_features": 784,
        "widths": (800, 800),
        "lr": 1e-4,
        "batch_size": 64,
        "epochs": 100,
        "seeds": 2,
    }
    full_data: ClassVar[tuple[str, ...]] = ("mnist",)
    caption: ClassVar[str] = (
        "Training error by epoch, mean over seeds with 95% interval. The first hidden layer stays "
        "at torch's start up to the dashed line and is trained from there on, with a new state "
        "of the optimizer. Tanh, binary cross-entropy, RMSprop, uniform feedback, one draw a "
        "seed; under DFA the other layers start from zero. Dotted: chance."
    )

    def cases(self, setting: Setting) -> Sequence[Case]:
        """Return one run a rule and seed."""
        return crossed(rule=RULES, seed=range(setting["seeds"]))

    def measure(self, case: Case, setting: Setting, work: Work) -> xr.Dataset:
        """Train with the first layer frozen, then with all layers."""
        seen = images(setting["data"], device=work.device)
        model = network(case, setting, start="default")
        body = dict(model.named_children())
        if case["rule"] == "dfa":
            for name, layer in body.items():
                if name != "fc1":
                    zeroed(layer)
        a_pass = every(-(-len(seen.x) // setting["batch_size"]))
        first, errors = ("fc1.weight", "fc1.bias"), []

        def look(moment: Moment) -> Mapping[str, Any]:
            return {"error": error(moment.model, seen.x, seen.y)}

        for part, frozen in enumerate((first, ())):
            before = torch.cat([p.detach().flatten() for p in body["fc1"].parameters()])
            found = fit(
                *(model, case, setting, work),
                part=f"part {part}",
                watch=look,
                when=a_pass,
                frozen=frozen,
                order_seed=1000 * (part + 1) + int(case["seed"]),
            )
            after = torch.cat([p.detach().flatten() for p in body["fc1"].parameters()])
            assert torch.equal(before, after) == bool(frozen)
            errors += [each["error"] for each in found.history][part:]
        return xr.Dataset({"train_error": ("epoch", errors)}, {"epoch": np.arange(len(errors))})

    def checks(self, results: xr.Dataset, setting: Setting) -> Sequence[Check]:
        """Hold the error at the end against that at the release."""
        errors = over_seeds(results, "train_error", rule="dfa")
        ratio = errors[:, -1] / errors[:, setting["epochs"]]
        stated = "ours earlier: 25% before, 5% after" if setting["data"] == "digits" else ""
        what = "training error of DFA at the end, over that at the release"
        return [mean_check(what, ratio, most=0.5, stated=stated, chance="1: nothing is gained")]

    def draw(self, results: xr.Dataset, figure: Figure) -> None:
        """Draw the training curves."""
        axes = figure.subplots()
        epochs = results["epoch"].values
        for rule in RULES:
            errors = over_seeds(results, "train_error", rule=rule)
            curve(axes, epochs, errors, label=rule, color=COLOURS[rule], marker=".")
        axes.axvline((len(epochs) - 1) / 2, color="0.3", linestyle="--", label="release")
        level(axes, 90.0, "chance")
        axes.set_ylim(0, 100)
        axes.set_xlabel("epoch")
        axes.set_ylabel("training error (%)")
        figure.legend(loc="outside lower right", ncols=4)

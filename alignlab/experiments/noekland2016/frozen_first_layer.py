"""DFA improves a first layer that was frozen once it is released (N7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from alignlab.experiments._base import Case, Check, Claim, Provenance, Setting, Work
from alignlab.experiments._checking import ratio_check
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
FIRST = ("fc1.weight", "fc1.bias")


class FrozenFirstLayer(Claim):
    """Training error with the first hidden layer at its random start, released and not."""

    identity: ClassVar[str] = "N7"
    statement: ClassVar[str] = (
        "Released from its random start, a first hidden layer is trained by DFA: the training "
        "error ends at half of that at the release or less, and below that of the same network "
        "with the layer left frozen for as long."
    )
    provenance: ClassVar[Provenance] = "recalled"
    source: ClassVar[str] = (
        "figure with error curves before and after the release; the network left frozen is ours"
    )
    fast: ClassVar[Setting] = {
        "data": "digits",
        "in_features": 64,
        "widths": (16, 16, 16),
        "lr": 1e-3,
        "batch_size": 64,
        "epochs": 60,
        "seeds": 3,
    }
    full: ClassVar[Setting | None] = {
        "data": "mnist",
        "in_features": 784,
        "widths": (800, 800),
        "lr": 1e-4,
        "batch_size": 64,
        "epochs": 100,
        "seeds": 3,
    }
    full_data: ClassVar[tuple[str, ...]] = ("mnist",)
    caption: ClassVar[str] = (
        "Training error by epoch, mean over seeds with 95% interval. The first hidden layer stays "
        "at torch's start up to the upright line and is trained from there on, with a new state "
        "of the optimizer; dashed curve: DFA with it left frozen, and a new state as well. Tanh, "
        "binary cross-entropy, RMSprop, uniform feedback, one draw a seed; under DFA the other "
        "layers start from zero. Dotted: chance."
    )

    def cases(self, setting: Setting) -> Sequence[Case]:
        """Return one run a rule and seed."""
        return crossed(rule=RULES, seed=range(setting["seeds"]))

    def measure(self, case: Case, setting: Setting, work: Work) -> xr.Dataset:
        """Train with the first layer frozen, then all layers; under DFA a copy stays frozen."""
        model = network(case, setting, start="default")
        is_direct = case["rule"] == "dfa"
        if is_direct:
            for name, layer in model.named_children():
                if name != "fc1":
                    zeroed(layer)
        first = _errors(model, case, setting, work, part="first half", frozen=FIRST)
        still = deepcopy(model)
        curves = {"train_error": _errors(model, case, setting, work, part="released")}
        if is_direct:
            found = _errors(still, case, setting, work, part="still frozen", frozen=FIRST)
        else:
            found = [float("nan")] * len(curves["train_error"])
        curves["frozen_error"] = found
        joined = {name: ("epoch", first + found[1:]) for name, found in curves.items()}
        return xr.Dataset(joined, {"epoch": np.arange(2 * len(first) - 1)})

    def checks(self, results: xr.Dataset, setting: Setting) -> Sequence[Check]:
        """Hold the error at the end against that at the release, and against the control."""
        released = over_seeds(results, "train_error", rule="dfa")
        frozen = over_seeds(results, "frozen_error", rule="dfa")[:, -1]
        before, after = released[:, setting["epochs"]], released[:, -1]
        is_fast = setting["data"] == "digits"
        return [
            ratio_check(
                "training error of DFA at the end, over that at the release",
                *(after, before),
                most=0.5,
                stated="ours earlier: 25% before, 5% after" if is_fast else "",
                chance=f"{frozen.mean() / before.mean():.2f}: left frozen",
            ),
            ratio_check(
                "training error of DFA at the end, over that with the first layer left frozen",
                *(after, frozen),
                most=0.75,
                chance="1: the release changes nothing",
            ),
        ]

    def draw(self, results: xr.Dataset, figure: Figure) -> None:
        """Draw the training curves."""
        axes = figure.subplots()
        epochs = results["epoch"].values
        for rule in RULES:
            errors = over_seeds(results, "train_error", rule=rule)
            curve(axes, epochs, errors, label=rule, color=COLOURS[rule], marker=".")
        half = len(epochs) // 2
        frozen = over_seeds(results, "frozen_error", rule="dfa")[:, half:]
        style = {"color": COLOURS["dfa"], "linestyle": "--"}
        curve(axes, epochs[half:], frozen, label="dfa, left frozen", **style)
        axes.axvline(half, color="0.3", linestyle="-.", label="release")
        level(axes, 90.0, "chance")
        axes.set_ylim(0, 100)
        axes.set_xlabel("epoch")
        axes.set_ylabel("training error (%)")
        figure.legend(loc="outside lower right", ncols=4)


def _errors(
    model: nn.Module,
    case: Case,
    setting: Setting,
    work: Work,
    *,
    part: str,
    frozen: tuple[str, ...] = (),
) -> list[float]:
    """Train a network in place for as many epochs as the setting has.

    Args:
        model: Trained in place.
        case: With ``rule`` and ``seed``.
        setting: As for ``fit``.
        work: As for ``fit``.
        part: Name under which the training is kept.
        frozen: Parameters that stay; those of the first layer or none.

    Returns:
        Training error in per cent before the first epoch and after every one.
    """
    seen = images(setting["data"], device=work.device)

    def look(moment: Moment) -> Mapping[str, Any]:
        return {"error": error(moment.model, seen.x, seen.y)}

    before = _first_layer(model)
    found = fit(
        *(model, case, setting, work),
        part=part,
        watch=look,
        when=every(-(-len(seen.x) // setting["batch_size"])),
        frozen=frozen,
        order_seed=(1000 if part == "first half" else 2000) + int(case["seed"]),
    )
    assert torch.equal(before, _first_layer(model)) == bool(frozen)
    return [each["error"] for each in found.history]


def _first_layer(model: nn.Module) -> Tensor:
    """Return a copy of the weights and biases of the first hidden layer, on the CPU."""
    named = dict(model.named_parameters())
    return torch.cat([named[name].detach().cpu().flatten() for name in FIRST])

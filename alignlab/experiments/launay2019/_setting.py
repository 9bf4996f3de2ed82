"""What the claims on this work share: sizes, data, and the rule in the scale of its code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any

from torch import Tensor

from alignlab.datasets import load
from alignlab.rules import DFA
from alignlab.training import Recipe

__all__ = [
    "CIFAR",
    "DIGITS",
    "MEASURED",
    "Images",
    "earlier",
    "feedback_seed",
    "images",
    "recipe",
    "rule",
]

DIGITS: Mapping[str, Any] = MappingProxyType(
    {
        "data": "digits",
        "widths": (256, 256, 256),
        "epochs": 100,
        "learning_rate": 5e-3,
        "batch": 128,
        "seeds": 3,
    }
)
"""Digits from 0 to 1; ``learning_rate`` is that of the hidden layers over ``batch``."""

CIFAR: Mapping[str, Any] = MappingProxyType(
    {**DIGITS, "data": "cifar10", "widths": (800,) * 3, "epochs": 50, "learning_rate": 5e-4}
)
"""Sizes, epochs and rate of the work's code."""

MEASURED = 128
"""Test samples on which alignment is measured, as many as in the work's code; the first of ours."""

_SCALES: Mapping[str, Mapping[str, Any]] = {
    "digits": {},
    "cifar10": {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2023, 0.1994, 0.2010)},
}


@dataclass(frozen=True)
class Images:
    """A data set in its two splits.

    Attributes:
        x: Training images, shape ``(n, channels, edge, edge)``.
        y: Their classes.
        x_test: Test images, in an order of their own that is always the same.
        y_test: Their classes.
    """

    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor

    @property
    def inputs(self) -> int:
        """Numbers of a sample."""
        return self.x[0].numel()


@cache
def images(name: str, device: str) -> Images:
    """Return digits from 0 to 1, or CIFAR-10 normalised by channel as in the work's code."""
    scale = _SCALES[name]
    train, test = (load(name, split=part, samples=None, **scale) for part in ("train", "test"))
    return Images(*(each.to(device) for each in (train.x, train.y, test.x, test.y)))


def earlier(setting: Mapping[str, Any], text: str) -> str:
    """Return what we measured earlier, which was on the digits; elsewhere nothing."""
    return f"ours earlier: {text}" if setting["data"] == "digits" else ""


def feedback_seed(seed: int) -> int:
    """Return the seed of the feedback of a run, apart from that of its initial weights."""
    return 1000 + seed


def rule(setting: Mapping[str, Any], *, seed: int, **options: Any) -> DFA:
    """Return direct feedback alignment as in the work's code.

    One matrix for all layers, normalised for each. In the code the error of the hidden layers
    is a sum over the batch and that of the output layer a mean; their updates are linear in the
    feedback, so that a factor of the batch's size on it is the same.
    """
    given: dict[str, Any] = {"shared": True, **options}
    return DFA(seed=feedback_seed(seed), scale=float(setting["batch"]), **given)


def recipe(
    setting: Mapping[str, Any], *, seed: int, rate: float = 0.0, frozen: tuple[str, ...] = ()
) -> Recipe:
    """Return plain descent on full batches.

    Args:
        setting: Gives epochs, batch and rate.
        seed: Of a run.
        rate: In place of the setting's, where it is not 0.
        frozen: Names of parameters that stay.
    """
    return Recipe(
        epochs=setting["epochs"],
        batch_size=setting["batch"],
        drop_last=True,
        optimizer_options={"lr": rate or setting["learning_rate"]},
        frozen=frozen,
        order_seed=2000 + seed,
        dropout_seed=3000 + seed,
    )

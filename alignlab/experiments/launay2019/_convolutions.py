"""The convolutional network of this work's claims, at the size of digits and of CIFAR-10."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from alignlab.experiments.launay2019._networks import Pooled
from alignlab.experiments.launay2019._setting import CIFAR, DIGITS

__all__ = ["CIFAR_MAPS", "DIGITS_MAPS", "sizes"]

DIGITS_MAPS: Mapping[str, Any] = MappingProxyType(
    {
        **{**DIGITS, "epochs": 60, "shape": (1, 8)},
        **{"maps": (16, 32), "kernel": 3, "window": 2, "width": 64, "dense_rate": 2e-3},
    }
)
"""``dense_rate`` is that of the dense network; its widths are those of the pooled maps."""

CIFAR_MAPS: Mapping[str, Any] = MappingProxyType(
    {
        **{**CIFAR, "shape": (3, 32)},
        **{"maps": (32, 64, 64), "kernel": 5, "window": 3, "width": 128, "dense_rate": 5e-4},
    }
)
"""The convolutional network of the work's code."""


def sizes(setting: Mapping[str, Any]) -> Pooled:
    """Return the sizes of the convolutional network of a setting."""
    return Pooled(
        tuple(setting["shape"]),
        tuple(setting["maps"]),
        setting["kernel"],
        setting["window"],
        setting["width"],
    )

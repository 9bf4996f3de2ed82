"""The digits of 8 by 8 pixels as the claims take them: two splits, three scalings."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from alignlab.datasets import load

__all__ = ["CLASSES", "Digits", "Scaling", "digits"]

CLASSES = 10

Scaling = Literal["unit", "global", "pixel"]
"""``unit``: 0 to 1; ``global``: mean 0 and deviation 1 over all pixels of the training samples;
``pixel``: the same of every pixel by itself, where pixels that never change become 0."""

_LARGE = 1500
_SPLIT_SEED = 0


@dataclass(frozen=True)
class Digits:
    """A split of the digits.

    Attributes:
        x: Training images as rows, float32, shape ``(n, 64)``.
        y: Their classes, int64, shape ``(n,)``.
        x_test: Test images.
        y_test: Their classes.
    """

    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor


@cache
def digits(*, samples: int = 1437, scaling: Scaling = "unit") -> Digits:
    """Return the digits; the same tensors at every call, so none may be changed in place.

    Args:
        samples: Of training: 1437, the data set's own split with the classes in proportion and
            360 to test; or 1500 of all 1797 by a fixed permutation and 297 to test.
        scaling: Of the pixels, by the training samples alone.

    Raises:
        ValueError: There is no such split.
    """
    if samples not in {1437, _LARGE}:
        msg = f"There is no split of {samples} digits; there are 1437 and {_LARGE}."
        raise ValueError(msg)
    parts = [load("digits", split=split, samples=None) for split in ("train", "test")]
    x, y = (part.x.flatten(1) for part in parts), (part.y for part in parts)
    (x_train, x_test), (y_train, y_test) = x, y
    if samples == _LARGE:
        order = torch.from_numpy(np.random.RandomState(_SPLIT_SEED).permutation(1797))
        every, labels = torch.cat([x_train, x_test])[order], torch.cat([y_train, y_test])[order]
        x_train, x_test = every[:samples], every[samples:]
        y_train, y_test = labels[:samples], labels[samples:]
    shift, scale = _scale(x_train, scaling)
    return Digits((x_train - shift) / scale, y_train, (x_test - shift) / scale, y_test)


def _scale(x: Tensor, scaling: Scaling) -> tuple[Tensor, Tensor]:
    """Return what is subtracted and what is divided by."""
    if scaling == "unit":
        return torch.zeros(()), torch.ones(())
    if scaling == "global":
        return x.mean(), x.std(correction=0)
    scale = x.std(0, correction=0)
    return x.mean(0), torch.where(scale > 0, scale, 1.0)

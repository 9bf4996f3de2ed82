"""What a data set holds: arrays as they are read, samples as they are measured on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Arrays", "Samples"]


@dataclass(frozen=True, eq=False)
class Arrays:
    """One split of a data set as its file holds it, neither selected nor scaled.

    Attributes:
        x: Inputs, shape ``(N, ...)``; uint8 stands for 0..1 in steps of 1/255.
        y: Integer labels, shape ``(N,)``, or float targets, shape ``(N, ...)``.
        n_classes: Number of classes; None for float targets, or to take it from the labels.
        split: ``"train"``, ``"test"``; ``""`` where the file is not divided.
        subset: Whether the file holds only a part of the published split.
        tokens: Whether integer inputs are meant as such, as the tokens of a text are.
    """

    x: NDArray[Any]
    y: NDArray[Any]
    n_classes: int | None = None
    split: str = ""
    subset: bool = False
    tokens: bool = False

    def describe(self, name: str, taken: int) -> str:
        """Return the name of ``taken`` samples of these, which says where they are a part.

        Example:
            >>> import numpy as np
        >>> digits = Arrays(np.zeros((360, 1, 8, 8)), np.zeros(360), split="test")
            >>> digits.describe("digits", 360), digits.describe("digits", 64)
            ('digits[test n=360]', 'digits[test n=64 of 360]')
        """
        parts = ["subset"] * self.subset + [self.split] * bool(self.split) + [f"n={taken}"]
        if taken < len(self.x):
            parts.append(f"of {len(self.x)}")
        return f"{name}[{' '.join(parts)}]"


@dataclass(frozen=True, eq=False)
class Samples:
    """The samples on which a model is measured.

    Attributes:
        x: Inputs, float32 (int64 for tokens), shape ``(N, ...)``, images as ``(N, C, H, W)``.
        y: Labels, int64, shape ``(N,)``, or targets, float32, shape ``(N, ...)``.
        name: Data set, split and number, such as ``digits[test n=360]``; a subset says so.
        hash: sha256 of the bytes of exactly this ``x`` followed by exactly this ``y``, hexadecimal.
        n_classes: Number of classes; None for float targets.
        class_counts: Samples of each class; empty for float targets.
    """

    x: Tensor
    y: Tensor
    name: str
    hash: str
    n_classes: int | None
    class_counts: tuple[int, ...]

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.x)

"""Telling a published split from a part of it."""

from __future__ import annotations

from dataclasses import replace

from alignlab.datasets._samples import Arrays

__all__ = ["published"]


def published(arrays: Arrays, split: str, *, size: int, n_classes: int) -> Arrays:
    """Return the arrays as a split of a published data set.

    Args:
        arrays: As they were read.
        split: Which split.
        size: Samples that the published split has; with another number it is a subset.
        n_classes: Classes of the data set.

    Returns:
        The same arrays; ``subset`` where their number is another one.

    Example:
        >>> import numpy as np
        >>> part = Arrays(np.zeros((1000, 3, 32, 32)), np.zeros(1000))
        >>> published(part, "test", size=10_000, n_classes=10).describe("cifar10", 512)
        'cifar10[subset test n=512 of 1000]'
    """
    return replace(arrays, n_classes=n_classes, split=split, subset=len(arrays.x) != size)

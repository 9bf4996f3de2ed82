"""Which samples of a split are taken: seeded, and with the classes in the split's proportions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["permutation", "stratified"]


def permutation(n: int, seed: int) -> NDArray[np.intp]:
    """Return a permutation of ``range(n)`` that is the same under every version of numpy.

    numpy keeps the raw stream of a bit generator fixed but not what ``Generator`` makes of it.

    Args:
        n: Length.
        seed: Non-negative.

    Returns:
        Indices, shape ``(n,)``.

    Example:
        >>> permutation(5, seed=0)
        array([3, 2, 1, 0, 4])
    """
    return np.argsort(np.random.PCG64(seed).random_raw(n), kind="stable")


def stratified(labels: NDArray[np.int64], size: int, *, seed: int) -> NDArray[np.intp]:
    """Choose ``size`` samples with the classes in proportion, to within one sample a class.

    What is left after rounding down goes to the classes with the largest remainders.

    Args:
        labels: Class of each sample, shape ``(n,)``.
        size: Number of samples, at most ``n``.
        seed: Non-negative.

    Returns:
        Distinct indices in shuffled order, shape ``(size,)``.

    Example:
        >>> labels = np.array([0, 0, 0, 0, 1, 1])
        >>> np.bincount(labels[stratified(labels, 3, seed=0)])
        array([2, 1])
    """
    order = permutation(len(labels), seed)
    classes, member, counts = np.unique(labels, return_inverse=True, return_counts=True)
    share, remainder = np.divmod(counts * size, len(labels))
    largest = np.argsort(-remainder, kind="stable")[: size - int(share.sum())]
    share[largest] += 1
    wanted = np.zeros(len(labels), dtype=bool)
    for index in range(len(classes)):
        wanted[order[member[order] == index][: share[index]]] = True
    return order[wanted[order]]

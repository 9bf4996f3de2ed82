"""Signals of 40 samples in 10 classes, 4,000 to train on and 1,000 to test."""

from __future__ import annotations

from alignlab.datasets import _files
from alignlab.datasets._npz import read_npz
from alignlab.datasets._samples import Arrays
from alignlab.datasets._split import published
from alignlab.errors import MissingError

__all__ = ["mnist1d"]

_SIZE = {"train": 4_000, "test": 1_000}


def mnist1d(split: str, *, download: bool) -> Arrays:
    """Return a split of MNIST-1D from ``mnist1d.npz``.

    Source: Greydanus 2020, arXiv 2011.14439.

    Args:
        split: ``"train"`` or ``"test"``.
        download: Refused: what its author publishes is a pickle without a hash.

    Returns:
        Signals float, shape ``(N, 40)``.
    """
    folders = _files.places("mnist1d", "mnist1d")
    path = _files.find(folders, "mnist1d.npz")
    if path is None:
        message = (
            f"mnist1d is not there: looked for mnist1d.npz in {', '.join(map(str, folders))}. Save "
            "its x, y, x_test and y_test there with numpy.savez"
            f"{'; it has no published hash and is not downloaded' if download else ''}."
        )
        raise MissingError(message)
    return published(read_npz(path, split), split, size=_SIZE[split], n_classes=10)

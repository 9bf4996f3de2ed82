"""Handwritten digits of 28 by 28 pixels, 60,000 to train on and 10,000 to test."""

from __future__ import annotations

from alignlab.datasets._idx import IdxSet
from alignlab.datasets._samples import Arrays

__all__ = ["mnist"]

_FILES = IdxSet(
    name="mnist",
    folders=("mnist", "MNIST/raw", "MNIST"),
    md5={
        "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    },
)


def mnist(split: str, *, download: bool) -> Arrays:
    """Return a split of MNIST from idx files, plain or gzipped, or from ``mnist.npz``.

    Source: LeCun, Cortes and Burges 1998.

    Args:
        split: ``"train"`` or ``"test"``.
        download: Whether missing files are fetched from ``ALIGNLAB_MIRROR``.

    Returns:
        Images uint8, shape ``(N, 1, 28, 28)``.
    """
    return _FILES.read(split, download=download)

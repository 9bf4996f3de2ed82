"""Clothes of 28 by 28 pixels, 60,000 to train on and 10,000 to test."""

from __future__ import annotations

from alignlab.datasets._idx import IdxSet
from alignlab.datasets._samples import Arrays

__all__ = ["fashion_mnist"]

_FILES = IdxSet(
    name="fashion-mnist",
    folders=("fashion-mnist", "FashionMNIST/raw", "FashionMNIST", "fashion_mnist"),
    md5={
        "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
    },
)


def fashion_mnist(split: str, *, download: bool) -> Arrays:
    """Return a split of Fashion-MNIST from idx files, or from ``fashion-mnist.npz``.

    The publisher gives MD5s of the gzipped files only; plain ones are checked by their size.

    Source: Xiao, Rasul and Vollgraf 2017, arXiv 1708.07747.

    Args:
        split: ``"train"`` or ``"test"``.
        download: Whether missing files are fetched from ``ALIGNLAB_MIRROR``.

    Returns:
        Images uint8, shape ``(N, 1, 28, 28)``.
    """
    return _FILES.read(split, download=download)

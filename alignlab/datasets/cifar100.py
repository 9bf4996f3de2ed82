"""Colour images of 32 by 32 pixels in 100 classes, 50,000 to train on and 10,000 to test."""

from __future__ import annotations

from alignlab.datasets._cifar import CifarSet, Layout
from alignlab.datasets._samples import Arrays

__all__ = ["cifar100"]

_PICKLED = Layout(
    archive="cifar-100-python.tar.gz",
    md5="eb9058c3a382ffc7106e4002c42a8d85",
    folder="cifar-100-python",
    members={"train": ("train",), "test": ("test",)},
    member_md5={
        "train": "16019d7e3df5f24257cddd939b257f8d",
        "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
    },
    label_bytes=0,
)
_BINARY = Layout(
    archive="cifar-100-binary.tar.gz",
    md5="03b5dce01913d631647c71ecec9e9cb8",
    folder="cifar-100-binary",
    members={"train": ("train.bin",), "test": ("test.bin",)},
    member_md5={},
    label_bytes=2,
)
_FILES = CifarSet(
    name="cifar100",
    folders=("cifar100", "cifar-100", "CIFAR100"),
    layouts=(_BINARY, _PICKLED),
    n_classes=100,
)


def cifar100(split: str, *, download: bool) -> Arrays:
    """Return a split of CIFAR-100, fine labels, from a standard archive, its folder, or an npz.

    Source: Krizhevsky 2009, Learning multiple layers of features from tiny images.

    Args:
        split: ``"train"`` or ``"test"``.
        download: Whether a missing archive is fetched from ``ALIGNLAB_MIRROR``.

    Returns:
        Images uint8, shape ``(N, 3, 32, 32)``; a smaller npz says that it is a subset.
    """
    return _FILES.read(split, download=download)

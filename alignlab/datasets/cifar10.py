"""Colour images of 32 by 32 pixels in 10 classes, 50,000 to train on and 10,000 to test."""

from __future__ import annotations

from alignlab.datasets._cifar import CifarSet, Layout
from alignlab.datasets._samples import Arrays

__all__ = ["cifar10"]

_PICKLED = Layout(
    archive="cifar-10-python.tar.gz",
    md5="c58f30108f718f92721af3b95e74349a",
    folder="cifar-10-batches-py",
    members={
        "train": tuple(f"data_batch_{number}" for number in range(1, 6)),
        "test": ("test_batch",),
    },
    member_md5={
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
    },
    label_bytes=0,
)
_BINARY = Layout(
    archive="cifar-10-binary.tar.gz",
    md5="c32a1d4ab5d03f1284b67883e8d87530",
    folder="cifar-10-batches-bin",
    members={
        "train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
        "test": ("test_batch.bin",),
    },
    member_md5={},
    label_bytes=1,
)
_FILES = CifarSet(
    name="cifar10",
    folders=("cifar10", "cifar-10", "CIFAR10"),
    layouts=(_BINARY, _PICKLED),
    n_classes=10,
)


def cifar10(split: str, *, download: bool) -> Arrays:
    """Return a split of CIFAR-10 from a standard archive, its folder, or ``cifar10*.npz``.

    Source: Krizhevsky 2009, Learning multiple layers of features from tiny images.

    Args:
        split: ``"train"`` or ``"test"``.
        download: Whether a missing archive is fetched from ``ALIGNLAB_MIRROR``.

    Returns:
        Images uint8, shape ``(N, 3, 32, 32)``; a smaller npz says that it is a subset.
    """
    return _FILES.read(split, download=download)

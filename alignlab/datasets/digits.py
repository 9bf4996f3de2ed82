"""Digits of 8 by 8 pixels from scikit-learn, 1437 to train on and 360 to test."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.datasets import load_digits

from alignlab.datasets._samples import Arrays
from alignlab.datasets._select import stratified

__all__ = ["digits"]

_TEST_SIZE = 360
_SPLIT_SEED = 0


def digits(split: str, *, download: bool) -> Arrays:
    """Return a split of the digits, which is fixed once for all and keeps the classes' shares.

    Source: Alpaydin and Kaynak 1998, UCI Machine Learning Repository; scikit-learn's copy.

    Args:
        split: ``"train"`` or ``"test"``.
        download: Without effect.

    Returns:
        Images float32, 0..1 in steps of 1/16, shape ``(N, 1, 8, 8)``.
    """
    del download
    loaded: Any = load_digits()
    labels = np.asarray(loaded.target, dtype=np.int64)
    is_test = np.zeros(len(labels), dtype=bool)
    is_test[stratified(labels, _TEST_SIZE, seed=_SPLIT_SEED)] = True
    chosen = is_test if split == "test" else ~is_test
    images = (np.asarray(loaded.images, dtype=np.float32) / np.float32(16))[:, None]
    return Arrays(x=images[chosen], y=labels[chosen], n_classes=10, split=split)

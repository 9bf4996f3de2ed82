"""The standard data sets as they are published; skipped where ALIGNLAB_DATA lacks them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from alignlab.datasets import load

ROOT = Path(os.environ.get("ALIGNLAB_DATA") or "no-data-here")


def needs(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        not (ROOT / name).exists(), reason=f"needs {name} in the folder that ALIGNLAB_DATA names"
    )


@needs("mnist/t10k-images-idx3-ubyte.gz")
def test_the_test_split_of_mnist_has_its_published_class_counts() -> None:
    data = load("mnist", samples=None)
    assert data.name == "mnist[test n=10000]"
    assert data.class_counts == (980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009)
    assert data.x.mean().item() == pytest.approx(0.1325, abs=1e-4)


@needs("mnist/train-images-idx3-ubyte.gz")
def test_the_training_split_of_mnist_has_the_mean_and_sd_that_everybody_uses() -> None:
    data = load("mnist", split="train", samples=None)
    assert data.x.mean().item() == pytest.approx(0.1307, abs=1e-4)
    assert data.x.std().item() == pytest.approx(0.3081, abs=1e-4)


@needs("cifar10/cifar10_subset.npz")
def test_the_subset_of_cifar10_says_so() -> None:
    data = load("cifar10")
    assert data.name == "cifar10[subset test n=512 of 1000]"
    assert tuple(data.x.shape) == (512, 3, 32, 32)
    assert max(data.class_counts) - min(data.class_counts) <= 14


@needs("mnist1d/mnist1d.npz")
def test_mnist1d_is_whole() -> None:
    assert load("mnist1d", samples=None).name == "mnist1d[test n=1000]"
    assert load("mnist1d", split="train", samples=None).name == "mnist1d[train n=4000]"

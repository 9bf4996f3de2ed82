"""From a data SPEC to the samples that a model is measured on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alignlab import plugins
from alignlab.datasets._check import check
from alignlab.datasets._factory import read_factory
from alignlab.datasets._npz import read_npz
from alignlab.datasets._samples import Arrays, Samples
from alignlab.datasets._select import permutation, stratified
from alignlab.errors import InputError

__all__ = ["load"]


def load(
    spec: str,
    *,
    split: str = "test",
    samples: int | None = 512,
    seed: int = 0,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    download: bool = False,
) -> Samples:
    r"""Load a data set and choose the samples to measure on.

    Inputs are scaled to :math:`(x - \text{mean}) / \text{std}`, where uint8 first becomes 0..1.

    Args:
        spec: ``digits``, ``mnist``, ``fashion-mnist``, ``cifar10``, ``cifar100``, ``mnist1d`` (all
            but digits from the folder that ``ALIGNLAB_DATA`` names), ``npz:FILE`` or
            ``file.py:factory``.
        split: ``"train"`` or ``"test"``; without meaning for data that are not divided.
        samples: How many, in the proportions of the classes; all where there are fewer, or None.
        seed: Of the choice and the order, non-negative. The order is shuffled also where all are
            taken, so that a batch never holds one class only because the file is sorted.
        mean: One number, or one per channel (the second axis of the inputs), subtracted.
        std: One number, or one per channel, positive, divided by.
        download: Whether missing standard files are fetched from ``ALIGNLAB_MIRROR``.

    Returns:
        The samples, with a name that says what part of which data set they are.

    Raises:
        InputError: Data that cannot be measured on, or an argument that does not fit them.
        MissingError: No such data set or file; the text says where it was looked for.

    Example:
        >>> data = load("digits", samples=64)
        >>> data.name, data.x.shape, data.n_classes
        ('digits[test n=64 of 360]', torch.Size([64, 1, 8, 8]), 10)
    """
    if samples is not None and samples < 1:
        message = f"{samples} samples were asked for; ask for at least one."
        raise InputError(message)
    if seed < 0:
        message = f"The seed of the choice of samples is {seed}; it must not be negative."
        raise InputError(message)
    name, read = _read(spec, split, download=download)
    arrays = check(read, source=name)
    chosen = _choose(arrays, samples, seed)
    x = _scale(_tensor(arrays.x[chosen]), mean, std, source=name)
    y = torch.from_numpy(arrays.y[chosen])
    return Samples(
        x=x,
        y=y,
        name=arrays.describe(name, len(x)),
        hash=_hash(x, y),
        n_classes=arrays.n_classes,
        class_counts=_class_counts(y, arrays.n_classes),
    )


def _read(spec: str, split: str, *, download: bool) -> tuple[str, Arrays]:
    """Return the short name of a data SPEC and what it holds for the split."""
    if spec.startswith("npz:"):
        path = Path(spec.removeprefix("npz:"))
        return path.name, read_npz(path, split)
    if ":" in spec:
        return Path(spec).name, read_factory(spec, split)
    if spec.endswith((".npz", ".py")):
        form = f"npz:{spec}" if spec.endswith(".npz") else f"{spec}:factory"
        message = f"{spec!r} is a file and not the name of a data set; write {form}."
        raise InputError(message)
    reader = cast("Callable[..., object]", plugins.load("alignlab.datasets", spec))
    if split not in {"train", "test"}:
        message = f"{spec} has no split {split!r}; it has train and test."
        raise InputError(message)
    arrays = reader(split, download=download)
    if not isinstance(arrays, Arrays):
        message = f"The data set {spec!r} returned {type(arrays).__name__} instead of Arrays."
        raise InputError(message)
    return spec, arrays


def _choose(arrays: Arrays, samples: int | None, seed: int) -> NDArray[np.intp]:
    """Return the indices of the samples, shuffled; stratified where there is one label each."""
    available = len(arrays.x)
    size = available if samples is None else min(samples, available)
    if arrays.n_classes is None or arrays.y.ndim != 1:
        return permutation(available, seed)[:size]
    return stratified(arrays.y, size, seed=seed)


def _tensor(x: NDArray[Any]) -> Tensor:
    """Return inputs as a tensor, uint8 scaled to 0..1."""
    tensor = torch.from_numpy(x)
    return tensor.to(torch.float32) / 255 if tensor.dtype == torch.uint8 else tensor


def _scale(
    x: Tensor,
    mean: float | Sequence[float] | None,
    std: float | Sequence[float] | None,
    *,
    source: str,
) -> Tensor:
    """Return ``(x - mean) / std`` with scalars or one number per channel."""
    if mean is None and std is None:
        return x
    if not x.is_floating_point():
        message = f"{source}: inputs are tokens ({x.dtype}); mean and std have no meaning for them."
        raise InputError(message)
    shift = 0.0 if mean is None else _per_channel(mean, x, name="mean", source=source)
    scale = 1.0 if std is None else _per_channel(std, x, name="std", source=source)
    if std is not None and bool((torch.as_tensor(scale) <= 0).any()):
        message = f"{source}: std is {std}; it must be positive in every channel."
        raise InputError(message)
    return (x - shift) / scale


def _per_channel(value: float | Sequence[float], x: Tensor, *, name: str, source: str) -> Tensor:
    """Return numbers shaped to broadcast along the channels of ``x``, shape ``(c, 1, ...)``."""
    numbers = torch.as_tensor(value, dtype=torch.float32).reshape(-1)
    if numbers.numel() not in {1, x.shape[1]}:
        message = (
            f"{source}: {name} has {numbers.numel()} numbers and the inputs have {x.shape[1]} "
            "channels; give one number or one per channel."
        )
        raise InputError(message)
    if not bool(torch.isfinite(numbers).all()):
        message = f"{source}: {name} is {value}; it must be finite."
        raise InputError(message)
    return numbers.reshape(-1, *[1] * (x.ndim - 2))


def _hash(x: Tensor, y: Tensor) -> str:
    """Return the sha256 of the bytes of ``x`` followed by those of ``y``."""
    digest = hashlib.sha256()
    for tensor in (x, y):
        digest.update(np.ascontiguousarray(tensor.numpy()).data)
    return digest.hexdigest()


def _class_counts(y: Tensor, n_classes: int | None) -> tuple[int, ...]:
    """Return how many labels each class has; nothing for float targets."""
    if n_classes is None:
        return ()
    return tuple(torch.bincount(y.reshape(-1), minlength=n_classes).tolist())

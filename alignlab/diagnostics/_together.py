"""Work for many layers at once, and one way to the host for what they give."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from alignlab.kernels.cosines import wide

__all__ = ["fetched", "together"]

K = TypeVar("K", bound=Hashable)


def together(
    kernel: Callable[..., Tensor], rows: Mapping[K, tuple[Tensor, ...]]
) -> dict[K, Tensor]:
    """Apply a kernel to the tensors of many layers, once for all of equal shapes.

    Args:
        kernel: Takes tensors with a leading batch axis and returns one tensor with that axis.
        rows: What it is given, by layer (or any key).

    Returns:
        What it returns, by key, in the order of ``rows``.
    """
    groups: dict[tuple[object, ...], list[K]] = {}
    for key, tensors in rows.items():
        alike = tuple((tensor.shape, tensor.dtype, tensor.device) for tensor in tensors)
        groups.setdefault(alike, []).append(key)
    found: dict[K, Tensor] = {}
    for keys in groups.values():
        stacks = (torch.stack(each) for each in zip(*(rows[key] for key in keys), strict=True))
        found.update(zip(keys, kernel(*stacks).unbind(0), strict=True))
    return {key: found[key] for key in rows}


def fetched(tensors: Sequence[Tensor]) -> list[np.ndarray]:
    """Return tensors on the host, in float64, moved together.

    Args:
        tensors: Of any shapes, on any devices.

    Returns:
        Arrays of the same shapes, in the same order.
    """
    by_device: dict[torch.device, list[int]] = {}
    for number, tensor in enumerate(tensors):
        by_device.setdefault(tensor.device, []).append(number)
    found: dict[int, np.ndarray] = {}
    for numbers in by_device.values():
        line = torch.cat([wide(tensors[number].detach()).reshape(-1) for number in numbers])
        ends = np.cumsum([tensors[number].numel() for number in numbers])[:-1]
        parts = np.split(line.cpu().numpy(), ends)
        found.update(
            (number, part.reshape(tensors[number].shape))
            for number, part in zip(numbers, parts, strict=True)
        )
    return [found[number] for number in range(len(tensors))]

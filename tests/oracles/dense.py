"""The matrix that a layer is, written out entry by entry."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
from torch import nn

__all__ = ["free_entries", "output_shape", "unrolled"]


def paddings(module: Any) -> tuple[int, ...]:
    if module.padding == "valid":
        return tuple(0 for _ in module.kernel_size)
    if module.padding == "same":
        return tuple(
            d * (k - 1) // 2 for d, k in zip(module.dilation, module.kernel_size, strict=True)
        )
    return tuple(module.padding)


def output_shape(module: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of a layer's output for one input of a shape."""
    if isinstance(module, nn.Linear):
        return (*shape[:-1], module.out_features)
    if getattr(module, "transposed", False):
        spans = zip(
            *(shape[1:], module.padding, module.dilation, module.kernel_size, module.stride),
            module.output_padding,
            strict=True,
        )
        sizes_after = ((n - 1) * s - 2 * p + d * (k - 1) + o + 1 for n, p, d, k, s, o in spans)
        return (module.out_channels, *sizes_after)
    sizes = zip(
        *(shape[1:], paddings(module), module.dilation, module.kernel_size, module.stride),
        strict=True,
    )
    return (
        module.out_channels,
        *((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, p, d, k, s in sizes),
    )


def connections(module: Any, shape: tuple[int, ...]) -> Any:
    """Yield which weight entry joins which output unit to which input unit."""
    outer = output_shape(module, shape)
    if isinstance(module, nn.Linear):
        for place, out, inside in product(
            np.ndindex(*shape[:-1]), range(module.out_features), range(module.in_features)
        ):
            yield (out, inside), (*place, out), (*place, inside)
        return
    if module.transposed:
        yield from spread(module, shape, outer)
        return
    per_group = module.in_channels // module.groups
    outputs = module.out_channels // module.groups
    for out, inside in product(range(module.out_channels), range(per_group)):
        channel = out // outputs * per_group + inside
        for place, tap in product(np.ndindex(*outer[1:]), np.ndindex(*module.kernel_size)):
            where = tuple(
                o * s - p + t * d
                for o, s, p, t, d in zip(
                    place, module.stride, paddings(module), tap, module.dilation, strict=True
                )
            )
            if module.padding_mode == "circular":
                where = tuple(w % n for w, n in zip(where, shape[1:], strict=True))
            if all(0 <= w < n for w, n in zip(where, shape[1:], strict=True)):
                yield (out, inside, *tap), (out, *place), (channel, *where)


def spread(module: Any, shape: tuple[int, ...], outer: tuple[int, ...]) -> Any:
    """Yield the same of a transposed convolution: every input unit is spread over outputs."""
    per_group = module.out_channels // module.groups
    inputs = module.in_channels // module.groups
    for inside, out in product(range(module.in_channels), range(per_group)):
        channel = inside // inputs * per_group + out
        for place, tap in product(np.ndindex(*shape[1:]), np.ndindex(*module.kernel_size)):
            where = tuple(
                i * s - p + t * d
                for i, s, p, t, d in zip(
                    place, module.stride, module.padding, tap, module.dilation, strict=True
                )
            )
            if all(0 <= w < n for w, n in zip(where, outer[1:], strict=True)):
                yield (inside, out, *tap), (channel, *where), (inside, *place)


def unrolled(module: Any, weight: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return the matrix that takes a flat input of a shape to the flat output, without bias."""
    outer = output_shape(module, shape)
    matrix = np.zeros((int(np.prod(outer)), int(np.prod(shape))))
    for entry, above, below in connections(module, shape):
        row, column = np.ravel_multi_index(above, outer), np.ravel_multi_index(below, shape)
        matrix[row, column] += weight[entry]
    return matrix


def free_entries(module: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Return the unrolled matrix of every weight entry by itself, ``(n_weights, out * in)``."""
    weight = module.weight
    units = np.eye(weight.numel()).reshape(-1, *weight.shape)
    return np.stack([unrolled(module, unit, shape).ravel() for unit in units])

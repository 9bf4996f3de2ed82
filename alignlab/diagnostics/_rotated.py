"""Cosines of updates with gradients, against updates turned among the output units."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from alignlab.diagnostics._alignments import TRANSPOSED
from alignlab.diagnostics._base import Reading
from alignlab.diagnostics._chance import Chance, adjusted_statuses, chance_of, readings
from alignlab.diagnostics._together import fetched
from alignlab.feedback import generator
from alignlab.kernels.cosines import wide
from alignlab.kernels.rotation import LARGEST_TURNED, rotation_sd, turned_products

if TYPE_CHECKING:
    from alignlab.snapshot import Snapshot

__all__ = ["Pair", "alignment", "of_parameters", "of_weight", "rotated", "vector"]

Pair = tuple[Tensor, Tensor]
"""An update and the gradient that it is compared with, both as ``(n_outputs, n)``."""

K = TypeVar("K", bound=Hashable)


def of_weight(module: nn.Module, update: Tensor, gradient: Tensor) -> Pair:
    """Return a weight's update and gradient as matrices with a row for each output unit."""
    axis = 1 if isinstance(module, TRANSPOSED) else 0
    return _rows(update, axis), _rows(gradient, axis)


def of_parameters(
    model: nn.Module,
    names: Sequence[str],
    update: Mapping[str, Tensor],
    gradient: Mapping[str, Tensor],
) -> list[Pair]:
    """Return updates and gradients of parameters as matrices.

    Parameters of one module with as many rows are turned together, as weights and biases are.

    Args:
        model: The model.
        names: Of the parameters.
        update: By name.
        gradient: By name.
    """
    found: dict[tuple[str, int], list[Pair]] = {}
    for name in names:
        owner = name.rpartition(".")[0]
        is_turned = isinstance(model.get_submodule(owner), TRANSPOSED) and update[name].dim() > 1
        first, second = (_rows(each[name], int(is_turned)) for each in (update, gradient))
        found.setdefault((owner, len(first)), []).append((first, second.to(first.device)))
    return [
        (torch.cat([one for one, _ in pairs], 1), torch.cat([other for _, other in pairs], 1))
        for pairs in found.values()
    ]


def _rows(parameter: Tensor, axis: int) -> Tensor:
    if not parameter.dim():
        return wide(parameter).reshape(1, 1)
    return (
        wide(parameter).movedim(axis, 0).flatten(1)
        if parameter.dim() > 1
        else (wide(parameter)[:, None])
    )


def rotated(
    snapshot: Snapshot, pairs: Mapping[K, Sequence[Pair]], *, stream: str
) -> dict[K, tuple[float, Chance]]:
    """Return cosines with their chance level, each matrix turned by itself.

    The standard deviation is exact; the band is that of draws where a matrix has few rows.

    Args:
        snapshot: The probing; gives seed and number of draws.
        pairs: What is compared, by key.
        stream: Name of the stream of randomness.

    Returns:
        By key; NaN where one of both is zero.
    """
    sums = [
        _sums(snapshot, each, (stream, *map(str, key if isinstance(key, tuple) else (key,))))
        for key, each in pairs.items()
    ]
    found = {}
    for (key, each), row in zip(pairs.items(), fetched(sums), strict=True):
        is_normal = all(len(first) > LARGEST_TURNED for first, _ in each)
        found[key] = _judged(row, is_normal=is_normal)
    return found


def _sums(snapshot: Snapshot, pairs: Sequence[Pair], names: Sequence[str]) -> Tensor:
    """Return product, both energies, variance by chance and draws of all matrices together."""
    draws = generator(snapshot.seed, "rotation", *names)
    count = max(snapshot.draws, 2)
    total = torch.zeros(4 + count, dtype=torch.float64)
    for first, second in pairs:
        known = torch.stack(
            [
                (first * second).sum(),
                first.square().sum(),
                second.square().sum(),
                rotation_sd(first, second).square(),
            ]
        )
        turned = turned_products(first, second, count=count, stream=draws)
        total = total.to(first.device) + torch.cat([known, turned])
    return total


def _judged(row: np.ndarray, *, is_normal: bool) -> tuple[float, Chance]:
    product, energy, other, variance, *draws = row
    norm = np.sqrt(energy) * np.sqrt(other)
    if not norm > 0:
        norm = np.nan
    value = float(np.clip(product / norm, -1.0, 1.0))
    return value, chance_of(
        value,
        np.array(draws) / norm,
        kind="output_rotation",
        concentration=0.0,
        closed_form=float(np.sqrt(variance) / norm) if is_normal else np.nan,
    )


def alignment(name: str, rule: str, found: Mapping[str, tuple[float, Chance]]) -> Iterator[Reading]:
    """Yield an alignment of layers with its companions, statuses adjusted over the layers.

    Args:
        name: Variable.
        rule: Label of the rule; empty for none.
        found: Value and chance by layer; the layer "" is none.
    """
    values, chances = zip(*found.values(), strict=True) if found else ((), ())
    statuses = adjusted_statuses(values, chances, is_drawn=False)
    for layer, value, chance, status in zip(found, values, chances, statuses, strict=True):
        undefined = float(not np.isfinite(value))
        place = (rule, layer, "")
        yield from readings(name, value, chance, status, undefined=undefined, place=place)


def vector(
    name: str, rule: str, found: Sequence[Mapping[str, tuple[float, Chance]]]
) -> Iterator[Reading]:
    """Yield an alignment along one more dimension; see ``alignment``.

    Args:
        name: Variable.
        rule: Label of the rule; empty for none.
        found: What ``alignment`` takes, at every place along the dimension.
    """
    columns: dict[tuple[str, str], list[float | str]] = {}
    for each in found:
        for reading in alignment(name, rule, each):
            value = reading.value
            assert isinstance(value, float | str)
            columns.setdefault((reading.name, reading.layer), []).append(value)
    for (variable, layer), values in columns.items():
        kind = object if isinstance(values[0], str) else float
        yield Reading(variable, np.array(values, dtype=kind), rule, layer)

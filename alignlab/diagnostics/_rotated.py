"""Cosines of updates with gradients, against updates turned among the output units."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from alignlab.diagnostics._base import Reading
from alignlab.diagnostics._chance import Chance, adjusted_statuses, chance_of, readings
from alignlab.diagnostics._together import fetched
from alignlab.feedback import generator
from alignlab.kernels.cosines import wide
from alignlab.kernels.rotation import (
    LARGEST_TURNED,
    output_rows,
    rotation_sd,
    turned_products,
)

if TYPE_CHECKING:
    from alignlab.snapshot import Snapshot

__all__ = ["Judged", "Pair", "of_parameters", "of_weight", "rotated", "scalars", "vectors"]

Pair = tuple[Tensor, Tensor]
"""Updates and the gradients that they are compared with, each ``(n_places, n_outputs, n)``."""

Judged = tuple[float, Chance]
"""A cosine and its chance level."""


def of_weight(module: nn.Module, updates: Tensor, gradients: Tensor) -> Pair:
    """Return a weight's updates and gradients as matrices with a row for each output unit.

    Args:
        module: Whose weight it is.
        updates: Shape ``(n_places, *shape)``.
        gradients: Likewise.
    """
    return _rows(module, updates), _rows(module, gradients)


def of_parameters(
    model: nn.Module,
    names: Sequence[str],
    updates: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor],
) -> list[Pair]:
    """Return updates and gradients of parameters as matrices.

    Parameters of one module with as many rows are turned together, as weights and biases are.

    Args:
        model: The model.
        names: Of the parameters.
        updates: By name, shape ``(n_places, *shape)``.
        gradients: Likewise.
    """
    found: dict[tuple[str, int], list[Pair]] = {}
    for name in names:
        owner = name.rpartition(".")[0]
        module = model.get_submodule(owner)
        first, second = _rows(module, updates[name]), _rows(module, gradients[name])
        found.setdefault((owner, first.shape[1]), []).append((first, second.to(first.device)))
    return [
        (torch.cat([one for one, _ in pairs], 2), torch.cat([other for _, other in pairs], 2))
        for pairs in found.values()
    ]


def _rows(module: nn.Module, stacked: Tensor) -> Tensor:
    """Return a row for each entry of the first axis, of a weight for each output unit."""
    if stacked.dim() < 3:
        # Biases, scales of normalisations and single numbers.
        return wide(stacked).reshape(len(stacked), -1, 1)
    return torch.stack([output_rows(module, each).flatten(1) for each in wide(stacked)])


def rotated(
    snapshot: Snapshot, pairs: Mapping[str, Sequence[Pair]], *, stream: str
) -> tuple[dict[str, list[Judged]], list[Judged]]:
    """Return cosines with their chance level, each matrix turned by itself.

    The standard deviation is exact; the band is that of draws where a matrix has few rows.

    Args:
        snapshot: The probing; gives seed and number of draws.
        pairs: What is compared, by key; matrices of one key count as one vector.
        stream: Name of the stream of randomness.

    Returns:
        Those by key, at every place, and those of all keys together as one vector; NaN where one
        of both is zero.
    """
    sums = [_sums(snapshot, each, (stream, key)) for key, each in pairs.items()]
    rows = fetched(sums)
    normal = [all(first.shape[1] > LARGEST_TURNED for first, _ in each) for each in pairs.values()]
    found = {
        key: [_judged(row, is_normal=is_normal) for row in places]
        for key, places, is_normal in zip(pairs, rows, normal, strict=True)
    }
    together = [_judged(row, is_normal=all(normal)) for row in np.sum(rows, axis=0)] if rows else []
    return found, together


def _sums(snapshot: Snapshot, pairs: Sequence[Pair], names: Sequence[str]) -> Tensor:
    """Return product, both energies, variance by chance and draws of all matrices together."""
    draws = generator(snapshot.seed, "rotation", *names)
    parts = []
    for first, second in pairs:
        known = (
            (first * second).sum((1, 2)),
            first.square().sum((1, 2)),
            second.square().sum((1, 2)),
            rotation_sd(first, second).square(),
        )
        turned = turned_products(first, second, count=snapshot.draws, stream=draws)
        parts.append(torch.cat([torch.stack(known, 1), turned], 1))
    return torch.stack([part.to(parts[0].device) for part in parts]).sum(0)


def _judged(row: np.ndarray, *, is_normal: bool) -> Judged:
    product, energy, other, variance, *draws = row
    norm = np.sqrt(energy) * np.sqrt(other)
    if not norm > 0:
        norm = np.nan
    value = float(np.clip(product / norm, -1.0, 1.0))
    sd = float(np.sqrt(variance) / norm)
    chance = chance_of(
        value,
        np.array(draws) / norm,
        kind="output_rotation",
        concentration=0.0,
        closed_form=sd if is_normal else np.nan,
    )
    # Draws tell the band and the tail; their own spread is off by a share of 1 / sqrt(2 n).
    return value, replace(chance, sd=sd)


def scalars(name: str, rule: str, found: Mapping[str, Sequence[Judged]]) -> Iterator[Reading]:
    """Yield an alignment of one place with its companions, statuses adjusted over the layers.

    Args:
        name: Variable.
        rule: Label of the rule; empty for none.
        found: By layer; empty for none.
    """
    yield from _aligned(name, rule, {layer: each[0] for layer, each in found.items()})


def vectors(name: str, rule: str, found: Mapping[str, Sequence[Judged]]) -> Iterator[Reading]:
    """Yield an alignment along one more dimension, statuses adjusted over layers at each place.

    Args:
        name: Variable.
        rule: Label of the rule; empty for none.
        found: By layer, empty for none.
    """
    columns: dict[tuple[str, str], list[float | str]] = {}
    for place in range(max(map(len, found.values()), default=0)):
        here = {layer: each[place] for layer, each in found.items()}
        for reading in _aligned(name, rule, here):
            assert isinstance(reading.value, float | str)
            columns.setdefault((reading.name, reading.layer), []).append(reading.value)
    for (variable, layer), values in columns.items():
        kind = object if isinstance(values[0], str) else float
        yield Reading(variable, np.array(values, dtype=kind), rule, layer)


def _aligned(name: str, rule: str, found: Mapping[str, Judged]) -> Iterator[Reading]:
    values = [value for value, _ in found.values()]
    chances = [chance for _, chance in found.values()]
    statuses = adjusted_statuses(values, chances, is_drawn=False)
    for layer, value, chance, status in zip(found, values, chances, statuses, strict=True):
        undefined = float(not np.isfinite(value))
        place = (rule, layer, "")
        yield from readings(name, value, chance, status, undefined=undefined, place=place)

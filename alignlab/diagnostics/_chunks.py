"""Weight gradients over disjoint chunks of the batch, as far as their inner products go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from alignlab.engine.updates import Updates
from alignlab.feedback import generator
from alignlab.kernels.chunks import chunk_gram
from alignlab.sites import Layer
from alignlab.snapshot import Snapshot

__all__ = ["CHUNKS", "ChunkGrams", "chunk_grams", "why_not"]

CHUNKS = 8
"""Into how many chunks a batch is split; a smaller batch into its samples."""


@dataclass(frozen=True)
class ChunkGrams:
    """Inner products of the weight gradients of disjoint chunks.

    Attributes:
        count: How many chunks, K.
        samples: Samples of each.
        true: Of true gradients by layer, shape ``(K, K)``; each chunk's gradient is in the unit of
            that of the whole batch.
        approximate: Of the rules whose updates are products of signal and input, by label.
    """

    count: int
    samples: int
    true: Mapping[str, Tensor]
    approximate: Mapping[str, Mapping[str, Tensor]]


def chunk_grams(snapshot: Snapshot) -> ChunkGrams:
    """Return the inner products of chunk gradients; made once by ``snapshot.shared``.

    Chunks are drawn at random from the seed of the snapshot; samples that are left over belong to
    none. For fewer than two samples there is nothing.
    """
    n_samples = snapshot.capture.n_samples
    count = min(CHUNKS, n_samples)
    if count < 2:
        return ChunkGrams(count, 1, {}, {m.label: {} for m in snapshot.rules})
    size = n_samples // count
    stream = generator(snapshot.seed, "chunks")
    chosen = torch.randperm(n_samples, generator=stream)[: count * size]

    def of(updates: Updates) -> dict[str, Tensor]:
        return {
            layer.name: _gram(snapshot, layer, updates, chosen, count)
            for layer in snapshot.layers
            if not why_not(snapshot, layer)
        }

    rules = {
        measured.label: of(snapshot.passes[measured.label]) if snapshot.is_local(measured) else {}
        for measured in snapshot.rules
    }
    return ChunkGrams(count, size, of(snapshot.true), rules)


def why_not(snapshot: Snapshot, layer: Layer) -> str:
    """Return why the weight of a layer has no gradients of chunks; empty where it has."""
    if snapshot.capture.n_samples < 2:
        return "one sample has no disjoint parts"
    weight = snapshot.capture.module_of(layer)._parameters.get("weight")
    if weight is not None and not weight.requires_grad:
        return "its weight does not learn"
    return ""


def _gram(snapshot: Snapshot, layer: Layer, updates: Updates, chosen: Tensor, count: int) -> Tensor:
    signal = updates.preactivation[layer.name]
    x = snapshot.capture.input_of(layer)
    order = chosen.to(signal.device)
    parts = [each[order].unflatten(0, (count, -1)) for each in (x, signal)]
    share = signal.shape[0] * count / len(chosen)
    return chunk_gram(snapshot.capture.module_of(layer), *parts) * share**2

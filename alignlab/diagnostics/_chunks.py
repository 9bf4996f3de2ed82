"""Weight gradients over disjoint chunks of the batch, as far as their inner products go."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from alignlab.engine.updates import Updates
from alignlab.feedback import generator
from alignlab.kernels.chunks import chunk_gram
from alignlab.sites import Layer
from alignlab.snapshot import Snapshot

__all__ = ["Chunks", "chunks_of", "grams_of", "true_grams", "why_not"]

CHUNKS = 8
"""Into how many chunks a batch is split; a smaller batch into its samples."""


@dataclass(frozen=True)
class Chunks:
    """Disjoint chunks of a batch.

    Attributes:
        chosen: Numbers of their samples, shape ``(count, samples)``; those left over are in none.
    """

    chosen: Tensor

    @property
    def count(self) -> int:
        """How many chunks, K."""
        return self.chosen.shape[0]

    @property
    def samples(self) -> int:
        """Samples of each."""
        return self.chosen.shape[1]


def chunks_of(snapshot: Snapshot) -> Chunks:
    """Return chunks that are drawn at random from the seed of the snapshot."""
    n_samples = snapshot.capture.n_samples
    count = min(CHUNKS, n_samples)
    stream = generator(snapshot.seed, "chunks")
    order = torch.randperm(n_samples, generator=stream)[: count * (n_samples // count)]
    return Chunks(order.reshape(count, -1))


def true_grams(snapshot: Snapshot) -> dict[str, Tensor]:
    """Return inner products of the chunks' true weight gradients; for ``snapshot.shared``.

    Returns:
        By layer, shape ``(K, K)``, each chunk's gradient in the unit of that of the whole batch;
        without the layers of which ``why_not`` tells.
    """
    return grams_of(snapshot, snapshot.true)


def grams_of(snapshot: Snapshot, updates: Updates) -> dict[str, Tensor]:
    """Return inner products of the weight gradients that signals give; see ``true_grams``."""
    chunks = chunks_of(snapshot)
    return {
        layer.name: _gram(snapshot, layer, updates, chunks)
        for layer in snapshot.layers
        if not why_not(snapshot, layer)
    }


def why_not(snapshot: Snapshot, layer: Layer) -> str:
    """Return why the weight of a layer has no gradients of chunks; empty where it has."""
    if snapshot.capture.n_samples < 2:
        return "one sample has no disjoint parts"
    weight = snapshot.capture.module_of(layer)._parameters.get("weight")
    if weight is not None and not weight.requires_grad:
        return "its weight does not learn"
    return ""


def _gram(snapshot: Snapshot, layer: Layer, updates: Updates, chunks: Chunks) -> Tensor:
    signal, x = updates.preactivation[layer.name], snapshot.capture.input_of(layer)
    order = chunks.chosen.flatten().to(signal.device)
    shape = (chunks.count, chunks.samples)
    parts = [each[order].unflatten(0, shape) for each in (x, signal)]
    share = signal.shape[0] / chunks.samples
    return chunk_gram(snapshot.capture.module_of(layer), *parts) * share**2

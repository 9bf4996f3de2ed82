"""Direct feedback below and above each layer, and the linear path to the output."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from alignlab.kernels.cosines import wide
from alignlab.kernels.layers import transposed

if TYPE_CHECKING:
    from alignlab.sites import Layer
    from alignlab.snapshot import Snapshot

__all__ = ["Pair", "at_entries", "direct_pairs", "error_space", "path"]


@dataclass(frozen=True)
class Pair:
    """A layer between two feedback matrices.

    Attributes:
        layer: The layer.
        below: Feedback at its input, one input per error, shape ``(n_errors, *input_shape)``.
        above: Feedback at its entry in the shape of its output,
            ``(n_errors, *shape)``; None for the output layer.
    """

    layer: Layer
    below: Tensor
    above: Tensor | None


def at_entries(snapshot: Snapshot, feedback: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the feedback that acts at every layer's entry.

    Layers that share an entry share the feedback, which is kept under one of their names.
    """
    by_consumer = {
        layer.consumer: feedback[layer.name] for layer in snapshot.hidden if layer.name in feedback
    }
    return {
        layer.name: by_consumer[layer.consumer]
        for layer in snapshot.hidden
        if layer.consumer in by_consumer
    }


def direct_pairs(snapshot: Snapshot, feedback: Mapping[str, Tensor]) -> Iterator[Pair]:
    """Yield the layers that have feedback on both sides, of the sizes of their weights.

    A layer whose output is pooled before the entry has no feedback of its own size and
    is left out, as is the first layer, which has none below. Of several output layers none
    has the whole error above it, and all are left out.
    """
    has_one_output = len(snapshot.capture.layout.outputs) == 1
    entries = at_entries(snapshot, feedback)
    at_input = {
        layer.consumer: entries[layer.name] for layer in snapshot.hidden if layer.name in entries
    }
    for layer in snapshot.layers:
        below = at_input.get(layer.name)
        if below is None:
            continue
        if layer.is_output:
            if has_one_output:
                yield Pair(layer, below, None)
        elif layer.name in entries and layer.entry_width == layer.width:
            above = entries[layer.name]
            yield Pair(layer, below, above.reshape(above.shape[0], *layer.shape))


def error_space(errors: Tensor) -> Tensor:
    """Return an orthonormal basis of the directions that the errors occupy.

    Args:
        errors: Shape ``(n_samples, n_errors)``.

    Returns:
        Shape ``(n_errors, r)``, float64: eigenvectors of E^T E whose eigenvalue exceeds
        1e-6 of the largest. For a softmax r is at most ``n_errors - 1``; for errors that
        are all zero it is 0.
    """
    matrix = wide(errors)
    matrix = matrix / matrix.abs().amax().clamp_min(torch.finfo(torch.float64).tiny)
    values, vectors = torch.linalg.eigh(matrix.T @ matrix)
    result: Tensor = vectors[:, values > 1e-6 * values.amax()].flip(1)
    return result


def path(snapshot: Snapshot, layer: Layer) -> Tensor | None:
    """Return the product of the forward weights from a layer's entry to the output.

    Args:
        snapshot: The probing.
        layer: Any hidden layer.

    Returns:
        Shape ``(n_errors, entry_width)``, float64: row c is what a unit error of output c
        becomes at the entry without nonlinearities; None where sizes change on the way or a
        shortcut leads around a layer.
    """
    by_name = {each.name: each for each in snapshot.layers}
    chain = []
    current = layer
    while not current.is_output:
        if current is not layer and current.width != current.entry_width:
            return None
        if not snapshot.capture.layout.has_one_reader(current):
            return None
        current = by_name[current.consumer]
        chain.append(current)
    n = snapshot.capture.n_errors
    signal = torch.eye(n, dtype=torch.float64, device=snapshot.error.device)
    signal = signal[:, snapshot.capture.layout.errors_of(current)]
    weights = snapshot.capture.module_weights()
    for each in reversed(chain):
        shape = torch.Size((n, *snapshot.capture.input_of(each).shape[1:]))
        signal = signal.reshape(n, *each.shape)
        module = snapshot.capture.module_of(each)
        signal = transposed(module, signal, wide(weights[each.module]), shape)
    assert prod(signal.shape[1:]) == layer.entry_width
    return signal.reshape(n, -1)

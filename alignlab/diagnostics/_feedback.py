"""Direct feedback below and above each layer, and the linear path to the output."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from alignlab.feedback import Feedback, as_tensor
from alignlab.kernels.cosines import wide
from alignlab.kernels.layers import transposed

if TYPE_CHECKING:
    from alignlab.sites import Layer
    from alignlab.snapshot import Snapshot

__all__ = [
    "MOST_ERRORS",
    "Pair",
    "at_entries",
    "direct_pairs",
    "error_space",
    "matrices_at_entries",
    "path",
]

MOST_ERRORS = 4096
"""Entries of the error above which nothing is read from the feedback matrices themselves.

Products of two of them would have as many rows and columns as there are errors.
"""

LARGEST_WRITTEN = 2**24
"""Entries up to which feedback that is not held as a tensor is written out to be read."""

_SMALL_SPACE = 1024


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


def at_entries(snapshot: Snapshot, feedback: Mapping[str, Feedback]) -> dict[str, Feedback]:
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


def matrices_at_entries(snapshot: Snapshot, feedback: Mapping[str, Feedback]) -> dict[str, Tensor]:
    """Return the feedback at every layer's entry as matrices, where they can be had.

    There are none for more than ``MOST_ERRORS`` errors, and none for feedback that is held as
    factors, as a seed or per position and has more than ``LARGEST_WRITTEN`` entries: what reads
    them is undefined there.
    """
    if snapshot.capture.n_errors > MOST_ERRORS:
        return {}
    written: dict[int, Tensor] = {}
    result = {}
    for name, held in at_entries(snapshot, feedback).items():
        if isinstance(held, Tensor) or prod(held.shape) <= LARGEST_WRITTEN:
            if id(held) not in written:
                written[id(held)] = as_tensor(held)
            result[name] = written[id(held)]
    return result


def direct_pairs(snapshot: Snapshot, feedback: Mapping[str, Feedback]) -> Iterator[Pair]:
    """Yield the layers that have feedback on both sides, of the sizes of their weights.

    A layer whose output is pooled before the entry has no feedback of its own size and
    is left out, as is the first layer, which has none below, and every layer whose feedback
    has no matrix (``matrices_at_entries``). Of several output layers none has the whole error
    above it, and all are left out.
    """
    has_one_output = len(snapshot.capture.layout.outputs) == 1
    entries = matrices_at_entries(snapshot, feedback)
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
    if matrix.shape[1] <= max(matrix.shape[0], _SMALL_SPACE):
        values, vectors = torch.linalg.eigh(matrix.T @ matrix)
        result: Tensor = vectors[:, values > 1e-6 * values.amax()].flip(1)
        return result
    # The same vectors from the samples' side, which for many errors is far the smaller.
    values, samples = torch.linalg.eigh(matrix @ matrix.T)
    kept = values > 1e-6 * values.amax()
    basis: Tensor = matrix.T @ (samples[:, kept] / values[kept].sqrt())
    return basis.flip(1)


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

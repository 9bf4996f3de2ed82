"""Direct feedback below and above each layer, and the linear path to the output."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
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
    "paths",
    "unpaired",
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
    above it, and all are left out; so are convolutions whose unrolled matrix holds sums of weights.
    """
    has_one_output = len(snapshot.capture.layout.outputs) == 1
    entries = matrices_at_entries(snapshot, feedback)
    at_input = {
        layer.consumer: entries[layer.name] for layer in snapshot.hidden if layer.name in entries
    }
    for layer in snapshot.layers:
        below = at_input.get(layer.name)
        if below is None or not _keeps_weights_apart(snapshot, layer):
            continue
        below = below.reshape(len(below), *snapshot.capture.input_of(layer).shape[1:])
        if layer.is_output:
            if has_one_output:
                yield Pair(layer, below, None)
        elif layer.name in entries and layer.entry_width == layer.width:
            above = entries[layer.name]
            yield Pair(layer, below, above.reshape(above.shape[0], *layer.shape))


def _keeps_weights_apart(snapshot: Snapshot, layer: Layer) -> bool:
    """Return whether every entry of a layer's unrolled matrix is one weight, or zero.

    Where borders are reflected or repeated, or a circular one is shorter than the kernel, it
    holds sums of weights.
    """
    module = snapshot.capture.module_of(layer)
    mode = getattr(module, "padding_mode", "zeros")
    if mode != "circular":
        return bool(mode == "zeros")
    sizes = snapshot.capture.input_of(layer).shape[2:]
    spans = zip(module.kernel_size, module.dilation, sizes, strict=True)  # type: ignore[arg-type]
    return all(step * (taps - 1) < size for taps, step, size in spans)


def unpaired(snapshot: Snapshot, feedback: Mapping[str, Feedback]) -> dict[str, str]:
    """Return why layers have no feedback on both sides, of the sizes of their weights: clauses."""
    if snapshot.capture.n_errors > MOST_ERRORS:
        because = f"feedback matrices of more than {MOST_ERRORS} errors are not multiplied"
        return {layer.name: because for layer in snapshot.layers}
    acting, written = (
        at_entries(snapshot, feedback),
        set(matrices_at_entries(snapshot, feedback)),
    )
    below = {layer.consumer: layer.name for layer in snapshot.hidden}
    paired = {pair.layer.name for pair in direct_pairs(snapshot, feedback)}
    found = {}
    for layer in snapshot.layers:
        lower = below.get(layer.name)
        if layer.name in paired:
            continue
        if lower is None:
            found[layer.name] = "no layer lies below it, so that no feedback acts at its input"
        elif lower not in acting or not (layer.is_output or layer.name in acting):
            found[layer.name] = "no feedback enters at its input or at its entry"
        elif lower not in written or not (layer.is_output or layer.name in written):
            found[layer.name] = (
                f"its feedback would be written out with more than {LARGEST_WRITTEN:,} entries"
            )
        elif not _keeps_weights_apart(snapshot, layer):
            found[layer.name] = "at its borders several of its weights act on one input"
        elif layer.is_output:
            found[layer.name] = "it is one of several outputs, each with a part of the error"
        else:
            found[layer.name] = "its output changes in size before the feedback above enters"
    return found


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


def paths(
    snapshot: Snapshot, weights: Mapping[str, Tensor], *, only: Collection[str] | None = None
) -> dict[str, Tensor]:
    """Return the products of weights from the entries to the output, without nonlinearities.

    Args:
        snapshot: The probing.
        weights: By name of the module: the forward weights, or those that act backwards.
        only: Names of the layers that are wanted; None for all.

    Returns:
        By layer, shape ``(n_errors, entry_width)``, float64: row c is what a unit error of output
        c becomes at the entry. Layers from which sizes change on the way, or around one of
        whose readers a shortcut leads, are left out, and all of them for more than
        ``MOST_ERRORS`` errors.
    """
    capture = snapshot.capture
    if capture.n_errors > MOST_ERRORS:
        return {}
    by_name = {each.name: each for each in snapshot.layers}
    found: dict[str, Tensor | None] = {}

    def at_input(layer: Layer) -> Tensor | None:
        """Return what unit errors are at the input of a layer."""
        if layer.name in found:
            return found[layer.name]
        n = capture.n_errors
        if layer.is_output:
            whole = torch.eye(n, dtype=torch.float64, device=snapshot.error.device)
            signal: Tensor | None = whole[:, capture.layout.errors_of(layer)]
        else:
            signal = at_entry(layer) if layer.width == layer.entry_width else None
        if signal is not None:
            shape = torch.Size((n, *capture.input_of(layer).shape[1:]))
            module, weight = capture.module_of(layer), wide(weights[layer.module])
            signal = transposed(module, signal.reshape(n, *layer.shape), weight, shape)
            signal = signal.reshape(n, -1)
        found[layer.name] = signal
        return signal

    def at_entry(layer: Layer) -> Tensor | None:
        one_reader = capture.layout.has_one_reader(layer)
        return at_input(by_name[layer.consumer]) if one_reader else None

    wanted = [each for each in snapshot.hidden if only is None or each.name in only]
    result = {layer.name: at_entry(layer) for layer in wanted}
    return {name: each for name, each in result.items() if each is not None}

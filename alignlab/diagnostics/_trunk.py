"""What runs along the trunk of a network, normalisations aside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from alignlab.engine.graph import reaches, walk

if TYPE_CHECKING:
    from alignlab.engine.capture import Capture
    from alignlab.sites import Layer

__all__ = ["stream_at"]

_OVER_UNITS = ("NativeLayerNormBackward", "NativeGroupNormBackward", "FusedRmsNormBackward")
_NORMALISATIONS = (*_OVER_UNITS, "NativeBatchNormBackward", "CudnnBatchNormBackward")


def stream_at(capture: Capture, layer: Layer) -> Tensor | None:
    """Return what runs along the trunk at a layer's entry.

    Where every path to the loss passes the entry, it is the entry, or, where that is the output
    of a normalisation over units, what this reads. Where a shortcut leads around the entry, it is
    what the shortcut carries, if a normalisation at the start of the branch reads that.

    Args:
        capture: Any forward pass.
        layer: Any hidden layer.

    Returns:
        Detached, shape ``(n_samples, ...)``; None where the entry lies inside a branch.
    """
    layout = capture.layout
    consumer = next(each for each in capture.layers if each.name == layer.consumer)
    segment = layout.segment_of(layer)
    entry = layout.entry_edge(segment).node
    if layout.is_trunk(layer):
        read = _read_by(entry) if entry.name().startswith(_OVER_UNITS) else None
        return capture.input_of(consumer) if read is None else read
    start, first = capture.loss.grad_fn, layout.calls[0].output_edge.node
    stops = layout.ends_below(segment)
    for node in walk(entry, stops):
        if node in stops or not node.name().startswith(_NORMALISATIONS):
            continue
        below = node.next_functions[0][0]
        if below is not None and (below is first or not reaches(start, first, {below})):
            return _read_by(node)
    return None


def _read_by(node: Any) -> Tensor | None:
    """Return what a normalisation was given; None where it has not kept it."""
    found = getattr(node, "_saved_input", None)
    return found.detach() if isinstance(found, Tensor) else None

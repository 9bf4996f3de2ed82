"""The derivative of the activation that stands behind a layer, sample by sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from alignlab.engine.graph import walk
from alignlab.kernels.cosines import flat, wide

if TYPE_CHECKING:
    from alignlab.engine.capture import Capture
    from alignlab.sites import Layer

__all__ = ["Gate", "gate_of"]

_LARGEST: Mapping[str, float | Callable[[Any], float]] = {
    "ReluBackward0": 1.0,
    "TanhBackward0": 1.0,
    "SigmoidBackward0": 0.25,
    "HardtanhBackward0": 1.0,
    "HardsigmoidBackward0": 1.0 / 6.0,
    "LeakyReluBackward0": lambda node: max(1.0, abs(node._saved_negative_slope)),
    "EluBackward0": lambda node: (
        node._saved_scale * max(1.0, abs(node._saved_alpha * node._saved_input_scale))
    ),
    "SoftplusBackward0": 1.0,
    "LogSigmoidBackward0": 1.0,
    "ThresholdBackward0": 1.0,
    "HardswishBackward0": 1.5,
    "GeluBackward0": 1.1289,
    "SiluBackward0": 1.0998,
    "MishBackward0": 1.0885,
}
"""Largest derivative of each activation, by the name of its autograd node."""

_PASSIVE = (
    *("Add", "Sub", "Neg", "Cat", "Stack", "Mean", "Sum"),
    *("View", "UnsafeView", "ReshapeAlias", "Alias", "Clone", "ToCopy", "Expand", "Copy"),
    *("Transpose", "Permute", "T", "Squeeze", "Unsqueeze", "Slice", "Select", "Split", "Unbind"),
    *("AvgPool", "AdaptiveAvgPool", "MaxPool", "AdaptiveMaxPool", "ConstantPadNd"),
    *("NativeBatchNorm", "NativeLayerNorm", "NativeGroupNorm", "CudnnBatchNorm"),
    *("NativeDropout", "FusedRmsNorm"),
)
"""Operations that are no activation, by the beginnings of the names of their nodes."""

_FACTORS = ("MulBackward", "DivBackward")
_SAME = 1e-3


@dataclass(frozen=True)
class Gate:
    """The gates of one layer.

    Attributes:
        values: Derivatives of the activation, or gains of the local map, ``(n_samples, n)``.
        largest: The largest size that the activation allows; None where it is not known.
        mismatch: Share of the local map that is no gain per unit, scalar; None where the gate
            is that of one activation.
        precision: Rounding of the passes that the mismatch comes from.
    """

    values: Tensor
    largest: float | None
    mismatch: Tensor | None
    precision: float = 0.0

    @property
    def reference(self) -> Tensor:
        """What a gate is held against: the largest possible, else the unit's own largest."""
        if self.largest is not None:
            return torch.full_like(self.values[:1], self.largest)
        return self.values.abs().amax(0, keepdim=True)

    def is_defined(self, mismatch: float) -> bool:
        """Return whether the local map is a gain per unit, of the fetched mismatch."""
        return mismatch <= max(_SAME, 16.0 * self.precision)


def gate_of(capture: Capture, layer: Layer) -> Gate:
    """Return the gates between a layer and its entry.

    Where every way from the one to the other passes one activation, and else operations that are
    none, it is the derivative of that activation; elsewhere the gains of the local backward map.

    Args:
        capture: Any forward pass.
        layer: Any hidden layer.
    """
    node = _activation(capture, layer)
    if node is not None:
        largest = _LARGEST[node.name()]
        return Gate(
            flat(_derivative(node)),
            largest if isinstance(largest, float) else largest(node),
            None,
        )
    return _gains(capture, layer)


def _activation(capture: Capture, layer: Layer) -> Any | None:
    """Return the node of the one activation between a layer and its entry, or None."""
    layout = capture.layout
    segment = layout.segment_of(layer)
    entry, target = layout.entry_edge(segment).node, layout.call(layer).output_edge.node
    if entry is target:
        return None
    stops = layout.ends_below(segment) | {target}
    between = [
        node for node in walk(entry, stops) if node not in stops and _leads(node, target, stops)
    ]
    found = [node for node in between if node.name() in _LARGEST]
    if len(found) != 1 or not all(_is_passive(node) for node in between if node is not found[0]):
        return None
    has_way_around = found[0] is not entry and _leads(entry, target, stops | {found[0]})
    return None if has_way_around else found[0]


def _leads(start: Any, target: Any, stops: set[Any]) -> bool:
    """Return whether a way leads from a node to another that passes no stop."""
    return any(node is target for node in walk(start, stops))


def _is_passive(node: Any) -> bool:
    """Return whether an operation hands gradients on without being an activation."""
    name = node.name()
    if name.startswith(_FACTORS):
        return sum(following is not None for following, _ in node.next_functions) == 1
    return any(name.startswith(f"{each}Backward") or _of_size(name, each) for each in _PASSIVE)


def _of_size(name: str, beginning: str) -> bool:
    """Return whether a name is that of an operation in a number of dimensions."""
    rest = name.removeprefix(beginning)
    return rest != name and rest[:1].isdigit()


def _derivative(node: Any) -> Tensor:
    """Return what an elementwise node multiplies gradients by."""
    (metadata,) = node._input_metadata
    ones = torch.ones(tuple(metadata.shape), dtype=metadata.dtype, device=metadata.device)
    following, number = node.next_functions[0]
    (found,) = torch.autograd.grad(
        [GradientEdge(node, 0)],
        [GradientEdge(following, number)],
        grad_outputs=[ones],
        retain_graph=True,
    )
    return found


def _gains(capture: Capture, layer: Layer) -> Gate:
    r"""Return what each unit takes of the one entry unit that it hands on to.

    With V the local backward map, :math:`(Vz)^2 = V1 \odot V(z^2)` for every z just where each row
    of V has at most one entry; then V1 is those entries.
    """
    layout = capture.layout
    segment = layout.segment_of(layer)
    shape, kind = layout.entry_shape(segment), layout.entry_type(segment)
    ones = torch.ones(shape, dtype=kind, device=capture.input_of(layer).device)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(ones)
    gains, image, second = (
        wide(capture.to_preactivation(layer, each)) for each in (ones, noise, noise.square())
    )
    square = image.square()
    size = square.norm()
    mismatch = (square - gains * second).norm() / torch.where(size > 0, size, 1.0)
    return Gate(flat(gains), None, mismatch, precision=float(torch.finfo(kind).eps))

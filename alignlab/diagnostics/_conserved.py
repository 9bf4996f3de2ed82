"""Which conservation law holds between a layer and the next, and its two terms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from alignlab.diagnostics._feedback import matrices_at_entries
from alignlab.diagnostics._together import fetched
from alignlab.errors import MeasurementError
from alignlab.kernels.conservation import matrix_terms, unit_terms
from alignlab.kernels.cosines import wide
from alignlab.rules._base import DirectRule, ReplacedWeightRule

if TYPE_CHECKING:
    from alignlab.sites import Layer
    from alignlab.snapshot import MeasuredRule, Snapshot

__all__ = ["MATRIX", "UNITS", "State", "feedback_between", "laws", "refused_rule", "terms"]

MATRIX, UNITS = "matrix", "units"
"""What is conserved: a matrix of units by units, or one number for every unit."""

_SAME = 1e-4
"""Relative defect up to which products agree: well above the rounding of float32."""

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class State:
    """Weights by module, and biases by module where there are any."""

    weights: Mapping[str, Tensor]
    biases: Mapping[str, Tensor]


def refused_rule(measured: MeasuredRule) -> str:
    """Return why nothing is conserved under a rule, a clause; empty where something can be."""
    rule = measured.rule
    if not isinstance(rule, (DirectRule, ReplacedWeightRule)):
        return "the rule has no feedback in the place of weights"
    if rule.is_derived or rule.learns:
        return "the feedback of the rule changes with the training"
    if measured.is_drawn:
        return "the feedback is not that of the training, but drawn for this analysis"
    if isinstance(rule, DirectRule) and not rule.sends_true_error:
        return "hidden layers are sent something else than the error of the output layer"
    if isinstance(rule, DirectRule) and rule.granularity != "micro":
        return "feedback does not enter at every layer"
    return ""


def laws(snapshot: Snapshot, measured: MeasuredRule) -> dict[str, str]:
    """Return by hidden layer ``MATRIX`` or ``UNITS``, or why neither law holds, a clause.

    What lies between pre-activation and entry is tested on the batch: with random signals s at
    the entry, V s and the pre-activation must have the products by units that s and the entry
    have. All of them for the matrix; each unit with itself for units, which is Euler's identity
    of what is positively homogeneous.
    """
    found, defects = {}, {}
    by_name = {layer.name: layer for layer in snapshot.layers}
    for layer in snapshot.hidden:
        consumer = by_name[layer.consumer]
        because = _structure(snapshot, layer, consumer)
        if not because:
            try:
                defects[layer.name] = _defects(snapshot, measured, layer, consumer)
            except MeasurementError:
                because = "what lies above it has no derivative of its own"
        found[layer.name] = because
    for name, numbers in zip(defects, fetched(list(defects.values())), strict=True):
        of_matrix, of_units, of_map, of_feedback = (bool(each <= _SAME) for each in numbers)
        layer = by_name[name]
        grouped = any(
            getattr(snapshot.capture.module_of(each), "groups", 1) > 1
            for each in (layer, by_name[layer.consumer])
        )
        if not of_map:
            found[name] = "the rule's signal does not pass the layer's own backward map"
        elif not of_feedback:
            found[name] = (
                f"its signal is not one matrix times that of {layer.consumer!r}, as it is under "
                "direct feedback below the output and linear layers with a unit for every error"
            )
        elif of_matrix and not grouped:
            found[name] = MATRIX
        elif of_units:
            found[name] = UNITS
        else:
            found[name] = (
                f"what lies between it and {layer.consumer!r} is not positively homogeneous of "
                "each unit's own pre-activation (as ReLU is, and tanh and normalisation are not)"
            )
    return found


def _structure(snapshot: Snapshot, layer: Layer, consumer: Layer) -> str:
    """Return what forbids both laws, a clause."""
    layout = snapshot.capture.layout
    calls = Counter(each.module for each in snapshot.layers)
    if calls[layer.module] > 1 or calls[consumer.module] > 1:
        return "a layer is called more than once"
    if len(layout.segment_of(layer).members) > 1 or not layout.has_one_reader(layer):
        return "its entry also belongs to other layers"
    if len(layer.entry_shape) == 0 or layer.entry_width % layer.channels:
        return "its entry does not hold its units"
    return _parameters(snapshot, layer, consumer)


def _parameters(snapshot: Snapshot, layer: Layer, consumer: Layer) -> str:
    """Return what forbids both laws by the parameters, a clause."""
    uses = Counter(id(p) for each in snapshot.layers for p in [_parameter(snapshot, each)])
    for each in (layer, consumer):
        module, weight = snapshot.capture.module_of(each), _parameter(snapshot, each)
        if weight is None or uses[id(weight)] > 1:
            return f"the weight of {each.name!r} is computed or shared and no parameter of its own"
        bias = module._parameters.get("bias") if each is layer else None
        if not weight.requires_grad or (bias is not None and not bias.requires_grad):
            return f"{each.name!r} is frozen"
        if isinstance(module, _TRANSPOSED) and module.groups > 1:
            return f"{each.name!r} is a transposed convolution in groups"
    return ""


def _parameter(snapshot: Snapshot, layer: Layer) -> Tensor | None:
    return snapshot.capture.module_of(layer)._parameters.get("weight")


def _defects(snapshot: Snapshot, measured: MeasuredRule, layer: Layer, consumer: Layer) -> Tensor:
    """Return relative defects of matrix law, law of units, backward map and feedback."""
    capture = snapshot.capture
    entry = capture.input_of(consumer)
    noise = torch.randn(entry.shape, generator=torch.Generator().manual_seed(0)).to(entry)
    through = capture.to_preactivation(layer, noise)
    before = _by_unit(through, layer), _by_unit(_preactivation(snapshot, layer), layer)
    behind = _by_unit(noise, layer), _by_unit(entry, layer)
    one, other = (torch.einsum("nup,nvp->uv", *pair) for pair in (before, behind))
    of_matrix = _relative(one - other, other)
    of_units = _relative(torch.diagonal(one - other), torch.diagonal(other))
    signals = snapshot.passes[measured.label]
    own = signals.preactivation[layer.name]
    of_map = _relative(capture.to_preactivation(layer, signals.entry[layer.name]) - own, own)
    of_feedback = _feedback_defect(snapshot, measured, layer, consumer).to(of_map)
    return torch.stack([of_matrix, of_units, of_map, of_feedback])


def _relative(difference: Tensor, whole: Tensor) -> Tensor:
    """Return the norm over that of the whole; 0 where both vanish."""
    size, moved = wide(whole).norm(), wide(difference).norm()
    return torch.where(moved == 0, moved, moved / size)


def _by_unit(signal: Tensor, layer: Layer) -> Tensor:
    """Return a signal at a layer's pre-activation or entry as (n_samples, n_units, n_places)."""
    if layer.is_convolution:
        return wide(signal).reshape(len(signal), layer.channels, -1)
    return wide(signal).reshape(len(signal), -1, layer.channels).mT


def _preactivation(snapshot: Snapshot, layer: Layer) -> Tensor:
    module, x = snapshot.capture.module_of(layer), snapshot.capture.input_of(layer)
    weight = module._parameters["weight"]
    assert weight is not None
    with torch.no_grad():
        # Mixed precision hands inputs on in another floating type than that of the weights.
        found: Tensor = type(module).forward(module, x.to(weight.dtype))
    return found


def _feedback_defect(
    snapshot: Snapshot, measured: MeasuredRule, layer: Layer, consumer: Layer
) -> Tensor:
    """Return how far a layer's signal is from one matrix times that of the next layer."""
    if not isinstance(measured.rule, DirectRule):
        return torch.zeros(())
    never = torch.full((), torch.inf)
    held = matrices_at_entries(snapshot, measured.feedback)
    if layer.name not in held or len(consumer.shape) > 1 or len(layer.entry_shape) > 1:
        return never
    if consumer.is_output:
        return torch.zeros(()) if len(snapshot.capture.layout.outputs) == 1 else never
    if consumer.name not in held or consumer.entry_width != consumer.width:
        return never
    signals = snapshot.passes[measured.label]
    own = signals.preactivation[consumer.name].flatten(1)
    gated = _relative(signals.entry[consumer.name].flatten(1) - own, own)
    below, above = (wide(held[each.name]).flatten(1) for each in (layer, consumer))
    lost = _relative(above @ torch.linalg.pinv(above) @ below - below, below)
    return torch.maximum(gated, lost.to(gated))


def feedback_between(
    snapshot: Snapshot, measured: MeasuredRule, layers: Sequence[Layer]
) -> dict[str, Tensor]:
    r"""Return :math:`R^\top` by lower layer, in the shape of the weight above.

    With direct feedback it is :math:`(B_lB_{l+1}^+)^\top`, below the output layer
    :math:`B_{L-1}^\top`.

    Args:
        snapshot: The probing.
        measured: The rule.
        layers: Layers of which a law holds.
    """
    by_name = {layer.name: layer for layer in snapshot.layers}
    if isinstance(measured.rule, ReplacedWeightRule):
        backward = measured.backward_weights
        return {layer.name: backward[by_name[layer.consumer].module] for layer in layers}
    held = matrices_at_entries(snapshot, measured.feedback)
    found = {}
    for layer in layers:
        below = wide(held[layer.name]).flatten(1)
        if not by_name[layer.consumer].is_output:
            below = torch.linalg.pinv(wide(held[layer.consumer]).flatten(1)) @ below
        found[layer.name] = below
    return found


def terms(
    snapshot: Snapshot, layer: Layer, law: str, state: State, feedback: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the two terms whose difference is conserved between a layer and the next.

    Args:
        snapshot: The probing.
        layer: The lower layer.
        law: ``MATRIX`` or ``UNITS``.
        state: Weights and biases, of now or of earlier.
        feedback: In the shape of the weight above.
    """
    consumer = next(each for each in snapshot.layers if each.name == layer.consumer)
    above = state.weights[consumer.module]
    module = snapshot.capture.module_of(consumer)
    columns = tuple(_columns(module, each.to(above.device), layer) for each in (feedback, above))
    below = state.weights[layer.module]
    rows = _rows(snapshot.capture.module_of(layer), wide(below))
    if layer.module in state.biases:
        rows = torch.cat([rows, wide(state.biases[layer.module])[:, None]], 1)
    function = matrix_terms if law == MATRIX else unit_terms
    return function((columns[0], columns[1]), rows)


def _columns(module: nn.Module, weight: Tensor, layer: Layer) -> Tensor:
    """Return a weight by the units of the layer that it reads, ``(n_units, n)``."""
    units, weight = layer.channels, wide(weight)
    if isinstance(module, nn.Linear):
        if layer.is_convolution:
            return weight.reshape(len(weight), units, -1).movedim(1, 0).flatten(1)
        return weight.reshape(len(weight), -1, units).movedim(2, 0).flatten(1)
    if isinstance(module, _TRANSPOSED):
        return weight.flatten(1)
    groups = int(module.groups)  # type: ignore[arg-type]
    parts = weight.reshape(groups, -1, *weight.shape[1:])
    return parts.movedim(2, 1).flatten(0, 1).flatten(1)


def _rows(module: nn.Module, weight: Tensor) -> Tensor:
    """Return a weight by its output units, ``(n_units, n)``."""
    return (weight.movedim(1, 0) if isinstance(module, _TRANSPOSED) else weight).flatten(1)

"""What one step along a rule's updates does to the mean pre-activations of every layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from alignlab.diagnostics._means import (
    Mean,
    input_changes,
    means,
    means_of,
    same_layers,
    spreads_of,
)
from alignlab.kernels.cosines import wide
from alignlab.kernels.drift import by_output, inherited_drift, own_drift, term_shares

if TYPE_CHECKING:
    from alignlab.engine.updates import Updates
    from alignlab.sites import Layer
    from alignlab.snapshot import Snapshot

__all__ = ["STEP", "budget"]

STEP = 1e-3
"""Length of the virtual step over the norm of the parameters."""


def budget(snapshot: Snapshot, updates: Updates) -> dict[str, Tensor] | str:
    """Return, by layer, what one step along updates does to the means, or why nothing is known.

    Args:
        snapshot: The probing.
        updates: Of backpropagation or of a rule with error signals.

    Returns:
        One vector a layer whose weight learns: size of the change in standard deviations per
        relative length of the step, whether it is rounding, by how much the entry signal times
        the gate misses the signal, and the shares of leading, residual, common, covariance,
        other, upstream and cross. In words where there is none.
    """
    parameters = {
        name: p.detach()
        for name, p in snapshot.capture.model.named_parameters()
        if name in updates.parameters
    }
    norms = [
        torch.stack([wide(t).square().sum().to(snapshot.error.device) for t in each]).sum().sqrt()
        for each in (parameters.values(), updates.parameters.values())
    ]
    rate = torch.where(norms[1] > 0, STEP * norms[0] / norms[1], 0.0)
    moved = {
        name: (wide(p) - rate.to(p.device) * wide(updates.parameters[name])).to(p)
        for name, p in parameters.items()
    }
    before = snapshot.shared(means_of)
    with snapshot.task.again(parameters=moved) as capture:
        if not same_layers(capture, snapshot.capture):
            return "the network calls other layers after the step"
        inputs = input_changes(snapshot.capture, capture)
        after = means(capture)
    found = {}
    for layer in snapshot.layers:
        terms = _terms(snapshot, layer, updates, rate, (before, after), inputs[layer.name])
        if terms is not None:
            found[layer.name] = terms
    return found


def _terms(
    snapshot: Snapshot,
    layer: Layer,
    updates: Updates,
    rate: Tensor,
    states: tuple[Mapping[str, Mean], Mapping[str, Mean]],
    input_change: Tensor,
) -> Tensor | None:
    """Return size, rounding, mismatch of the gates and the shares; None for a frozen weight."""
    view = snapshot.view(layer, updates)
    gradient = view.gradients[0]
    if gradient is None or view.preactivation is None:
        return None
    before, after = (each[layer.name] for each in states)
    module = snapshot.capture.module_of(layer)
    signal = _sums(view.preactivation, layer)
    leading, mismatch = _leading(snapshot, layer, view.entry, view.preactivation)
    bias = view.gradients[1]
    own = rate * own_drift(
        before.input, by_output(module, gradient), signal, leading,
        bias=before.bias.new_full((1,), float(bias is not None)),
    )  # fmt: skip
    weight, offset = (
        actual if step is None else -rate * step
        for actual, step in zip(
            (after.weight - before.weight, after.bias - before.bias),
            (
                None if view.whole[0] is None else by_output(module, view.whole[0]),
                None if view.whole[1] is None else wide(view.whole[1]),
            ),
            strict=True,
        )
    )
    other = (weight * before.input).sum(1) + offset - own.sum(0)
    inherited = inherited_drift(before.weight, weight, input_change)
    common = own[0] + own[1]
    total = common + own[2] + other + inherited.sum(0)
    terms = torch.stack([own[0], own[1], common, own[2], other, *inherited])
    spread = snapshot.shared(spreads_of)[layer.name]
    scale = spread.square() + before.values.square().sum()
    rounding = 16.0 * torch.finfo(view.preactivation.dtype).eps * scale.sqrt()
    size = total.norm() / (STEP * spread)
    flags = torch.stack([size, (total.norm() <= rounding).double(), mismatch])
    return torch.cat([flags, term_shares(terms, total)])


def _leading(
    snapshot: Snapshot, layer: Layer, entry: Tensor | None, signal: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the sum over rows of mean gate times mean entry signal, and what gates miss of it."""
    sums = _sums(signal, layer)
    if layer.is_output:
        return sums, sums.new_zeros(())
    gates = snapshot.shared(_responses).get(layer.name)
    if entry is None or gates is None:
        return sums, sums.new_full((), torch.inf)
    entering = entry.reshape(signal.shape)
    size, missed = _norm(signal), _norm(signal - gates * entering)
    n_rows = signal.numel() // len(sums)
    leading = _sums(gates, layer) * _sums(entering, layer) / n_rows
    return leading, missed / torch.where(size > 0, size, 1.0)


def _responses(snapshot: Snapshot) -> dict[str, Tensor]:
    """Return what ones at each entry become at the pre-activation, where the sizes agree."""
    capture = snapshot.capture
    found = {}
    for layer in snapshot.hidden:
        entry = snapshot.true.entry[layer.name]
        if entry.numel() == snapshot.true.preactivation[layer.name].numel():
            found[layer.name] = capture.to_preactivation(layer, torch.ones_like(entry))
    return found


def _sums(signal: Tensor, layer: Layer) -> Tensor:
    """Return the sums over samples and positions, one per output unit, in float64."""
    signal = signal.cpu() if signal.device.type == "mps" else signal
    unit = layer.channel_axis % (signal.ndim - 1) + 1
    axes = [axis for axis in range(signal.ndim) if axis != unit]
    result: Tensor = signal.sum(axes, dtype=torch.float64)
    return result


def _norm(signal: Tensor) -> Tensor:
    """Return the norm of a signal, its squares added in float64."""
    signal = signal.cpu() if signal.device.type == "mps" else signal
    result: Tensor = torch.linalg.vector_norm(signal, dtype=torch.float64)
    return result

"""What an approximate signal is compared with by chance: fresh feedback, or rotated outputs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from alignlab.diagnostics._together import fetched
from alignlab.engine.direct import inject, projected
from alignlab.engine.updates import Updates
from alignlab.feedback import generator
from alignlab.kernels.cosines import wide
from alignlab.kernels.rotation import output_rows, weight_of_rows
from alignlab.layer_view import LayerView
from alignlab.snapshot import MeasuredRule, Snapshot

if TYPE_CHECKING:
    from alignlab.sites import Layer

__all__ = ["LARGEST_ROTATION", "direct_views", "redrawn_views", "rotations"]

LARGEST_ROTATION = 128
"""Output units up to which as many rotations are drawn as there are redraws; above, 50."""


Views = Mapping[str, LayerView]


def direct_views(
    snapshot: Snapshot, redrawn: MeasuredRule, sent: Tensor, names: Collection[str]
) -> dict[str, LayerView]:
    """Return layers under fresh direct feedback, without passing through the others.

    Args:
        snapshot: The probing.
        redrawn: A direct rule that enters at every layer, with its feedback.
        sent: What is sent, ``n_errors`` entries a sample.
        names: Hidden layers that are wanted.
    """
    layout = snapshot.capture.layout
    owners = {
        layout.layers[group.members[-1]].name
        for group in layout.groups("micro")
        if any(layout.layers[member].name in names for member in group.members)
    }
    found = inject(
        layout,
        projected(sent, redrawn.feedback),
        error=snapshot.task.error,
        granularity="micro",
        leaves=False,
        only=owners,
    )
    updates = Updates(found.entry, found.preactivation)
    return {
        layer.name: snapshot.view(layer, updates)
        for layer in snapshot.hidden
        if layer.name in names
    }


def redrawn_views(
    snapshot: Snapshot,
    measured: MeasuredRule,
    observed: Views,
    names: Collection[str],
    count: int,
) -> Iterator[Views]:
    """Yield layers under what a rule is compared with by chance.

    Args:
        snapshot: The probing.
        measured: The rule.
        observed: The layers under it.
        names: Layers that are wanted.
        count: How many redraws.

    Yields:
        Views by layer; those of wide layers are missing after 50 rotations.
    """
    layers = [layer for layer in snapshot.compared(measured) if layer.name in names]
    if snapshot.chance_kind(measured) == "output_rotation":
        yield from _rotated_views(snapshot, layers, observed, count)
        return
    is_local = snapshot.is_local(measured)
    for redrawn in snapshot.redrawn(measured, count):
        updates = snapshot.run(redrawn, parameters=not is_local)
        yield {layer.name: snapshot.view(layer, updates) for layer in layers}


def _rotated_views(
    snapshot: Snapshot, layers: list[Layer], observed: Views, count: int
) -> Iterator[Views]:
    turned = {
        layer.name: _turned_tensors(snapshot, layer, observed[layer.name]) for layer in layers
    }
    places = [(name, place) for name, tensors in turned.items() for place in tensors]
    streams = {name: generator(snapshot.seed, "rotation", name) for name in turned}
    axes = [turned[name][place] for name, place in places]
    turns = dict(zip(places, rotations(axes, [streams[name] for name, _ in places]), strict=True))
    for number in range(count):
        views = {}
        for layer in layers:
            if layer.channels > LARGEST_ROTATION and number >= 50:
                continue
            found = {place: turns[layer.name, place]() for place in turned[layer.name]}
            updates = _updates(observed[layer.name], found)
            views[layer.name] = snapshot.view(layer, updates)
        yield views


def _turned_tensors(
    snapshot: Snapshot, layer: Layer, view: LayerView
) -> dict[str, tuple[Tensor, int]]:
    """Return what is turned at a layer, and the axis of its units, by place.

    Signals at the two sites are turned by themselves, and so is an update that does not follow
    from them: its weight and bias by the same rotation.
    """
    found: dict[str, tuple[Tensor, int]] = {}
    if view.entry is not None:
        consumer = next(each for each in snapshot.layers if each.name == layer.consumer)
        # The entry is turned first: the order is part of what a seed stands for.
        found["entry"] = (view.entry, 1 if consumer.is_convolution else -1)
    if view.preactivation is not None:
        found["preactivation"] = (view.preactivation, 1 if layer.is_convolution else -1)
    columns = [] if view.is_local else [rows for _, rows in _rows_of_updates(view)]
    if columns:
        found["updates"] = (torch.cat(columns, 1), 0)
    return found


def _rows_of_updates(view: LayerView) -> list[tuple[str, Tensor]]:
    """Return weight and bias with a row for every output unit, by the parameter's name."""
    weight, bias = view.whole
    names = {id(p): name for name, p in view.capture.model.named_parameters()}
    module = view.capture.module_of(view.layer)
    own = module._parameters
    found = []
    if weight is not None:
        found.append((names[id(own["weight"])], output_rows(module, weight).flatten(1)))
    if bias is not None:
        found.append((names[id(own["bias"])], bias[:, None]))
    return found


def _updates(view: LayerView, turned: Mapping[str, Tensor]) -> Updates:
    """Return a layer's signals and updates with those that were turned in their place."""
    name = view.layer.name
    signals = Updates(
        {name: turned["entry"]} if "entry" in turned else {},
        {name: turned["preactivation"]} if "preactivation" in turned else {},
    )
    if "updates" not in turned:
        return signals
    parts, start, module = {}, 0, view.capture.module_of(view.layer)
    for (parameter, rows), whole in zip(
        _rows_of_updates(view), [each for each in view.whole if each is not None], strict=True
    ):
        found = turned["updates"][:, start : start + rows.shape[1]]
        start += rows.shape[1]
        if whole.dim() == 1:
            parts[parameter] = found[:, 0]
        else:
            shape = output_rows(module, whole).shape
            parts[parameter] = weight_of_rows(module, found.reshape(shape))
    return replace(signals, parameters=parts, is_local=False)


def rotations(
    signals: list[tuple[Tensor, int]], streams: list[torch.Generator]
) -> list[Callable[[], Tensor]]:
    """Return functions that rotate signals, each by a fresh Haar rotation of one axis.

    Where a signal occupies few directions, only their images are drawn.

    Args:
        signals: Signals, each with the axis of its units.
        streams: Sources of randomness, one each; the same one may stand several times.
    """
    found = [
        wide(signal.movedim(axis, -1)).reshape(-1, signal.shape[axis]) for signal, axis in signals
    ]
    factors = [torch.linalg.svd(rows, full_matrices=False)[:2] for rows in found if _is_low(rows)]
    pairs = iter(zip(factors, fetched([values for _, values in factors]), strict=True))
    turns = []
    for (signal, axis), plain, stream in zip(signals, found, streams, strict=True):
        rows = plain
        if _is_low(plain):
            (left, values), spectrum = next(pairs)
            rank = int((spectrum > torch.finfo(signal.dtype).eps * spectrum[:1]).sum())
            rows = left[:, :rank] * values[:rank]
        turns.append(_rotation(signal, axis, rows, stream))
    return turns


def _is_low(rows: Tensor) -> bool:
    """Return whether rows leave directions of their space empty."""
    return rows.shape[0] < rows.shape[1]


def _rotation(
    signal: Tensor, axis: int, rows: Tensor, stream: torch.Generator
) -> Callable[[], Tensor]:
    """Return what turns rows that stand for a signal and gives them its shape."""
    shape = signal.movedim(axis, -1).shape

    def rotated() -> Tensor:
        size = (shape[-1], rows.shape[1])
        q, r = torch.linalg.qr(torch.randn(size, generator=stream, dtype=torch.float64))
        frame = (q * torch.sign(torch.diagonal(r))).to(rows)
        result: Tensor = (rows @ frame.T).reshape(shape).movedim(-1, axis)
        return result.to(signal)

    return rotated

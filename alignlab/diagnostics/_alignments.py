"""Alignment diagnostics run over rules and layers, with the null of each rule."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from alignlab.diagnostics._base import AlignmentDiagnostic, Comparison, Key, Reading
from alignlab.diagnostics._chance import Chance, adjusted_statuses, chance_of, readings
from alignlab.engine.updates import Updates
from alignlab.errors import MeasurementError
from alignlab.feedback import generator
from alignlab.kernels.cosines import wide
from alignlab.kernels.rotation import output_rows, weight_of_rows
from alignlab.layer_view import LayerView
from alignlab.rules._base import DirectRule
from alignlab.rules._drawn import DrawnFeedback
from alignlab.snapshot import MeasuredRule, Snapshot

if TYPE_CHECKING:
    from alignlab.sites import Layer

__all__ = ["alignments"]

LARGEST_ROTATION = 128
"""Output units up to which as many rotations are drawn as there are redraws; above, 50."""

_LARGEST_PRODUCT = 2**24
"""Entries of a product of two signals above which only Gram matrices of the samples are formed."""

WHOLE = "(all)"
"""Stands in the place of a layer for all of them together.

No layer has this name; that of a model which is one layer by itself is empty.
"""

Compared = dict[Key, Comparison]
Draws = dict[str, list[Compared]]


def alignments(snapshot: Snapshot, diagnostics: Sequence[AlignmentDiagnostic]) -> Iterator[Reading]:
    """Yield all readings of the alignment diagnostics, chance levels included.

    Args:
        snapshot: The probing.
        diagnostics: What to compare.
    """
    if not diagnostics:
        return
    true = {layer.name: snapshot.view(layer, snapshot.true) for layer in snapshot.layers}
    for measured in snapshot.rules:
        backward = snapshot.passes[measured.label]
        observed = {layer.name: snapshot.view(layer, backward) for layer in snapshot.layers}
        null = _Null(snapshot, measured, true, observed)
        for diagnostic, draws in zip(diagnostics, null.draws(diagnostics), strict=True):
            found = {name: diagnostic.compare(true[name], observed[name]) for name in true}
            compared = {each.name: observed[each.name] for each in snapshot.compared(measured)}
            found[WHOLE] = diagnostic.compare_together(true, compared)
            yield from _placed(diagnostic, snapshot, measured, true, found, draws)
            if not measured.is_drawn:
                for name, view in true.items():
                    for reading in diagnostic.describe(view, observed[name]):
                        yield Reading(
                            reading.name, reading.value, measured.label, name, reading.site
                        )
                for reading in diagnostic.describe_together(true, compared):
                    yield replace(reading, rule=measured.label)


class _Null:
    """The draws of one rule by chance: fresh feedback, or rotated outputs."""

    def __init__(
        self,
        snapshot: Snapshot,
        measured: MeasuredRule,
        true: Mapping[str, LayerView],
        observed: Mapping[str, LayerView],
    ) -> None:
        self._snapshot = snapshot
        self._measured = measured
        self._true = true
        self._observed = observed
        self._compared = [layer.name for layer in snapshot.compared(measured)]

    def draws(self, diagnostics: Sequence[AlignmentDiagnostic]) -> list[Draws]:
        """Return, by diagnostic, the comparisons of every hidden layer under every redraw."""
        results: list[Draws] = [
            {name: [] for name in (*self._compared, WHOLE)} for _ in diagnostics
        ]
        wanted = [min(self._snapshot.draws, diagnostic.max_draws) for diagnostic in diagnostics]
        count = max(wanted, default=0)
        for number, views in enumerate(self._views(count)):
            self._snapshot.progress(f"chance level, {self._measured.label}", number + 1, count)
            for diagnostic, result, most in zip(diagnostics, results, wanted, strict=True):
                if number >= most:
                    continue
                for view in views:
                    name = view.layer.name
                    result[name].append(dict(diagnostic.compare(self._true[name], view)))
                if len(views) == len(self._compared):
                    together = {view.layer.name: view for view in views}
                    found = diagnostic.compare_together(self._true, together)
                    result[WHOLE].append(dict(found))
        return results

    def _views(self, count: int) -> Iterator[list[LayerView]]:
        snapshot, layers = self._snapshot, self._snapshot.compared(self._measured)
        if snapshot.chance_kind(self._measured) != "output_rotation":
            is_local = snapshot.is_local(self._measured)
            for redrawn in snapshot.redrawn(self._measured, count):
                updates = snapshot.run(redrawn, parameters=not is_local)
                yield [snapshot.view(layer, updates) for layer in layers]
            return
        turns = {layer.name: self._turns(layer) for layer in layers}
        for number in range(count):
            yield [
                snapshot.view(layer, turns[layer.name]())
                for layer in layers
                if layer.channels <= LARGEST_ROTATION or number < 50
            ]

    def _turns(self, layer: Layer) -> Callable[[], Updates]:
        """Return what turns the layer's signals and updates, another way at every call."""
        view = self._observed[layer.name]
        stream = generator(self._snapshot.seed, "rotation", layer.name)
        if view.preactivation is None:
            return self._turned_updates(view, stream)
        found = {"preactivation": (view.preactivation, 1 if layer.is_convolution else -1)}
        if view.entry is not None:
            consumer = next(each for each in self._snapshot.layers if each.name == layer.consumer)
            # The entry is turned first: the order is part of what a seed stands for.
            found = {"entry": (view.entry, 1 if consumer.is_convolution else -1), **found}
        drawn = {
            site: rotations(signal, axis, stream=stream) for site, (signal, axis) in found.items()
        }

        # An update that does not follow from the signals is turned by itself.
        apart = None if view.is_local else self._turned_updates(view, stream)

        def turned() -> Updates:
            found = {site: {layer.name: turn()} for site, turn in drawn.items()}
            signals = Updates(found.get("entry", {}), found["preactivation"])
            if apart is None:
                return signals
            return replace(signals, parameters=apart().parameters, is_local=False)

        return turned

    def _turned_updates(self, view: LayerView, stream: torch.Generator) -> Callable[[], Updates]:
        r"""Return what turns the update of a weight and its bias, :math:`\hat g \to Q\hat g`."""
        weight, bias = view.whole
        module = view.capture.module_of(view.layer)
        columns, shape = [], torch.Size()
        if weight is not None:
            shape = output_rows(module, weight).shape
            columns.append(output_rows(module, weight).flatten(1))
        if bias is not None:
            columns.append(bias[:, None])
        if not columns:
            return Updates
        turn = rotations(torch.cat(columns, 1), 0, stream=stream)
        names = {id(p): name for name, p in view.capture.model.named_parameters()}
        own = module._parameters

        def turned() -> Updates:
            found = turn()
            parts = {}
            if weight is not None:
                rows = found[:, : shape[1:].numel()]
                parts[names[id(own["weight"])]] = weight_of_rows(module, rows.reshape(shape))
            if bias is not None:
                parts[names[id(own["bias"])]] = found[:, -1]
            return Updates(parameters=parts)

        return turned


def rotations(signal: Tensor, axis: int, *, stream: torch.Generator) -> Callable[[], Tensor]:
    """Return a function that rotates a signal by a fresh Haar rotation of one axis.

    Where the signal occupies few directions, only their images are drawn.

    Args:
        signal: Any signal.
        axis: The axis of the units.
        stream: Source of randomness.
    """
    moved = signal.movedim(axis, -1)
    n = moved.shape[-1]
    rows = wide(moved).reshape(-1, n)
    if rows.shape[0] < n:
        left, values, _ = torch.linalg.svd(rows, full_matrices=False)
        kept = values > torch.finfo(signal.dtype).eps * values[:1]
        rows = left[:, kept] * values[kept]

    def rotated() -> Tensor:
        size = (n, rows.shape[1])
        q, r = torch.linalg.qr(torch.randn(size, generator=stream, dtype=torch.float64))
        frame = (q * torch.sign(torch.diagonal(r))).to(rows)
        result: Tensor = (rows @ frame.T).reshape(moved.shape).movedim(-1, axis)
        return result.to(signal)

    return rotated


def _placed(
    diagnostic: AlignmentDiagnostic,
    snapshot: Snapshot,
    measured: MeasuredRule,
    true: Mapping[str, LayerView],
    found: Mapping[str, Mapping[Key, Comparison]],
    draws: Mapping[str, Sequence[Compared]],
) -> Iterator[Reading]:
    means = {variable.name: variable.null_mean for variable in diagnostic.variables}
    kind = snapshot.chance_kind(measured)
    by_key: dict[Key, dict[str, tuple[float, Chance, float]]] = {}
    for layer_name, drawn in draws.items():
        closed = {}
        if layer_name != WHOLE:
            closed = _closed_forms(diagnostic, snapshot, measured, true[layer_name], drawn)
        for key, comparison in found[layer_name].items():
            value = float(comparison.value)
            chance = chance_of(
                value,
                np.array([float(d[key].value) for d in drawn]),
                kind=kind,
                concentration=_concentration([d[key].energy for d in drawn]),
                mean=means[key[0]],
                closed_form=closed.get(key, float("nan")),
            )
            place = by_key.setdefault(key, {})
            place[layer_name] = (value, chance, float(comparison.undefined))
    for (name, site), rows in by_key.items():
        statuses = adjusted_statuses(
            [row[0] for row in rows.values()],
            [row[1] for row in rows.values()],
            is_drawn=measured.is_drawn,
            is_cosine=means[name] == 0.0,
        )
        for (layer_name, (value, chance, undefined)), status in zip(
            rows.items(), statuses, strict=True
        ):
            place_of = (measured.label, "" if layer_name == WHOLE else layer_name, site)
            yield from readings(name, value, chance, status, undefined=undefined, place=place_of)
    for output in snapshot.capture.layout.outputs if measured.rule.has_exact_output else ():
        yield from _exact(output.name, measured, found)


def _exact(
    name: str, measured: MeasuredRule, found: Mapping[str, Mapping[Key, Comparison]]
) -> Iterator[Reading]:
    nan = float("nan")
    nothing = Chance(nan, nan, nan, "none", "", nan, nan)
    for (variable, site), comparison in found[name].items():
        value = float(comparison.value)
        status = "exact" if np.isfinite(value) else "undefined"
        undefined = float(comparison.undefined)
        place = (measured.label, name, site)
        yield from readings(variable, value, nothing, status, undefined=undefined, place=place)


def _concentration(energies: Sequence[Tensor]) -> float:
    if len(energies) < 2:
        return float("nan")
    stacked = torch.stack([wide(energy).cpu() for energy in energies])
    relative = stacked.std(0) / stacked.mean(0)
    return float(relative.nanmean())


def _closed_forms(
    diagnostic: AlignmentDiagnostic,
    snapshot: Snapshot,
    measured: MeasuredRule,
    true: LayerView,
    draws: Sequence[Compared],
) -> dict[Key, float]:
    r"""Return first-order standard deviations, :math:`\sigma_B\|T^\top E\|_F`.

    E is what is sent, the error unless a rule says otherwise. They hold for feedback of
    independent entries that acts at every layer by itself, so not for factored feedback nor
    for what is repeated over positions. Where the way to the entry has no second derivative
    there are none either, and the redraws say it alone.
    """
    rule = measured.rule
    if not isinstance(rule, DrawnFeedback) or not isinstance(rule, DirectRule) or not draws:
        return {}
    if rule.granularity != "micro" or rule.structure != "dense" or rule.rank:
        return {}
    energies = {key: torch.stack([d[key].energy for d in draws]).mean(0) for key in draws[0]}
    sigma = rule.entry_sd(true.layer, snapshot.capture.n_errors)
    error = wide(rule.sent(snapshot.error, snapshot.y))
    error = error.reshape(error.shape[0], -1)
    result = {}
    try:
        adjoints = diagnostic.adjoints(true, energies)
    except MeasurementError:
        return {}
    for key, adjoint in adjoints.items():
        rows = wide(adjoint.reshape(adjoint.shape[0], -1))
        result[key] = sigma * float(_product_norm(rows, error.to(rows.device)))
    return result


def _product_norm(first: Tensor, second: Tensor) -> Tensor:
    r"""Return :math:`\|A^\top B\|_F`, by way of the smaller of the product and the Grams."""
    if first.shape[1] * second.shape[1] <= _LARGEST_PRODUCT:
        result: Tensor = (first.T @ second).norm()
        return result
    return ((first @ first.T) * (second @ second.T)).sum().clamp_min(0.0).sqrt()

"""Alignment diagnostics run over rules and layers, with the null of each rule."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch

from alignlab.diagnostics._base import AlignmentDiagnostic, Comparison, Key, Reading
from alignlab.diagnostics._chance import Chance, adjusted_statuses, chance_of, readings
from alignlab.diagnostics._closed_forms import Null, Place, closed_forms, spread
from alignlab.diagnostics._redraws import TRANSPOSED, redrawn_views
from alignlab.diagnostics._together import fetched
from alignlab.layer_view import LayerView
from alignlab.snapshot import MeasuredRule, Snapshot

__all__ = ["TRANSPOSED", "alignments"]

Views = Mapping[str, LayerView]
Observed = tuple[float, float]
"""An alignment and how many samples had no direction."""


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
        views = {layer.name: snapshot.view(layer, backward) for layer in snapshot.layers}
        comparisons = {
            (number, name, key): comparison
            for number, diagnostic in enumerate(diagnostics)
            for name in true
            for key, comparison in diagnostic.compare(true[name], views[name]).items()
        }
        nulls = closed_forms(snapshot, measured, true, diagnostics)
        hidden = {layer.name for layer in snapshot.compared(measured)}
        missing = [place for place in comparisons if place[1] in hidden and place not in nulls]
        redrawn = _redrawn(snapshot, measured, true, views, diagnostics, missing)
        found, drawn = _on_the_host(comparisons, redrawn)
        for number, diagnostic in enumerate(diagnostics):
            yield from _placed(diagnostic, number, snapshot, measured, found, nulls | drawn)
            if not measured.is_drawn:
                for name, view in true.items():
                    for reading in diagnostic.describe(view, views[name]):
                        yield Reading(
                            reading.name, reading.value, measured.label, name, reading.site
                        )


def _redrawn(
    snapshot: Snapshot,
    measured: MeasuredRule,
    true: Views,
    observed: Views,
    diagnostics: Sequence[AlignmentDiagnostic],
    missing: Sequence[Place],
) -> dict[Place, list[Comparison]]:
    """Return the comparisons under every redraw of statistics that have no other chance level."""
    result: dict[Place, list[Comparison]] = {place: [] for place in missing}
    pairs = dict.fromkeys(place[:2] for place in missing)
    wanted = {n: min(snapshot.draws, diagnostics[n].max_draws) for n, _ in pairs}
    count = max(wanted.values(), default=0)
    names = {name for _, name in pairs}
    for done, views in enumerate(redrawn_views(snapshot, measured, observed, names, count)):
        snapshot.progress(f"chance level, {measured.label}", done + 1, count)
        for number, name in pairs:
            if done < wanted[number] and name in views:
                for key, found in diagnostics[number].compare(true[name], views[name]).items():
                    if (number, name, key) in result:
                        result[number, name, key].append(found)
    return result


def _on_the_host(
    comparisons: Mapping[Place, Comparison], redrawn: Mapping[Place, Sequence[Comparison]]
) -> tuple[dict[Place, Observed], dict[Place, Null]]:
    """Return what was observed and what was drawn, after one transfer from the device."""
    drawn = {place: each for place, each in redrawn.items() if len(each) > 1}
    parts = [
        [each.value for each in comparisons.values()],
        [each.undefined for each in comparisons.values()],
        [torch.stack([one.value for one in each]) for each in drawn.values()],
        [spread([one.energy for one in each]) for each in drawn.values()],
    ]
    numbers = iter(fetched([tensor for part in parts for tensor in part]))
    values, undefined, draws, spreads = ([next(numbers) for _ in part] for part in parts)
    found = {
        place: (float(value), float(count))
        for place, value, count in zip(comparisons, values, undefined, strict=True)
    }
    return found, {
        place: Null(float(one), each) for place, each, one in zip(drawn, draws, spreads, strict=True)
    }


def _placed(
    diagnostic: AlignmentDiagnostic,
    number: int,
    snapshot: Snapshot,
    measured: MeasuredRule,
    found: Mapping[Place, Observed],
    nulls: Mapping[Place, Null],
) -> Iterator[Reading]:
    means = {variable.name: variable.null_mean for variable in diagnostic.variables}
    kind = snapshot.chance_kind(measured)
    hidden = {layer.name for layer in snapshot.compared(measured)}
    by_key: dict[Key, dict[str, tuple[float, Chance, float]]] = {}
    for place, (value, undefined) in found.items():
        of, name, key = place
        if of != number or name not in hidden:
            continue
        null = nulls.get(place, Null(float("nan")))
        chance = chance_of(
            value,
            null.draws,
            kind=kind,
            concentration=null.concentration,
            mean=means[key[0]],
            closed_form=null.closed_form,
        )
        by_key.setdefault(key, {})[name] = (value, chance, undefined)
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
            place_of = (measured.label, layer_name, site)
            yield from readings(name, value, chance, status, undefined=undefined, place=place_of)
    outputs = {layer.name for layer in snapshot.capture.layout.outputs} - hidden
    own = {place: each for place, each in found.items() if place[0] == number}
    yield from _exact(measured, {p: each for p, each in own.items() if p[1] in outputs})


def _exact(measured: MeasuredRule, found: Mapping[Place, Observed]) -> Iterator[Reading]:
    nan = float("nan")
    nothing = Chance(nan, nan, nan, "none", "", nan, nan)
    for (_, name, (variable, site)), (value, undefined) in found.items():
        status = "exact" if np.isfinite(value) else "undefined"
        place = (measured.label, name, site)
        yield from readings(variable, value, nothing, status, undefined=undefined, place=place)

"""Alignment diagnostics run over rules and layers, with the null of each rule."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from alignlab.diagnostics._base import AlignmentDiagnostic, Comparison, Key, NotDefined, Reading
from alignlab.diagnostics._chance import Chance, adjusted_statuses, chance_of, readings
from alignlab.diagnostics._closed_forms import Null, Place, closed_forms, spread
from alignlab.diagnostics._null_views import redrawn_views
from alignlab.diagnostics._together import fetched
from alignlab.layer_view import LayerView
from alignlab.snapshot import MeasuredRule, Snapshot

__all__ = ["alignments"]

WHOLE = "(all)"
"""Stands in the place of a layer for all of them together.

No layer has this name; that of a model which is one layer by itself is empty.
"""

Views = Mapping[str, LayerView]
Observed = tuple[float, float]
"""An alignment and how many samples had no direction."""


def alignments(
    snapshot: Snapshot, diagnostics: Mapping[str, AlignmentDiagnostic]
) -> Iterator[tuple[str, Reading | NotDefined]]:
    """Yield all readings of the alignment diagnostics, chance levels included.

    Args:
        snapshot: The probing.
        diagnostics: What to compare, by name.

    Yields:
        Name of the diagnostic, and what it says or why it says nothing of a layer.
    """
    if not diagnostics:
        return
    true = {layer.name: snapshot.view(layer, snapshot.true) for layer in snapshot.layers}
    for measured in snapshot.rules:
        backward = snapshot.passes[measured.label]
        views = {layer.name: snapshot.view(layer, backward) for layer in snapshot.layers}
        found = _Alignments(snapshot, measured, true, views, tuple(diagnostics.values()))
        for number, reading in found.readings():
            yield list(diagnostics)[number], reading


@dataclass(frozen=True)
class _Alignments:
    """What the alignment diagnostics say of one rule.

    Attributes:
        snapshot: The probing.
        measured: The rule.
        true: All layers under backpropagation.
        observed: All layers under the rule.
        diagnostics: What to compare.
    """

    snapshot: Snapshot
    measured: MeasuredRule
    true: Views
    observed: Views
    diagnostics: tuple[AlignmentDiagnostic, ...]

    @property
    def compared(self) -> list[str]:
        """Layers whose gradient under the rule is not exact by construction."""
        return [layer.name for layer in self.snapshot.compared(self.measured)]

    def readings(self) -> Iterator[tuple[int, Reading | NotDefined]]:
        """Yield alignments with their chance levels, and what is recorded beside them."""
        comparisons: dict[Place, Comparison] = {}
        for number in range(len(self.diagnostics)):
            for name in (*self.true, WHOLE):
                found = self._compared(number, name, self.observed)
                comparisons |= {(number, name, key): each for key, each in found.items()}
        nulls = closed_forms(self.snapshot, self.measured, self.true, self.diagnostics)
        by_chance = {*self.compared, WHOLE}
        missing = [place for place in comparisons if place[1] in by_chance and place not in nulls]
        observed, drawn = _on_the_host(comparisons, self._redrawn(missing))
        for number in range(len(self.diagnostics)):
            own = {place: each for place, each in observed.items() if place[0] == number}
            for reading in self._placed(number, own, nulls | drawn):
                yield number, reading
            for reading in () if self.measured.is_drawn else self._described(number):
                yield number, reading
            for name, view in self.true.items():
                because = self.diagnostics[number].undefined(view, self.observed[name])
                if because:
                    yield number, NotDefined(because, self.measured.label, name)
            for name in self._without_value(number, own):
                because = self.diagnostics[number].without_value
                yield number, NotDefined(because, self.measured.label, name)

    def _without_value(self, number: int, own: Mapping[Place, Observed]) -> list[str]:
        """Return the layers that were compared and have no value, where a diagnostic says why."""
        if self.measured.is_drawn or not self.diagnostics[number].without_value:
            return []
        found = (layer for (_, layer, _), (value, _) in own.items() if not np.isfinite(value))
        return [layer for layer in dict.fromkeys(found) if layer in self.true]

    def _compared(self, number: int, name: str, views: Views) -> Mapping[Key, Comparison]:
        """Return what a diagnostic says of a layer, or of the whole network."""
        diagnostic = self.diagnostics[number]
        if name != WHOLE:
            return diagnostic.compare(self.true[name], views[name])
        return diagnostic.compare_together(self.true, {each: views[each] for each in self.compared})

    def _redrawn(self, missing: Sequence[Place]) -> dict[Place, list[Comparison]]:
        """Return comparisons under every redraw of statistics without another chance level."""
        result: dict[Place, list[Comparison]] = {place: [] for place in missing}
        pairs = dict.fromkeys(place[:2] for place in missing)
        most = {n: min(self.snapshot.draws, self.diagnostics[n].max_draws) for n, _ in pairs}
        count = max(most.values(), default=0)
        needed = {name for _, name in pairs}
        names = set(self.compared) if WHOLE in needed else needed
        redraws = redrawn_views(self.snapshot, self.measured, self.observed, names, count)
        for done, views in enumerate(redraws):
            self.snapshot.progress(f"chance level, {self.measured.label}", done + 1, count)
            for number, name in pairs:
                is_there = len(views) == len(names) if name == WHOLE else name in views
                if done < most[number] and is_there:
                    for key, found in self._compared(number, name, views).items():
                        if (number, name, key) in result:
                            result[number, name, key].append(found)
        return result

    def _placed(
        self, number: int, observed: Mapping[Place, Observed], nulls: Mapping[Place, Null]
    ) -> Iterator[Reading]:
        """Yield one diagnostic's alignments with all companions."""
        means = {each.name: each.null_mean for each in self.diagnostics[number].variables}
        kind, label = self.snapshot.chance_kind(self.measured), self.measured.label
        by_chance = {*self.compared, WHOLE}
        by_key: dict[Key, dict[str, tuple[float, Chance, float]]] = {}
        for place, (value, undefined) in observed.items():
            _, layer, key = place
            if layer in by_chance:
                null = nulls.get(place, Null(float("nan")))
                chance = chance_of(
                    value,
                    null.draws,
                    kind=kind,
                    concentration=null.concentration,
                    mean=means[key[0]],
                    closed_form=null.closed_form,
                )
                by_key.setdefault(key, {})[layer] = (value, chance, undefined)
            elif self.true[layer].layer.is_output:
                yield from _exact(label, layer, key, value, undefined)
        for (name, site), rows in by_key.items():
            statuses = adjusted_statuses(
                [row[0] for row in rows.values()],
                [row[1] for row in rows.values()],
                is_drawn=self.measured.is_drawn,
                is_cosine=means[name] == 0.0,
            )
            for (layer, (value, chance, undefined)), status in zip(
                rows.items(), statuses, strict=True
            ):
                at = (label, "" if layer == WHOLE else layer, site)
                yield from readings(name, value, chance, status, undefined=undefined, place=at)

    def _described(self, number: int) -> Iterator[Reading]:
        """Yield what one diagnostic records beside its alignments."""
        diagnostic, label = self.diagnostics[number], self.measured.label
        for name, view in self.true.items():
            for reading in diagnostic.describe(view, self.observed[name]):
                yield replace(reading, rule=label, layer=name)
        together = {name: self.observed[name] for name in self.compared}
        for reading in diagnostic.describe_together(self.true, together):
            yield replace(reading, rule=label)


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
    observed = {
        place: (float(value), float(count))
        for place, value, count in zip(comparisons, values, undefined, strict=True)
    }
    nulls = zip(drawn, draws, spreads, strict=True)
    return observed, {place: Null(float(one), each) for place, each, one in nulls}


def _exact(label: str, layer: str, key: Key, value: float, undefined: float) -> Iterator[Reading]:
    """Yield an alignment that is 1 by construction."""
    nan = float("nan")
    nothing = Chance(nan, nan, nan, "none", "", nan, nan)
    status = "exact" if np.isfinite(value) else "undefined"
    at = (label, layer, key[1])
    yield from readings(key[0], value, nothing, status, undefined=undefined, place=at)

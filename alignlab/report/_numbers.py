"""Every number of a recording, by the diagnostic that gave it, and what is not defined."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from alignlab import plugins
from alignlab.errors import AlignlabError
from alignlab.recording.reasons import reasons_for
from alignlab.recording.schema import COMPANIONS
from alignlab.report._layers import DASH, interval, short

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import xarray as xr

__all__ = ["Numbers", "Table", "numbers"]

PLACES = ("rule", "layer", "site")
MOST = 12
"""Entries of a vector that are shown; the files have them all."""

WIDTH = 116
"""Characters that fit beside each other on the page."""

WIDEST = 34
"""Characters beyond which a cell is broken into lines."""


@dataclass(frozen=True)
class Table:
    """Numbers at the same kind of place.

    Args:
        heads: Names of the columns, the places first.
        meanings: What the columns are.
        rows: Texts by column.
    """

    heads: tuple[str, ...]
    meanings: tuple[str, ...]
    rows: list[tuple[str, ...]]

    def wide(self, text: str) -> bool:
        """Whether a cell is to be broken into lines."""
        return len(text) > WIDEST


@dataclass(frozen=True)
class Numbers:
    """What one diagnostic says.

    Args:
        diagnostic: Its name.
        about: What it is; empty for one that is not installed here.
        tables: Its numbers.
        missing: Layers, rules and why it says nothing of them.
    """

    diagnostic: str
    about: str
    tables: list[Table]
    missing: list[tuple[str, str, str]]

    @property
    def summary(self) -> str:
        """How much it says, in a few words."""
        count = len({head for table in self.tables for head in table.heads} - set(PLACES))
        silent = len({layer for layers, _, _ in self.missing for layer in layers.split(", ")})
        parts = [f"{count} quantit{'y' if count == 1 else 'ies'}"]
        if silent:
            parts.append(f"reasons for {silent} layer{'' if silent == 1 else 's'}")
        return ", ".join(parts)


def numbers(ds: xr.Dataset) -> list[Numbers]:
    """Return all numbers of one step, one entry a diagnostic, in the order of its name.

    Args:
        ds: A recording without ``step``, whose variables name their diagnostic.
    """
    of: dict[str, list[str]] = {}
    companions = _companions(ds)
    for name in ds.data_vars:
        diagnostic = str(ds.variables[name].attrs.get("diagnostic", ""))
        if diagnostic and str(name) not in companions:
            of.setdefault(diagnostic, []).append(str(name))
    labels = ds["diagnostic"].values.tolist() if "not_defined" in ds else []
    found = [
        Numbers(
            name,
            _about(name),
            _tables(ds, of.get(name, [])),
            _missing(ds, name) if name in labels else [],
        )
        for name in sorted({*of, *labels})
    ]
    return [each for each in found if each.tables or each.missing]


def _about(diagnostic: str) -> str:
    try:
        return plugins.summary("alignlab.diagnostics", diagnostic)
    except AlignlabError:
        return ""


def _companions(ds: xr.Dataset) -> set[str]:
    return {
        f"{name}_{end}"
        for name in ds.data_vars
        if ds.variables[name].attrs.get("alignment") == 1
        for end in COMPANIONS
    }


def _tables(ds: xr.Dataset, variables: Sequence[str]) -> list[Table]:
    by_place: dict[tuple[str, ...], list[str]] = {}
    for name in variables:
        by_place.setdefault(tuple(d for d in PLACES if d in ds.variables[name].dims), []).append(
            name
        )
    return [table for places, own in by_place.items() for table in _at(ds, places, own)]


def _at(ds: xr.Dataset, places: tuple[str, ...], variables: Sequence[str]) -> Iterator[Table]:
    """Yield the numbers of the same kind of place, as many beside each other as the page holds."""
    labels = [tuple(map(str, at)) for at in product(*(ds[place].values for place in places))]
    columns = {name: _cells(ds, name, places) for name in variables}
    columns = {name: cells for name, cells in columns.items() if {*cells} != {DASH}}
    lead = sum(_span(places[at], [label[at] for label in labels]) for at in range(len(places)))
    group: list[str] = []
    room = WIDTH - lead
    for name, cells in columns.items():
        if group and room < _span(name, cells):
            yield _table(ds, places, labels, {each: columns[each] for each in group})
            group, room = [], WIDTH - lead
        group.append(name)
        room -= _span(name, cells)
    if group:
        yield _table(ds, places, labels, {each: columns[each] for each in group})


def _span(name: str, cells: Sequence[str]) -> int:
    """Return how many characters a column takes; names are broken at underscores."""
    longest = max(map(len, name.split("_"))) + 1
    return max(longest, min(max(map(len, cells)), WIDEST)) + 2


def _table(
    ds: xr.Dataset,
    places: tuple[str, ...],
    labels: Sequence[tuple[str, ...]],
    columns: dict[str, list[str]],
) -> Table:
    rows = [
        (*at, *cells)
        for at, cells in zip(labels, zip(*columns.values(), strict=True), strict=True)
        if any(cell != DASH for cell in cells)
    ]
    meanings = tuple(str(ds.variables[name].attrs.get("long_name", "")) for name in columns)
    return Table((*places, *columns), (*places, *meanings), rows)


def _cells(ds: xr.Dataset, name: str, places: tuple[str, ...]) -> list[str]:
    """Return a variable's texts at every place, the last of them changing fastest."""
    found = ds.variables[name].transpose(*places, ...)
    count = int(np.prod([ds.sizes[place] for place in places], dtype=int))
    values = found.values.reshape(count, *found.shape[len(places) :])
    if values.ndim > 1:
        return [_vector(each.ravel()) for each in values]
    if values.dtype == object:
        return [str(value) or DASH for value in values]
    if found.attrs.get("alignment") != 1 or f"{name}_null_low" not in ds:
        return [short(float(value)) for value in values]
    beside = (
        ds.variables[f"{name}_{end}"].transpose(*places).values.ravel().tolist()
        for end in ("null_low", "null_high", "status")
    )
    return [_alignment(*each) for each in zip(values.tolist(), *beside, strict=True)]


def _alignment(value: float, low: float, high: float, status: str) -> str:
    band = interval(low, high, 3)
    if np.isnan(value):
        return DASH if band == DASH else f"{DASH} (chance {band}; {status})"
    words = [f"chance {band}"] if band != DASH else []
    return f"{short(value)} ({'; '.join([*words, status])})"


def _vector(values: np.ndarray) -> str:
    if values.dtype == object:
        return ", ".join(map(str, values)) or DASH
    known = values[: np.flatnonzero(np.isfinite(values))[-1] + 1] if _has(values) else values[:0]
    shown = ", ".join(short(float(value)) for value in known[:MOST])
    return f"{shown}, … ({known.size} in all)" if known.size > MOST else shown or DASH


def _has(values: np.ndarray) -> bool:
    return bool(np.isfinite(values).any())


def _missing(ds: xr.Dataset, diagnostic: str) -> list[tuple[str, str, str]]:
    """Return reasons with the layers and the rules that share them."""
    by_reason: dict[str, dict[str, list[str]]] = {}
    for layer in map(str, ds["layer"].values):
        for rule, reason in reasons_for(ds, diagnostic, layer):
            by_reason.setdefault(reason, {}).setdefault(layer, []).append(rule or "any")
    found = []
    for reason, of in by_reason.items():
        by_rules: dict[tuple[str, ...], list[str]] = {}
        for layer, rules in of.items():
            by_rules.setdefault(tuple(rules), []).append(layer)
        found += [(", ".join(ls), ", ".join(rules), reason) for rules, ls in by_rules.items()]
    return found

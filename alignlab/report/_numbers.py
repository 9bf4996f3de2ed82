"""Every number of a recording, by the diagnostic that gave it, and what is not defined."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from alignlab.recording.schema import COMPANIONS
from alignlab.report._layers import DASH, interval, short

if TYPE_CHECKING:
    from collections.abc import Sequence

    import xarray as xr

__all__ = ["Numbers", "Table", "numbers"]

PLACES = ("rule", "layer", "site")
MOST = 12
"""Entries of a vector that are shown; the files have them all."""


@dataclass(frozen=True)
class Table:
    """Numbers at the same kind of place.

    Args:
        heads: Names of the columns, the places first.
        rows: Texts by column.
    """

    heads: tuple[str, ...]
    rows: list[tuple[str, ...]]


@dataclass(frozen=True)
class Numbers:
    """What one diagnostic says.

    Args:
        diagnostic: Its name.
        tables: Its numbers.
        missing: Layers and why it says nothing of them.
    """

    diagnostic: str
    tables: list[Table]
    missing: list[tuple[str, str]]

    @property
    def summary(self) -> str:
        """How much it says, in a few words."""
        count = len({head for table in self.tables for head in table.heads} - set(PLACES))
        silent = len({layer for layers, _ in self.missing for layer in layers.split(", ")})
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
    for name, array in ds.data_vars.items():
        diagnostic = str(array.attrs.get("diagnostic", ""))
        if diagnostic and str(name) not in companions:
            of.setdefault(diagnostic, []).append(str(name))
    labels = ds["diagnostic"].values.tolist() if "not_defined" in ds else []
    found = [
        Numbers(name, _tables(ds, of.get(name, [])), _missing(ds, name) if name in labels else [])
        for name in sorted({*of, *labels})
    ]
    return [each for each in found if each.tables or each.missing]


def _companions(ds: xr.Dataset) -> set[str]:
    return {
        f"{name}_{end}"
        for name, array in ds.data_vars.items()
        if array.attrs.get("alignment") == 1
        for end in COMPANIONS
    }


def _tables(ds: xr.Dataset, variables: Sequence[str]) -> list[Table]:
    by_place: dict[tuple[str, ...], list[str]] = {}
    for name in variables:
        by_place.setdefault(tuple(d for d in PLACES if d in ds[name].dims), []).append(name)
    tables = []
    for places, own in by_place.items():
        columns = [_cells(ds, name, places) for name in own]
        labels = product(*(ds[place].values.tolist() for place in places))
        rows = [
            (*map(str, at), *cells)
            for at, cells in zip(labels, zip(*columns, strict=True), strict=True)
            if any(cell != DASH for cell in cells)
        ]
        if rows:
            tables.append(Table((*places, *own), rows))
    return tables


def _cells(ds: xr.Dataset, name: str, places: tuple[str, ...]) -> list[str]:
    """Return a variable's texts at every place, the last of them changing fastest."""
    found = ds[name].transpose(*places, ...)
    count = int(np.prod([ds.sizes[place] for place in places], dtype=int))
    values = found.values.reshape(count, *found.shape[len(places) :])
    if values.ndim > 1:
        return [_vector(each.ravel()) for each in values]
    if values.dtype == object:
        return [str(value) or DASH for value in values]
    if found.attrs.get("alignment") != 1 or f"{name}_null_low" not in ds:
        return [short(float(value)) for value in values]
    beside = (
        ds[f"{name}_{end}"].transpose(*places).values.ravel().tolist()
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


def _missing(ds: xr.Dataset, diagnostic: str) -> list[tuple[str, str]]:
    """Return reasons, the layers of the same reason together."""
    by_reason: dict[str, list[str]] = {}
    for layer in ds["layer"].values.tolist():
        text = str(ds["not_defined"].sel(diagnostic=diagnostic, layer=layer).item())
        if text:
            reason = text.replace(f"not defined for {layer} ", "not defined ")
            by_reason.setdefault(reason, []).append(str(layer))
    return [(", ".join(layers), reason) for reason, layers in by_reason.items()]

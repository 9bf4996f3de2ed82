"""``--recover``: what two checkpoints show of lost feedback, as a table."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from alignlab.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

    from alignlab.analyze import Analysis

__all__ = ["recovered", "require_recoverable", "show_recovery"]

_OPTIONS = (
    *("model", "data", "rules", "save", "diagnostics", "preset", "feedback", "rename"),
    *("earlier", "twin"),
)
_COLUMNS = {
    "directions": "rank",
    "expected": "rank_expected",
    "share": "explained",
    "by chance": "explained_chance",
    "p of gap": "p",
    "tilt": "tilt",
    "along weights": "path",
    "random": "path_chance",
    "angle to stored": "angle",
    "overlap": "overlap",
    "chance": "overlap_chance",
}


def require_recoverable(since: str | None, measurement: Mapping[str, Any]) -> None:
    """Refuse ``--recover`` without ``--since``, or with what it does not read.

    Raises:
        InputError: As above.
    """
    if not since:
        message = "--recover needs an earlier checkpoint of the same training; add --since FILE."
        raise InputError(message)
    given = [name for name in _OPTIONS if measurement[name]]
    if given:
        message = (
            f"--recover reads weights alone; leave out --{given[0].removesuffix('s')}, and measure "
            "with the model in a run of its own."
        )
        raise InputError(message)


def recovered(
    since: str, file: str, *, n_errors: int | None, command: str, measurement: Mapping[str, Any]
) -> Analysis:
    """Return what ``--recover`` finds, with the options that it shares with a measurement."""
    from alignlab.analyze import recovered_feedback

    return recovered_feedback(
        since,
        file,
        n_errors=n_errors,
        loss=measurement["loss"],
        key=measurement["key"],
        allow_unsafe_pickle=measurement["allow_unsafe_pickle"],
        command=command,
    )


def show_recovery(dataset: xr.Dataset, path: Path, *, quiet: bool, as_json: bool) -> None:
    """Print the table and where the recording lies."""
    rows = list(_rows(dataset))
    if as_json:
        attrs = {name: dataset.attrs[name] for name in ("checkpoint", "since", "n_errors", "loss")}
        click.echo(json.dumps({"recording": str(path), **attrs, "layers": rows}, indent=2))
        return
    if not quiet:
        click.echo("\n".join([*_table(rows), "", *_notes(rows), ""]))
    click.echo(path)


def _rows(dataset: xr.Dataset) -> Iterator[dict[str, Any]]:
    """Yield what is known of each layer, in the types of JSON."""
    last = dataset.isel(step=-1)
    names = ["status", *_COLUMNS.values(), "limits"]
    for layer in last["layer"].values:
        row: dict[str, Any] = {"layer": str(layer)}
        for name in names:
            if f"feedback_space_{name}" in last:
                value = last[f"feedback_space_{name}"].sel(layer=layer).item()
                missing = isinstance(value, float) and not math.isfinite(value)
                row[name] = None if missing else value
        yield row


def _table(rows: list[dict[str, Any]]) -> list[str]:
    """Return aligned lines, one a layer; columns without any value are left out."""
    columns = {"layer": "layer", "status": "status", **_COLUMNS}
    kept = {
        title: name
        for title, name in columns.items()
        if any(row.get(name) is not None for row in rows)
    }
    cells = [list(kept), *([_cell(name, row.get(name)) for name in kept.values()] for row in rows)]
    widths = [max(len(line[place]) for line in cells) for place in range(len(kept))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]


def _cell(name: str, value: float | str | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if name.startswith("rank"):
        return f"{value:.0f}"
    return f"{value:.1f}°" if name in {"tilt", "angle"} else f"{value:.3f}"


def _notes(rows: list[dict[str, Any]]) -> list[str]:
    """Return what was found and what cannot be, once for the layers of which it is true."""
    layers: dict[str, list[str]] = {}
    for row in rows:
        layers.setdefault(row["limits"], []).append(row["layer"])
    return [f"{', '.join(names)}: {text}" for text, names in layers.items()]

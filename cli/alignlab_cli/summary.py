"""What a command prints about a recording."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import xarray as xr

from alignlab.diagnosis import answer

__all__ = ["lines", "show"]

COMPANIONS = ("null_low", "null_high", "p", "status")


def show(dataset: xr.Dataset, path: Path, *, quiet: bool, as_json: bool) -> None:
    """Print the answer and where the recording lies."""
    if as_json:
        click.echo(json.dumps(_contents(dataset, path), indent=2))
        return
    if not quiet:
        click.echo("\n".join([*lines(dataset, brief=False), ""]))
    click.echo(path)


def lines(dataset: xr.Dataset, *, brief: bool) -> list[str]:
    """Return the answer, one sentence a line under the checkpoint's name.

    Args:
        dataset: A recording.
        brief: Only warnings, the headline and what limits each convolution.
    """
    said = answer(dataset)
    sentences = said.paragraph
    if brief:
        sentences = (said.headline, *(limit.sentence for limit in said.limits))
    warnings = [f"Warning: {warning}" for warning in said.warnings]
    return [str(dataset.attrs.get("checkpoint", "")), *(f"  {x}" for x in [*warnings, *sentences])]


def _contents(dataset: xr.Dataset, path: Path) -> dict[str, Any]:
    """Return a recording's answer and alignments in the types of JSON."""
    said = answer(dataset)
    scores = ("loss", "accuracy", "accuracy_chance", "measurement_status")
    return {
        "recording": str(path),
        "checkpoint": dataset.attrs.get("checkpoint", ""),
        "data": dataset.attrs.get("data", ""),
        **{name: _plain(dataset[name].values.ravel()[-1]) for name in scores if name in dataset},
        "warnings": list(said.warnings),
        "answer": list(said.paragraph),
        "alignments": list(_alignments(dataset)),
    }


def _alignments(dataset: xr.Dataset) -> Iterator[dict[str, Any]]:
    """Yield every alignment with its place, chance band, p and status."""
    for name, variable in dataset.data_vars.items():
        if variable.attrs.get("alignment") != 1:
            continue
        for index in np.ndindex(variable.shape):
            place = dict(zip(variable.dims, index, strict=True))
            values = {"value": variable} | {
                companion: dataset[f"{name}_{companion}"] for companion in COMPANIONS
            }
            yield (
                {"quantity": str(name)}
                | {str(dim): _plain(dataset[dim].values[at]) for dim, at in place.items()}
                | {key: _plain(array.isel(place).item()) for key, array in values.items()}
            )


def _plain(value: Any) -> Any:
    """Return a value in the types of JSON, which has no NaN."""
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value

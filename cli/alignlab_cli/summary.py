"""What a command prints about a recording."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import xarray as xr

from alignlab.diagnosis import answer

__all__ = ["score", "show"]

COMPANIONS = ("null_sd", "p", "status")


def show(dataset: xr.Dataset, path: Path, *, quiet: bool, as_json: bool) -> None:
    """Print the score, the answer and where the recording lies."""
    if as_json:
        click.echo(json.dumps(_contents(dataset, path), indent=2))
        return
    if not quiet:
        said = answer(dataset)
        click.echo(score(dataset))
        for warning in said.warnings:
            click.echo(f"Warning: {warning}")
        click.echo()
        for sentence in said.paragraph:
            click.echo(sentence)
        click.echo()
    click.echo(path)


def score(dataset: xr.Dataset) -> str:
    """Return the model's loss and accuracy on the samples, or that there were none."""
    checkpoint = dataset.attrs.get("checkpoint", "model")
    loss, accuracy, chance = (_scalar(dataset, n) for n in ("loss", "accuracy", "accuracy_chance"))
    if math.isnan(loss):
        return f"{checkpoint}: weights only, no data"
    text = f"{checkpoint} on {dataset.attrs.get('data', '')}: loss {loss:.4g}"
    if math.isnan(accuracy):
        return text
    return f"{text}, accuracy {accuracy:.3f} (chance {chance:.3f})"


def _contents(dataset: xr.Dataset, path: Path) -> dict[str, object]:
    """Return a recording's answer and alignments in the types of JSON."""
    said = answer(dataset)
    return {
        "recording": str(path),
        "checkpoint": dataset.attrs.get("checkpoint", ""),
        "data": dataset.attrs.get("data", ""),
        "loss": _json(_scalar(dataset, "loss")),
        "accuracy": _json(_scalar(dataset, "accuracy")),
        "accuracy_chance": _json(_scalar(dataset, "accuracy_chance")),
        "measurement_status": _json(_scalar(dataset, "measurement_status", missing="")),
        "warnings": list(said.warnings),
        "answer": list(said.paragraph),
        "alignments": list(_alignments(dataset)),
    }


def _alignments(dataset: xr.Dataset) -> Iterator[dict[str, object]]:
    """Yield every alignment with its place, chance level, p and status."""
    for name, variable in dataset.data_vars.items():
        if variable.attrs.get("alignment") != 1:
            continue
        for index in np.ndindex(variable.shape):
            place = dict(zip(variable.dims, index, strict=True))
            row = {"quantity": str(name)}
            row |= {str(dim): _json(dataset[dim].values[i]) for dim, i in place.items()}
            row |= {"value": _json(variable.values[index])}
            row |= {c: _json(dataset[f"{name}_{c}"].isel(place).item()) for c in COMPANIONS}
            yield row


def _scalar(dataset: xr.Dataset, name: str, *, missing: object = math.nan) -> object:
    """Return a variable of the last step, or what stands for a missing one."""
    return dataset[name].values.ravel()[-1] if name in dataset else missing


def _json(value: object) -> object:
    """Return a value in the types of JSON, which has no NaN."""
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value

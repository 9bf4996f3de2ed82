"""Recordings as tables: tidy CSV for any program, JSON for provenance, LaTeX for papers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from alignlab.errors import InputError
from alignlab.recording.replacement import replacing
from alignlab.recording.schema import COMPANIONS
from alignlab.report.latex import alignment_table

__all__ = ["alignment_frame", "export", "layer_frame", "measurement_frame", "rule_frame"]

_PLACES = ("step", "rule", "layer", "site")


def export(ds: xr.Dataset, directory: str | Path, *, overwrite: bool = False) -> list[Path]:
    """Write every table of a recording; each file appears complete or not at all.

    Args:
        ds: A recording.
        directory: The folder to write to; it is made where it is missing.
        overwrite: Whether tables of these names are replaced.

    Returns:
        The files: ``alignment.csv``, ``layers.csv``, ``rules.csv``, ``measurement.csv``,
        ``spectra.csv``, ``provenance.json`` and ``alignment.tex``.

    Raises:
        InputError: A table exists already, or the folder cannot be written to.
    """
    directory = Path(directory)
    paths = [directory / name for name in _TABLES]
    existing = [path.name for path in paths if path.exists()]
    if existing and not overwrite:
        message = f"{directory} holds {existing[0]} already; choose another, or add --force."
        raise InputError(message)
    texts = [table(ds) for table in _TABLES.values()]
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"Cannot write tables to {directory}: {error.strerror}; choose another folder."
        raise InputError(message) from error
    for path, text in zip(paths, texts, strict=True):
        with replacing(path) as draft:
            draft.write_text(text, encoding="utf-8", newline="")
    return paths


def alignment_frame(ds: xr.Dataset) -> pd.DataFrame:
    """Return every alignment with its chance level, one row for each place that was measured.

    Args:
        ds: A recording.

    Returns:
        Columns ``step, rule, layer, layer_kind, site, variable, value`` and the companions; ``""``
        where an alignment has no rule, layer or site. Places to which an alignment does not apply
        are left out.
    """
    columns = [*_PLACES[:3], "layer_kind", "site", "variable", "value", *COMPANIONS]
    frames = [_one_alignment(ds, name) for name in _alignments(ds)]
    frames = [frame for frame in frames if len(frame)]
    if not frames:
        return pd.DataFrame(columns=columns)
    frame = pd.concat(frames, ignore_index=True)
    if "layer_kind" in ds.coords:
        kinds = dict(zip(ds["layer"].values, ds["layer_kind"].values, strict=True))
        frame["layer_kind"] = [kinds.get(layer, "") for layer in frame["layer"]]
    else:
        frame["layer_kind"] = ""
    return frame[columns]


def layer_frame(ds: xr.Dataset) -> pd.DataFrame:
    """Return what was measured at the layers besides alignments, one row per rule and layer.

    Args:
        ds: A recording.

    Returns:
        Columns ``step, rule, layer``, what the recording says of its layers, and the variables; one
        that is measured at several sites has a column for each, ending in the site's name. What
        does not depend on the rule is repeated.
    """
    columns: dict[str, xr.DataArray] = {}
    for name, variable in _numbers_and_words(ds).items():
        if "layer" not in variable.dims or not set(variable.dims) <= set(_PLACES):
            continue
        if "site" in variable.dims:
            for site in ds["site"].values:
                columns[f"{name}_{site}"] = variable.sel(site=site, drop=True)
        else:
            columns[name] = variable
    described = [str(name) for name in ds.coords if ds[name].dims == ("layer",) and name != "layer"]
    return _wide(ds, columns, ("step", "rule", "layer"), described)


def rule_frame(ds: xr.Dataset) -> pd.DataFrame:
    """Return what was measured of each rule as a whole, one row per rule.

    Args:
        ds: A recording.

    Returns:
        Columns ``step, rule`` and the variables.
    """
    return _over(ds, ("step", "rule"), needed="rule")


def measurement_frame(ds: xr.Dataset) -> pd.DataFrame:
    """Return what was measured of model and samples, whatever the rule: one row per step.

    Args:
        ds: A recording.

    Returns:
        Columns ``step`` and the variables.
    """
    return _over(ds, ("step",), needed="step")


def spectrum_frame(ds: xr.Dataset) -> pd.DataFrame:
    """Return every variable that runs along a further dimension, one row per number.

    Args:
        ds: A recording.

    Returns:
        Columns ``step, rule, layer, site, variable, axis, position, value``; missing numbers are
        left out.
    """
    columns = [*_PLACES, "variable", "axis", "position", "value"]
    frames = []
    for name, variable in _numbers_and_words(ds).items():
        axes = [str(dim) for dim in variable.dims if dim not in _PLACES]
        if not axes:
            continue
        frame = _rows(variable.to_dataset(name="value")).dropna(subset="value")
        frame["variable"] = name
        frame["axis"] = " ".join(axes)
        frame["position"] = (
            frame[axes[0]].astype(object)
            if len(axes) == 1
            else frame[axes].astype(str).agg(" ".join, axis=1)
        )
        if len(frame):
            frames.append(frame.reindex(columns=columns, fill_value=""))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)


def _alignments(ds: xr.Dataset) -> list[str]:
    return [str(name) for name, each in ds.data_vars.items() if each.attrs.get("alignment") == 1]


def _numbers_and_words(ds: xr.Dataset) -> dict[str, xr.DataArray]:
    """Return the variables that are neither alignments nor their companions."""
    alignments = _alignments(ds)
    covered = {f"{name}_{suffix}" for name in alignments for suffix in COMPANIONS}
    covered.update(alignments)
    return {str(name): each for name, each in ds.data_vars.items() if name not in covered}


def _one_alignment(ds: xr.Dataset, name: str) -> pd.DataFrame:
    """Return one alignment and its companions, without the places where it does not apply."""
    names = {name: "value"} | {f"{name}_{suffix}": suffix for suffix in COMPANIONS}
    frame = _rows(ds[list(names)].rename(names))
    frame = frame[frame["status"] != ""].copy()
    frame["variable"] = name
    for place in _PLACES:
        if place not in frame:
            frame[place] = ""
    return frame


def _rows(ds: xr.Dataset) -> pd.DataFrame:
    """Return one row for each entry, places first and in the recording's order."""
    ds = ds.drop_vars([name for name in ds.coords if name not in ds.dims])
    order = [dim for dim in (*_PLACES, *ds.dims) if dim in ds.dims]
    return ds.to_dataframe(dim_order=list(dict.fromkeys(order))).reset_index()


def _over(ds: xr.Dataset, places: tuple[str, ...], needed: str) -> pd.DataFrame:
    """Return the variables along these places and no others."""
    columns = {
        name: variable
        for name, variable in _numbers_and_words(ds).items()
        if needed in variable.dims and set(variable.dims) <= set(places)
    }
    return _wide(ds, columns, places, [])


def _wide(
    ds: xr.Dataset,
    columns: Mapping[str, xr.DataArray],
    places: tuple[str, ...],
    described: list[str],
) -> pd.DataFrame:
    """Return one row for each combination of places and one column for each variable."""
    present = [place for place in places if place in ds.dims]
    if not present:
        return pd.DataFrame(columns=list(places))
    labels = {place: ds[place].variable for place in present}
    extra = {name: (ds[name].dims, ds[name].values) for name in described}
    bare = {name: each.variable for name, each in columns.items()}
    wide = xr.Dataset(extra | bare, coords=labels)
    return wide.to_dataframe(dim_order=present).reset_index()


def _csv(frame: Callable[[xr.Dataset], pd.DataFrame]) -> Callable[[xr.Dataset], str]:
    def text(ds: xr.Dataset) -> str:
        return str(frame(ds).to_csv(index=False, lineterminator="\n"))

    return text


def _provenance(ds: xr.Dataset) -> str:
    """Return where the recording comes from and what its variables mean."""
    meaning = ("long_name", "units", "source", "better", "valid_min", "valid_max")
    provenance = {
        "recording": {str(name): _json(value) for name, value in ds.attrs.items()},
        "variables": {
            str(name): {key: _json(each.attrs[key]) for key in meaning if key in each.attrs}
            for name, each in ds.data_vars.items()
        },
    }
    return json.dumps(provenance, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _json(value: object) -> object:
    """Return an attribute in JSON, which has no word for NaN or infinity but null."""
    if isinstance(value, (np.ndarray, np.generic)):
        value = value.tolist()
    if isinstance(value, list):
        return [_json(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _tex(ds: xr.Dataset) -> str:
    return alignment_table(alignment_frame(ds))


_TABLES: dict[str, Callable[[xr.Dataset], str]] = {
    "alignment.csv": _csv(alignment_frame),
    "layers.csv": _csv(layer_frame),
    "rules.csv": _csv(rule_frame),
    "measurement.csv": _csv(measurement_frame),
    "spectra.csv": _csv(spectrum_frame),
    "provenance.json": _provenance,
    "alignment.tex": _tex,
}

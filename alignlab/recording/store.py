"""Recordings as files: netCDF-4 or Zarr v3, written completely or not at all."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, unquote

import xarray as xr
from netCDF4 import Dataset

from alignlab.errors import AlignlabError, MissingError, RecordingError
from alignlab.recording.encoding import decoded, encoded
from alignlab.recording.foreign import require_plain_hdf5, require_plain_zarr
from alignlab.recording.replacement import check, replacing, reserve, set_aside
from alignlab.recording.schema import migrate, require_known_version
from alignlab.recording.validation import validate

__all__ = ["check", "load", "load_tensors", "save"]

_TENSORS = "tensors"
# A Zarr store is a folder, which keeps no order, and netCDF-4 has coordinates first.
_ORDER = "variable_order"
_OVERHEAD = 4096


def save(
    ds: xr.Dataset,
    path: str | Path,
    *,
    overwrite: bool = False,
    tensors: Mapping[str, xr.Dataset] | None = None,
) -> Path:
    """Write a recording; what :func:`load` returns is identical to it.

    The file gets its name when it is complete and on the disk, so that a failure or a kill leaves
    the earlier file as it was.

    Args:
        ds: A recording that :func:`~alignlab.recording.validate` accepts.
        path: A ``.nc`` file (netCDF-4) or a ``.zarr`` folder (Zarr v3).
        overwrite: Whether an existing recording is replaced.
        tensors: Raw tensors of layers by the layers' names, each stored as a group.

    Returns:
        The path.

    Raises:
        InputError: The output exists, or cannot be written there.
        RecordingError: The recording breaks its schema, or the disk refuses it.
    """
    path = Path(path)
    check(path, overwrite=overwrite)
    validate(ds)
    groups = {_group(layer): encoded(tensor) for layer, tensor in (tensors or {}).items()}
    root = encoded(ds)
    write = _write_netcdf if path.suffix == ".nc" else _write_zarr
    with replacing(path) as draft:
        try:
            reserve(draft.parent, sum(map(_largest_size, (root, *groups.values()))))
            write(root, draft, group=None)
            for group, tensor in groups.items():
                write(tensor, draft, group=group)
        except (OSError, RuntimeError) as error:
            message = f"{path} could not be written ({error}); nothing was changed."
            raise RecordingError(message) from error
    return path


def load(path: str | Path) -> xr.Dataset:
    """Read a recording into memory and close its file.

    Args:
        path: What :func:`save` wrote.

    Returns:
        The recording in today's schema; text as objects, missing numbers as NaN.

    Raises:
        MissingError: Nothing is there.
        RecordingError: It is something else, is damaged, breaks the schema or has a newer one.
    """
    path = _existing(path)
    ds = migrate(_read(path, group=None))
    try:
        validate(ds)
    except RecordingError as error:
        message = f"{path}: {error}"
        raise RecordingError(message) from error
    return ds


def load_tensors(path: str | Path) -> dict[str, xr.Dataset]:
    """Read the raw tensors that a recording holds.

    Args:
        path: What :func:`save` wrote.

    Returns:
        Name of the layer to its tensors; empty where none were saved.

    Raises:
        MissingError: Nothing is there.
        RecordingError: It is something else or is damaged.
    """
    path = _existing(path)
    _require_recording(path)
    return {_layer(group): _read(path, group=group) for group in _groups(path)}


def _largest_size(ds: xr.Dataset) -> int:
    """Return more bytes than a file takes: numbers, names and attributes of each variable."""
    return ds.nbytes + _OVERHEAD * (16 + len(ds.variables))


def _group(layer: str) -> str:
    """Return the group of a layer; no layer's name can clash with what the formats reserve."""
    return "layer-" + quote(layer, safe="").replace(".", "%2E").replace("~", "%7E")


def _layer(group: str) -> str:
    return unquote(group.removeprefix("layer-"))


def _write_netcdf(ds: xr.Dataset, path: Path, group: str | None) -> None:
    mode: Literal["w", "a"] = "w" if group is None else "a"
    ds.assign_attrs(_with_order(ds)).to_netcdf(
        path, mode, format="NETCDF4", group=_inside(group), engine="netcdf4"
    )


def _with_order(ds: xr.Dataset) -> dict[Hashable, Any]:
    return {**ds.attrs, _ORDER: json.dumps([str(name) for name in ds.variables])}


def _write_zarr(ds: xr.Dataset, path: Path, group: str | None) -> None:
    ds.assign_attrs(_with_order(ds)).to_zarr(
        path,
        mode="w-",
        group=_inside(group),
        zarr_format=3,
        consolidated=False,
        write_empty_chunks=True,
    )


def _inside(group: str | None) -> str | None:
    return None if group is None else f"{_TENSORS}/{group}"


def _existing(path: str | Path) -> Path:
    """Return the path, or refuse to read what is not there."""
    path = Path(path)
    if path.exists():
        return path
    aside = set_aside(path)
    found = f"a replacement was interrupted; rename {aside} to it" if aside else "check the name"
    message = f"There is no recording {path}; {found}."
    raise MissingError(message)


def _require_plain(path: Path) -> None:
    if path.is_dir():
        require_plain_zarr(path)
    else:
        require_plain_hdf5(path)


def _require_recording(path: Path) -> None:
    """Refuse what is no recording by its attributes alone; reading all of it takes seconds."""
    _require_plain(path)
    try:
        require_known_version(xr.Dataset(attrs=_attributes(path)))
    except AlignlabError as error:
        message = f"{path}: {error}"
        raise RecordingError(message) from error
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        message = f"{path} cannot be read ({error}): it is damaged, or another program wrote it."
        raise RecordingError(message) from error


def _attributes(path: Path) -> dict[str, Any]:
    """Return the attributes of the recording itself."""
    if path.is_dir():
        node = json.loads((path / "zarr.json").read_text(encoding="utf-8"))
        return dict(node["attributes"])
    with Dataset(path, "r") as file:
        return {name: file.getncattr(name) for name in file.ncattrs()}


def _groups(path: Path) -> list[str]:
    """Return the groups of raw tensors."""
    if path.is_dir():
        return sorted(folder.name for folder in (path / _TENSORS).glob("layer-*"))
    with Dataset(path, "r") as file:
        return sorted(file[_TENSORS].groups) if _TENSORS in file.groups else []


def _read(path: Path, group: str | None) -> xr.Dataset:
    """Read the recording itself, or one group of raw tensors."""
    _require_plain(path)
    engine = "zarr" if path.is_dir() else "netcdf4"
    options: dict[str, Any] = {}
    if path.is_dir():
        options = {"consolidated": False, "zarr_format": 3}
    try:
        with xr.open_dataset(
            path, engine=engine, group=_inside(group), decode_times=False, **options
        ) as ds:
            if group is None:
                require_known_version(ds)
            return _in_order(decoded(ds))
    except AlignlabError as error:
        message = f"{path}: {error}"
        raise RecordingError(message) from error
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        message = f"{path} cannot be read ({error}): it is damaged, or another program wrote it."
        raise RecordingError(message) from error


def _in_order(ds: xr.Dataset) -> xr.Dataset:
    """Return the variables in the order in which they were written."""
    if _ORDER not in ds.attrs:
        return ds
    attrs = dict(ds.attrs)
    names = json.loads(attrs.pop(_ORDER))
    lost = [name for name in names if name not in ds.variables]
    if lost:
        message = f"it lacks {lost[0]!r}; copy it again, or write it with alignlab.recording.save."
        raise RecordingError(message)
    order = {name: place for place, name in enumerate(names)}

    def place(name: Hashable) -> int:
        return order.get(name, len(order))

    return xr.Dataset(
        {name: ds.variables[name] for name in sorted(ds.data_vars, key=place)},
        coords={name: ds.variables[name] for name in sorted(ds.coords, key=place)},
        attrs=attrs,
    )

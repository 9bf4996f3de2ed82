"""What a file is, and whether it can be read without opening or executing anything else."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import h5py

from alignlab.errors import RecordingError

__all__ = ["describe", "require_plain_hdf5", "require_plain_zarr"]

_HDF5 = b"\x89HDF\r\n\x1a\n"
_SIGNATURES = (
    (b"PK\x03\x04", "a zip archive or a checkpoint of PyTorch"),
    (b"CDF", "a file of the classic netCDF-3 format"),
    (b"version https://git-lfs", "a pointer of Git LFS; fetch the file itself with `git lfs pull`"),
    (b"\x80", "a pickle"),
    (b"\x89PNG", "an image"),
    (b"\xff\xd8\xff", "an image"),
    (b"\x1f\x8b", "a gzip archive"),
)
# Codecs that only move and compress bytes; none of them can name code to run.
_CODECS = ("bytes", "vlen-utf8", "zstd", "gzip", "blosc", "crc32c", "transpose")
# The recording, "tensors", a layer.
_LEVELS = 3
_HOW = "alignlab writes and reads netCDF-4 (.nc) and Zarr v3 (.zarr)"


def describe(path: Path) -> str:
    """Say in a phrase what a file is, from its first bytes.

    Args:
        path: An existing file.

    Returns:
        A phrase such as "a web page (HTML)".
    """
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        return "an empty file"
    if head.startswith(_HDF5):
        return "an HDF5 file"
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return "a web page (HTML)"
    for signature, phrase in _SIGNATURES:
        if head.startswith(signature):
            return phrase
    try:
        head.decode("utf-8")
    except UnicodeDecodeError:
        return "a file of a format that alignlab does not know"
    return "a text file"


def require_plain_hdf5(path: Path) -> None:
    """Refuse a file that is no HDF5, is cut short, or leads to other files.

    Args:
        path: An existing file.

    Raises:
        RecordingError: With what the file is.
    """
    what = describe(path)
    if what != "an HDF5 file":
        message = f"{path} is no recording: it is {what}. {_HOW}."
        raise RecordingError(message)
    try:
        with h5py.File(path, "r") as file:
            _require_own_content(file, path, levels=_LEVELS)
    except (OSError, RuntimeError, KeyError) as error:
        message = f"{path} is cut short or damaged ({error}). Copy or record it again."
        raise RecordingError(message) from error


def _require_own_content(group: Any, path: Path, levels: int) -> None:
    """Refuse links and storage outside the file, which reading would open, and endless nesting."""
    if levels == 0:
        message = f"{path} has groups within groups without end; recordings have {_LEVELS} levels."
        raise RecordingError(message)
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            message = f"{path} holds a link to elsewhere ({name!r}); recordings have none."
            raise RecordingError(message)
        item = group[name]
        if isinstance(item, h5py.Group):
            _require_own_content(item, path, levels - 1)
        elif isinstance(item, h5py.Dataset) and (item.external or item.is_virtual):
            message = f"{path} keeps {name!r} in another file; recordings are self-contained."
            raise RecordingError(message)


def require_plain_zarr(path: Path) -> None:
    """Refuse a folder that is no Zarr v3, is incomplete, leads elsewhere or could run code.

    Args:
        path: An existing folder.

    Raises:
        RecordingError: With what the folder is or lacks.
    """
    if not (path / "zarr.json").is_file():
        message = f"{path} is a folder that is no Zarr v3 store. {_HOW}."
        raise RecordingError(message)
    for entry in path.rglob("*"):
        if entry.is_symlink():
            message = f"{path} holds a link to elsewhere ({entry.name!r}); recordings have none."
            raise RecordingError(message)
    _require_plain_node(path, path)


def _require_plain_node(folder: Path, store: Path) -> None:
    """Check one group or array of a store, and what lies below it."""
    where = str(folder.relative_to(store))
    try:
        node = json.loads((folder / "zarr.json").read_text(encoding="utf-8"))
        if node["zarr_format"] != 3 or node["node_type"] not in {"group", "array"}:
            raise KeyError
        if node["node_type"] == "array":
            _require_plain_codecs([codec["name"] for codec in node["codecs"]], store)
            grid = node["chunk_grid"]["configuration"]["chunk_shape"]
            sizes = zip(node["shape"], grid, strict=True)
            expected = math.prod(math.ceil(size / chunk) for size, chunk in sizes)
    except RecordingError:
        raise
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError) as error:
        message = f"{store} is damaged: {where!r} has no metadata that can be read."
        raise RecordingError(message) from error
    if node["node_type"] == "array":
        _require_chunks(folder, store, expected)
        return
    for entry in sorted(folder.iterdir()):
        if entry.is_dir():
            _require_plain_node(entry, store)
        elif entry.name != "zarr.json":
            message = f"{store} holds {entry.name!r}, which is no part of it; remove that."
            raise RecordingError(message)


def _require_plain_codecs(codecs: list[str], store: Path) -> None:
    """Refuse encodings that alignlab does not write, since a codec may be code."""
    strange = [name for name in codecs if name not in _CODECS]
    if strange:
        message = f"{store} is encoded with {strange}, which alignlab does not write nor run."
        raise RecordingError(message)


def _require_chunks(folder: Path, store: Path, expected: int) -> None:
    """Refuse an array of which a part is not there: Zarr would fill it in without a word."""
    chunks = folder / "c"
    present = sum(file.is_file() for file in (chunks, *chunks.rglob("*")))
    if present != expected:
        message = (
            f"{store} is incomplete: {folder.name!r} has {present} of {expected} chunks. "
            "Copy it again, or write it with alignlab.recording.save."
        )
        raise RecordingError(message)

"""Output that appears under its name only when it is complete."""

from __future__ import annotations

import errno
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alignlab.errors import InputError

__all__ = ["SUFFIXES", "check", "replacing", "reserve", "set_aside"]

SUFFIXES = (".nc", ".zarr")
_PREVIOUS = "previous"
_FULL = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}


def check(path: str | Path, overwrite: bool = False) -> None:
    """Refuse an output that could not be written, before the work is done.

    Args:
        path: Where a recording is to be written.
        overwrite: Whether an existing recording may be replaced.

    Raises:
        InputError: The suffix is unknown, the folder is missing or not writable, or something is
            there already that may not be replaced.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        message = f"Cannot write {path}: end its name with .nc (netCDF-4) or .zarr (Zarr v3)."
        raise InputError(message)
    folder = path.parent
    if not folder.is_dir():
        message = f"Cannot write {path}: there is no folder {folder}; create it first."
        raise InputError(message)
    if not os.access(folder, os.W_OK | os.X_OK):
        message = f"Cannot write {path}: the folder {folder} is not writable; choose another."
        raise InputError(message)
    if not os.path.lexists(path):
        return
    if not overwrite:
        message = f"{path} exists; choose another name, or replace it with --force."
        raise InputError(message)
    replaceable = path.is_file() if path.suffix == ".nc" else (path / "zarr.json").is_file()
    if not replaceable and not (path.is_symlink() and not path.exists()):
        message = f"{path} is no {path.suffix} recording and is not replaced; choose another name."
        raise InputError(message)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path to write to; on leaving, what is there gets the name ``path``.

    Everything happens in a folder of its own beside ``path``, which is gone afterwards. A file
    replaces its predecessor in one step. A folder cannot; its predecessor is moved aside first, and
    moved back if the second step fails.

    Args:
        path: The final name; a link is followed.

    Yields:
        A path of the same name in a new folder on the same disk.

    Raises:
        InputError: The folder cannot be written to.
    """
    path = Path(os.path.realpath(path))
    try:
        workplace = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        message = f"Cannot write {path}: {error.strerror or error}; choose another folder."
        raise InputError(message) from error
    draft, previous = workplace / path.name, workplace / _PREVIOUS
    try:
        yield draft
        try:
            _flush(draft)
            if draft.is_dir() and path.exists():
                path.rename(previous)
            draft.replace(path)
            _flush_one(path.parent)
        except OSError as error:
            message = f"Cannot write {path}: {error.strerror or error}; nothing was changed."
            raise InputError(message) from error
    finally:
        if previous.exists() and not path.exists():
            previous.rename(path)
        shutil.rmtree(workplace, ignore_errors=True)


def reserve(folder: Path, size: int) -> None:
    """Fail where a folder's disk has no room, for HDF5 crashes the process when a disk gets full.

    Args:
        folder: Where something is to be written.
        size: Bytes that it will take at most.

    Raises:
        OSError: There is no room, or files may not be that large.
    """
    if not hasattr(os, "posix_fallocate"):
        return
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno in _FULL:
                raise


def set_aside(path: Path) -> Path | None:
    """Return the predecessor that a kill in the middle of a replacement left aside, if any.

    Args:
        path: The name that is missing.

    Returns:
        Where it lies now.
    """
    if not path.parent.is_dir():
        return None
    asides = (folder / _PREVIOUS for folder in path.parent.glob(f".{glob.escape(path.name)}.*"))
    return next((aside for aside in asides if aside.exists()), None)


def _flush(written: Path) -> None:
    """Bring a file, or a folder with everything in it, to the disk."""
    for entry in (written, *written.rglob("*")):
        _flush_one(entry)


def _flush_one(entry: Path) -> None:
    """Bring one file or one folder's list of names to the disk, where the system can."""
    if entry.is_dir() and os.name == "nt":
        return
    descriptor = os.open(entry, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

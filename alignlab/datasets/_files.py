"""Where the files of the standard data sets lie, and whether they are the published ones."""

from __future__ import annotations

import hashlib
import os
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit

from alignlab.errors import InputError, MissingError

__all__ = ["fetch", "find", "missing", "places", "read_published"]

_TIMEOUT_SECONDS = 60


def places(name: str, *folders: str) -> list[Path]:
    """Return where the files of a data set may lie: folders of ``ALIGNLAB_DATA`` and itself.

    Args:
        name: Data set, for the error's text.
        *folders: Folders inside of it, the likely ones first.

    Returns:
        Paths, whether or not they are there.

    Raises:
        MissingError: ``ALIGNLAB_DATA`` is not set or names no folder.
    """
    root = os.environ.get("ALIGNLAB_DATA", "")
    if not root:
        message = (
            f"{name} is read from the folder that the variable ALIGNLAB_DATA names, and it is not "
            "set; let it name the data's folder. The data set digits needs no files."
        )
        raise MissingError(message)
    if not Path(root).is_dir():
        message = f"ALIGNLAB_DATA names {root}, which is no folder; let it name the data's folder."
        raise MissingError(message)
    return [*(Path(root) / folder for folder in folders), Path(root)]


def find(folders: Sequence[Path], *names: str) -> Path | None:
    """Return the first of the names that lies in one of the folders, or None."""
    paths = (folder / name for name in names for folder in folders)
    return next((path for path in paths if path.exists()), None)


def missing(name: str, folders: Sequence[Path], files: Sequence[str]) -> MissingError:
    """Return the error for a data set whose files are not there, with where they were sought."""
    message = (
        f"{name} is not there: looked for {' or '.join(files)} in "
        f"{', '.join(str(folder) for folder in folders)}. Put the files there, or set "
        "ALIGNLAB_MIRROR and ask for the download."
    )
    return MissingError(message)


def read_published(path: Path, md5: str | None) -> bytes:
    """Read a file, and refuse one that is not what was published.

    Args:
        path: File.
        md5: Published MD5, hexadecimal; None where none was published.

    Returns:
        Its bytes.

    Raises:
        InputError: Another MD5, or a file that cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror}."
        raise InputError(message) from error
    _compare(content, md5, source=str(path))
    return content


def fetch(name: str, file: str, md5: str, *, into: Path) -> Path:
    """Fetch a standard file from ``ALIGNLAB_MIRROR/name/file`` and keep it only if it is right.

    Args:
        name: Data set, a folder of the mirror.
        file: File name.
        md5: Published MD5.
        into: Folder, made where it is not there.

    Returns:
        Where it lies now.

    Raises:
        MissingError: No mirror is set, or it does not answer.
        InputError: The mirror gave another file.
    """
    mirror = os.environ.get("ALIGNLAB_MIRROR", "").rstrip("/")
    if urlsplit(mirror).scheme not in {"http", "https", "file"}:
        was = f"it is {mirror!r}" if mirror else "it is not set"
        message = (
            f"{file} is fetched from the address in ALIGNLAB_MIRROR, and {was}; set it to an "
            f"http, https or file address below which {name}/{file} lies."
        )
        raise MissingError(message)
    address = f"{mirror}/{name}/{file}"
    try:
        with urllib.request.urlopen(address, timeout=_TIMEOUT_SECONDS) as response:
            content: bytes = response.read()
    except (OSError, HTTPException, ValueError) as error:
        reason = " ".join(str(getattr(error, "reason", error)).split())
        message = f"{address} could not be fetched ({reason}); put {file} into {into} by hand."
        raise MissingError(message) from error
    _compare(content, md5, source=address)
    return _write(into / file, content)


def _write(path: Path, content: bytes) -> Path:
    """Write a file under a temporary name, then rename it."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        message = f"{path} cannot be written: {error.strerror}."
        raise InputError(message) from error
    return path


def _compare(content: bytes, md5: str | None, *, source: str) -> None:
    """Refuse content whose MD5 is not the published one."""
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if md5 is not None and found != md5:
        message = (
            f"{source} has the MD5 {found} and the published file has {md5}: it is damaged, cut "
            "off or another file. Replace it; your own selection goes by npz:FILE."
        )
        raise InputError(message)

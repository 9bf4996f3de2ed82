"""Where results go: checked before the work, written under another name, then renamed."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from alignlab.errors import InputError, MissingError

__all__ = ["check_folder", "check_page", "check_writable", "write_text"]

SUFFIXES = (".html", ".htm")


def check_page(path: Path, *, force: bool) -> None:
    """Refuse a page that could not be written at the end of the work.

    Args:
        path: The page to be written.
        force: Whether a file that exists may be replaced.

    Raises:
        InputError: Another ending, something that may not be replaced, or a folder that cannot be
            written to.
        MissingError: The folder does not exist.
    """
    if path.suffix not in SUFFIXES:
        message = f"Cannot write {path}: end its name with {' or '.join(SUFFIXES)}."
        raise InputError(message)
    if path.is_dir():
        message = f"{path} is a folder and is not replaced; choose another name with -o."
        raise InputError(message)
    if os.path.lexists(path) and not force:
        message = f"{path} exists; choose another name with -o, or replace it with --force."
        raise InputError(message)
    if not path.parent.is_dir():
        message = f"The folder {path.parent} of -o does not exist. Make it first."
        raise MissingError(message)
    check_writable(path.parent)


def check_folder(folder: Path) -> None:
    """Make a folder for results where there is none, and refuse one that cannot be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"The folder {folder} cannot be made: {error.strerror}. Choose another with -o."
        raise InputError(message) from error
    check_writable(folder)


def write_text(path: Path, text: str) -> None:
    """Write a text under a temporary name in the same folder, then rename it."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    part = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        part.chmod(0o644)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def check_writable(folder: Path) -> None:
    """Refuse a folder in which no file can be made; permissions alone do not tell."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        message = f"Nothing can be written to {folder}: {error.strerror}. Choose another with -o."
        raise InputError(message) from error

"""Where results go: checked before the work, written under another name, then renamed."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from alignlab.errors import InputError, MissingError

__all__ = ["check_file", "check_folder", "write_text"]


def check_file(path: Path, *, suffixes: tuple[str, ...], force: bool) -> None:
    """Refuse a file that could not be written at the end of the work.

    Args:
        path: The file to be written.
        suffixes: The endings that are understood.
        force: Whether a file that exists may be replaced.

    Raises:
        InputError: Another ending, a file that exists, or a folder that cannot be written to.
        MissingError: The folder does not exist.
    """
    if path.suffix not in suffixes:
        message = f"{path.name} must end in {' or '.join(suffixes)}, so that its format is known."
        raise InputError(message)
    if path.exists() and not force:
        message = f"{path} exists. Choose another name with -o, or replace it with --force."
        raise InputError(message)
    if not path.parent.is_dir():
        message = f"The folder {path.parent} of -o does not exist. Make it first."
        raise MissingError(message)
    _check_writable(path.parent)


def check_folder(folder: Path) -> None:
    """Make a folder for results where there is none, and refuse one that cannot be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"The folder {folder} cannot be made: {error.strerror}. Choose another with -o."
        raise InputError(message) from error
    _check_writable(folder)


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


def _check_writable(folder: Path) -> None:
    """Refuse a folder in which no file can be made; permissions alone do not tell."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        message = f"Nothing can be written to {folder}: {error.strerror}. Choose another with -o."
        raise InputError(message) from error

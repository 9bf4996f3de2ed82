"""Folders in which one process works at a time."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from platform import node
from typing import Final, Self, final

from alignlab.errors import InputError

if sys.platform != "win32":
    import fcntl

__all__ = ["Lock"]

NAME: Final = ".lock"


@final
class Lock:
    """A folder that is held by this process, until it is let go or the process ends.

    The lock is the operating system's, so that of a process that was killed nothing stays but a
    file that holds nobody up.

    Args:
        folder: Made where it is not there.

    Raises:
        InputError: Another holds it, or it cannot be made or written to.
    """

    def __init__(self, folder: Path) -> None:
        """Hold the folder."""
        self._made = [path for path in (folder, *folder.parents) if not path.exists()]
        self._file = folder / NAME
        self._descriptor: int | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._descriptor = _locked(self._file)
        except FileExistsError as error:
            msg = f"{folder} is a file; name a folder with -o."
            raise InputError(msg) from error
        except OSError as error:
            msg = f"Nothing can be written to {folder}: {error.strerror}. Choose another with -o."
            raise InputError(msg) from error

    def release(self) -> None:
        """Let go, and take back folders that were made and hold nothing."""
        if self._descriptor is None:
            return
        self._file.unlink(missing_ok=True)
        os.close(self._descriptor)
        self._descriptor = None
        with suppress(OSError):
            for path in self._made:
                path.rmdir()

    def __enter__(self) -> Self:
        """Hold on."""
        return self

    def __exit__(self, *error: object) -> None:
        """Let go."""
        self.release()


def _locked(path: Path) -> int:
    """Open a file, lock it, and write down who holds it.

    Raises:
        InputError: Another holds it.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if not _took(descriptor):
                msg = (
                    f"{path.parent} is in use by {_owner(descriptor)}; wait until that has ended, "
                    "or choose another folder with -o."
                )
                raise InputError(msg)
            if _is_still(path, descriptor):
                since = datetime.now(UTC).isoformat(" ", "seconds")
                os.ftruncate(descriptor, 0)
                os.write(descriptor, f"process {os.getpid()} on {node()} since {since}".encode())
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        # Whoever held it has removed the file between our two calls.
        os.close(descriptor)


def _took(descriptor: int) -> bool:
    """Take the lock unless another has it; say whether it is ours."""
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _owner(descriptor: int) -> str:
    return os.read(descriptor, 500).decode(errors="replace") or "another process"

"""The folder of a training: what may be in it before, and what is taken back."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alignlab.errors import InputError
from alignlab.plain import plain

__all__ = [
    "BEST",
    "CHECKPOINT",
    "INITIAL",
    "KEPT",
    "LOSSES",
    "PROBES",
    "RECORDING",
    "RUN",
    "begin",
    "leave_nothing",
    "require_free",
    "settle",
    "write",
]

RUN = "run.json"
KEPT = "kept.pt"
PROBES = "probes"
INITIAL = "initial.pt"
BEST = "best.pt"
CHECKPOINT = "checkpoint.pt"
RECORDING = "recording.nc"
LOSSES = "losses.csv"
OURS = (RUN, KEPT, INITIAL, BEST, CHECKPOINT, RECORDING, LOSSES)
REPLACED = ".replaced"
"""Holds all of the old training; what lies beside it is of the new one."""
MOVING = ".moving"
"""Holds some of the old training; what lies beside it is the rest."""


def require_free(folder: Path, options: Mapping[str, Any], *, force: bool) -> None:
    """Refuse a folder that holds something else than the beginning of this training.

    Raises:
        InputError: A finished training, another one, or other files are there.
    """
    if not (folder / RUN).exists():
        there = [name for name in OURS if (folder / name).exists()]
        if there and not force:
            msg = f"{folder} holds a {there[0]} of no run; choose another folder, or give --force."
            raise InputError(msg)
        return
    if force:
        return
    try:
        held = plain(json.loads((folder / RUN).read_text(encoding="utf-8")))
        other = [name for name in options if held["plan"].get(name) != options[name]]
        is_finished, diverged = held["finished"], held.get("diverged", "")
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        msg = f"{folder / RUN} cannot be read ({error}); choose another folder, or give --force."
        raise InputError(msg) from error
    if other:
        name = other[0]
        msg = (
            f"{folder} holds a training with {name} {held['plan'].get(name)!r}, and this one has "
            f"{options[name]!r}; choose another folder with -o, or replace it with --force."
        )
        raise InputError(msg)
    if diverged:
        msg = f"{folder} holds this training, which diverged: {diverged} Or give --force."
        raise InputError(msg)
    if is_finished:
        msg = f"{folder} holds this training, finished; choose another with -o, or give --force."
        raise InputError(msg)


def begin(folder: Path, options: Mapping[str, Any], *, force: bool) -> None:
    """Write down what is being done in a folder; with force, what is there is set aside.

    Raises:
        InputError: It cannot be written to.
    """
    try:
        if force:
            _set_aside(folder)
        write(folder / RUN, json.dumps({"finished": False, "plan": options}, indent=2) + "\n")
    except OSError as error:
        raise InputError(_unwritable(folder, error)) from error


def settle(folder: Path) -> None:
    """Remove what a new training has replaced, or put it back where that one has not begun.

    It has begun once it is kept or its outcome is written. A kill at any moment, here too, leaves
    a folder that this brings in order.

    Raises:
        InputError: The folder cannot be written to.
    """
    replaced, moving = folder / REPLACED, folder / MOVING
    try:
        if replaced.exists() and _has_begun(folder):
            shutil.rmtree(replaced)
        elif replaced.exists():
            leave_nothing(folder)
            replaced.rename(moving)
        if moving.exists():
            for path in list(moving.iterdir()):
                path.rename(folder / path.name)
            moving.rmdir()
    except OSError as error:
        raise InputError(_unwritable(folder, error)) from error


def leave_nothing(folder: Path) -> None:
    """Take back what a training began that could not run."""
    shutil.rmtree(folder / PROBES, ignore_errors=True)
    for name in OURS:
        (folder / name).unlink(missing_ok=True)


def write(path: Path, text: str) -> None:
    """Write a text under another name, then rename it."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


def _set_aside(folder: Path) -> None:
    there = [name for name in (*OURS, PROBES) if (folder / name).exists()]
    (folder / MOVING).mkdir()
    for name in there:
        (folder / name).rename(folder / MOVING / name)
    (folder / MOVING).rename(folder / REPLACED)


def _has_begun(folder: Path) -> bool:
    if (folder / KEPT).exists():
        return True
    try:
        return "files" in json.loads((folder / RUN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False


def _unwritable(folder: Path, error: OSError) -> str:
    return f"Nothing can be written to {folder}: {error.strerror}. Choose another with -o."

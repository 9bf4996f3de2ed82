"""The folder of a training: what may be in it before, and what is taken back."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alignlab.errors import InputError

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
        held = json.loads((folder / RUN).read_text(encoding="utf-8"))
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
    """Write down what is being done in a folder.

    Raises:
        InputError: It cannot be written to.
    """
    try:
        if force:
            shutil.rmtree(folder / PROBES, ignore_errors=True)
            for name in OURS:
                (folder / name).unlink(missing_ok=True)
        write(folder / RUN, json.dumps({"finished": False, "plan": options}, indent=2) + "\n")
    except OSError as error:
        msg = f"Nothing can be written to {folder}: {error.strerror}. Choose another with -o."
        raise InputError(msg) from error


def leave_nothing(folder: Path) -> None:
    """Take back what a training began that could not run."""
    shutil.rmtree(folder / PROBES, ignore_errors=True)
    for name in (RUN, INITIAL):
        (folder / name).unlink(missing_ok=True)


def write(path: Path, text: str) -> None:
    """Write a text under another name, then rename it."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)

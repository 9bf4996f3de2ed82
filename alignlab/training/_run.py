"""A training in a folder: planned, kept, gone on with, and left as files that say all."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from alignlab.analyze._scores import parameter_hash, provenance
from alignlab.checkpoints import open_checkpoint
from alignlab.errors import AlignlabError, InputError
from alignlab.recording import save
from alignlab.schedules import log_spaced, never
from alignlab.training._checkpoint import Training, save_checkpoint
from alignlab.training._loop import train
from alignlab.training._plan import Material, Plan
from alignlab.training._probing import Watcher

__all__ = ["train_into"]

RUN = "run.json"
KEPT = "kept.pt"
PROBES = "probes"
CHECKPOINT = "checkpoint.pt"
RECORDING = "recording.nc"
LOSSES = "losses.csv"
OURS = (RUN, KEPT, CHECKPOINT, RECORDING, LOSSES)


def train_into(
    folder: str | Path,
    plan: Plan,
    *,
    command: str = "",
    download: bool = False,
    force: bool = False,
    progress: Callable[[str, int, int], None] = lambda _label, _done, _total: None,
) -> dict[str, Any]:
    """Train by a plan into a folder; one that a kill left there is gone on with, to the same bits.

    Args:
        folder: Made where it is not there. At the end it holds ``checkpoint.pt``,
            ``losses.csv``, ``recording.nc`` where there was a probe, and ``run.json``, which is
            finished only when all of them are.
        plan: What is trained, on what, and how.
        command: Command line, for the recording.
        download: Fetch a data set that is not there.
        force: Start anew where a training is in the folder.
        progress: Called with what is done, how much of it and of how much.

    Returns:
        What ``run.json`` holds.

    Raises:
        InputError: A finished training, another one, or other files are there.
        AlignlabError: Whatever is wrong with the plan.
    """
    folder = Path(folder)
    options = plan.options()
    _require_free(folder, options, force=force)
    material = plan.material(download=download)
    # A plan that torch refuses leaves no folder behind.
    plan.recipe.schedule_of(plan.recipe.optimizer_of(material.model.parameters()))
    _begin(folder, options, force=force)
    watcher = _watcher(folder, plan, material)
    try:
        training = train(
            material.model,
            material.loss,
            x=material.data.x,
            y=material.data.y,
            rule=plan.chosen_rule(),
            recipe=plan.recipe,
            held=material.held_out(),
            watch=watcher,
            when=log_spaced(plan.per_decade) if plan.per_decade else never,
            keep=folder / KEPT,
            progress=progress,
        )
    except AlignlabError:
        if not (folder / KEPT).exists():
            _leave_nothing(folder, watcher)
        raise
    return _left(folder, plan, material, training, watcher=watcher, command=command)


def _watcher(folder: Path, plan: Plan, material: Material) -> Watcher | None:
    if material.probed is None:
        return None
    return Watcher(
        folder / PROBES,
        material.loss,
        material.probed,
        diagnostics=plan.chosen_diagnostics(),
        draws=plan.draws,
    )


def _left(
    folder: Path,
    plan: Plan,
    material: Material,
    training: Training,
    *,
    watcher: Watcher | None,
    command: str,
) -> dict[str, Any]:
    """Write everything, ``run.json`` last."""
    path = save_checkpoint(
        folder / CHECKPOINT,
        material.model,
        training,
        data=material.data.name,
        data_hash=material.data.hash,
        loss=plan.loss,
        data_spec=plan.data,
        model_spec=plan.model,
        model_arguments=dict(plan.options()["model_arguments"]),
        init_seed=plan.init_seed,
        epochs_done=len(training.losses),
    )
    _write_losses(folder / LOSSES, training)
    recording = None if watcher is None else watcher.recording(training.history)
    if recording is not None:
        about = provenance(open_checkpoint(path), command=command, kind="probe")
        recording.attrs.update({**about, **_described(plan, material)})
        save(recording, folder / RECORDING, overwrite=True)
    found = {
        "finished": True,
        "plan": plan.options(),
        "trained_on": material.data.name,
        "epochs": len(training.losses),
        "steps": training.history[-1]["step"] if training.history else None,
        "loss": training.losses[-1] if training.losses else None,
        "held_out": "" if material.held is None else material.held.name,
        "held_loss": training.held_losses[-1] if training.held_losses else None,
        "held_accuracy": training.held_accuracies[-1] if training.held_accuracies else None,
        "files": [CHECKPOINT, LOSSES, *([RECORDING] if recording is not None else [])],
    }
    _write(folder / RUN, json.dumps(found, indent=2) + "\n")
    if watcher is not None:
        watcher.remove()
    return found


def _described(plan: Plan, material: Material) -> dict[str, Any]:
    """Return what a recording says of the training and of the samples that were probed."""
    probed = material.probed or material.data
    return {
        "model_spec": plan.model,
        "model_arguments": ", ".join(f"{k}={v}" for k, v in plan.model_arguments.items()),
        "parameter_hash": parameter_hash(material.model),
        "data": probed.name,
        "data_hash": probed.hash,
        "n_classes": probed.n_classes or 0,
        "mean": "" if plan.mean is None else str(plan.mean),
        "std": "" if plan.std is None else str(plan.std),
        "loss": plan.loss,
        "reduction": material.loss.reduction,
        "trained_on": material.data.name,
        "trained_by": json.dumps(plan.options()),
    }


def _require_free(folder: Path, options: Mapping[str, Any], *, force: bool) -> None:
    """Refuse a folder that holds something else than the beginning of this training."""
    if folder.exists() and not folder.is_dir():
        msg = f"{folder} is a file; name a folder with -o."
        raise InputError(msg)
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
        is_finished = held["finished"]
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
    if is_finished:
        msg = f"{folder} holds this training, finished; choose another with -o, or give --force."
        raise InputError(msg)


def _begin(folder: Path, options: Mapping[str, Any], *, force: bool) -> None:
    """Make the folder, and write down what is being done in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if force:
            shutil.rmtree(folder / PROBES, ignore_errors=True)
            for name in OURS:
                (folder / name).unlink(missing_ok=True)
        _write(folder / RUN, json.dumps({"finished": False, "plan": options}, indent=2) + "\n")
    except OSError as error:
        msg = f"Nothing can be written to {folder}: {error.strerror}. Choose another with -o."
        raise InputError(msg) from error


def _leave_nothing(folder: Path, watcher: Watcher | None) -> None:
    """Take back what a training began that could not run."""
    if watcher is not None:
        watcher.remove()
    (folder / RUN).unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()


def _write_losses(path: Path, training: Training) -> None:
    """Write losses by epoch as CSV."""
    columns = {"loss": training.losses}
    if training.held_losses:
        columns |= {
            "held_loss": training.held_losses,
            "held_accuracy": training.held_accuracies,
        }
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["epoch", *columns])
    for number, row in enumerate(zip(*columns.values(), strict=True)):
        writer.writerow([number + 1, *row])
    _write(path, text.getvalue())


def _write(path: Path, text: str) -> None:
    """Write a text under another name, then rename it."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)

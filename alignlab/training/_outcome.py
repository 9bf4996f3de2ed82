"""What a training by a plan leaves in its folder."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignlab.analyze._scores import parameter_hash, provenance
from alignlab.checkpoints import open_checkpoint
from alignlab.learner import Learner
from alignlab.plain import plain
from alignlab.recording import save
from alignlab.training._checkpoint import Training, restore_best, save_checkpoint
from alignlab.training._folder import (
    BEST,
    CHECKPOINT,
    INITIAL,
    KEPT,
    LOSSES,
    RECORDING,
    RUN,
    write,
)
from alignlab.training._plan import Material, Plan
from alignlab.training._probing import Watcher
from alignlab.training._random import undisturbed
from alignlab.training._starting import initial_feedback

__all__ = ["Outcome"]


@dataclass(frozen=True)
class Outcome:
    """A folder, and all that is told in it.

    Attributes:
        folder: The folder.
        plan: What was asked for.
        material: Model and data.
        watcher: The probe, if there is one.
        command: Command line, for the recording.
    """

    folder: Path
    plan: Plan
    material: Material
    watcher: Watcher | None
    command: str

    def write_initial(self) -> None:
        """Write the checkpoint of the initial weights, with the feedback that will be drawn.

        Raises:
            MeasurementError: The rule is not defined for this model.
        """
        if (self.folder / INITIAL).exists():
            return
        plan, data, model = self.plan, self.material.data, self.material.model
        learner = Learner(model, self.material.loss, plan.chosen_rule())
        few = slice(0, plan.recipe.batch_size)
        device = next(p.device for p in model.parameters())
        batch = data.x[few].to(device), data.y[few].to(device)
        model.eval()
        with undisturbed(device):
            feedback = initial_feedback(learner, self.material.loss, *batch)
        self._save(INITIAL, Training(learner.rule, feedback, (), plan.recipe.options()))

    def write(self, training: Training, *, diverged: str = "") -> dict[str, Any]:
        """Write everything, ``run.json`` last, and return what that holds.

        Args:
            training: What was done.
            diverged: Why it could not go on; there are no last weights worth keeping then.
        """
        files = [INITIAL]
        if training.best is not None:
            last = deepcopy(self.material.model.state_dict())
            best = restore_best(self.material.model, training)
            files.append(self._save(BEST, best).name)
            self.material.model.load_state_dict(last)
        if not diverged:
            files.append(self._save(CHECKPOINT, training).name)
        files.append(_write_losses(self.folder / LOSSES, training).name)
        recording = None if self.watcher is None else self.watcher.recording(training.history)
        if recording is not None:
            of = open_checkpoint(self.folder / (INITIAL if diverged else CHECKPOINT))
            about = provenance(of, command=self.command, kind="probe")
            recording.attrs.update({**about, **self._described()})
            save(recording, self.folder / RECORDING, overwrite=True)
            files.append(RECORDING)
        found: dict[str, Any] = plain(self._summary(training) | {"files": files})
        found |= {"finished": False, "diverged": diverged} if diverged else {}
        write(self.folder / RUN, json.dumps(found, indent=2) + "\n")
        (self.folder / KEPT).unlink(missing_ok=True)
        if self.watcher is not None:
            self.watcher.remove()
        return found

    def _save(self, name: str, training: Training) -> Path:
        """Write a checkpoint of the model as it is."""
        plan, data = self.plan, self.material.data
        return save_checkpoint(
            self.folder / name,
            self.material.model,
            training,
            data=data.name,
            data_hash=data.hash,
            loss=plan.loss,
            data_spec=plan.data,
            model_spec=plan.model,
            model_arguments=dict(plan.options()["model_arguments"]),
            init_seed=plan.init_seed,
            epochs_done=len(training.losses),
        )

    def _summary(self, training: Training) -> dict[str, Any]:
        """Return what is told of the whole in ``run.json``."""
        held = self.material.held
        best = training.best
        return {
            "finished": True,
            "plan": self.plan.options(),
            "trained_on": self.material.data.name,
            "epochs": len(training.losses),
            "steps": training.steps,
            "held_out": "" if held is None else held.name,
            **_numbers(training, len(training.losses)),
            "best": best
            and {"epoch": best.epoch, "steps": best.step} | _numbers(training, best.epoch),
        }

    def _described(self) -> dict[str, Any]:
        """Return what a recording says of the training and of the samples that were probed."""
        plan, material = self.plan, self.material
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


def _numbers(training: Training, epoch: int) -> dict[str, float | None]:
    """Return losses and accuracy after an epoch, counted from 1; None where there are none."""
    columns: Mapping[str, tuple[float, ...]] = {
        "loss": training.losses,
        "held_loss": training.held_losses,
        "held_accuracy": training.held_accuracies,
    }
    return {name: values[epoch - 1] if values else None for name, values in columns.items()}


def _write_losses(path: Path, training: Training) -> Path:
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
    write(path, text.getvalue())
    return path

"""A probe that watches a training, and what it leaves on the way: a recording a step."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from alignlab.analyze._scores import scores, with_scores
from alignlab.datasets import Samples
from alignlab.errors import InputError, MeasurementError, MissingError, RecordingError
from alignlab.learner import Learner
from alignlab.probe import Probe
from alignlab.recording import Variable, load, save
from alignlab.rules._base import Rule
from alignlab.rules.bp import BP
from alignlab.rules.dfa import DFA
from alignlab.rules.usf import USF
from alignlab.snapshot import MeasuredRule
from alignlab.specs.losses import Loss
from alignlab.training._starting import initial_state
from alignlab.training._steps import Moment

__all__ = ["Watcher"]

TRAINING_LOSS = Variable(
    "training_loss",
    (),
    "Mean training loss of the epoch so far, or of the last one",
    source="mean over samples",
    better="lower",
)


@final
class Watcher:
    """Measures the rule of a training on the same samples, in evaluation mode.

    The rules are that of the training, with what it holds, and uSF; beside backpropagation they
    are DFA, drawn, and uSF.

    Args:
        folder: Where the recording of each step is kept until they are put together.
        loss: The loss.
        samples: What is probed.
        diagnostics: Names of diagnostics.
        draws: Redraws for each chance level.
    """

    def __init__(
        self,
        folder: Path,
        loss: Loss,
        samples: Samples,
        *,
        diagnostics: Sequence[str],
        draws: int,
    ) -> None:
        """Measure nothing yet."""
        self._folder = folder
        self._loss = loss
        self._samples = samples
        self._diagnostics = diagnostics
        self._draws = draws

    def __call__(self, moment: Moment) -> Mapping[str, Any]:
        """Measure, and return the name of the file that holds what was found.

        Raises:
            MeasurementError: The model or the rule cannot be measured; said before the first
                step, and noted where it happens later.
        """
        device = next(p.device for p in moment.model.parameters())
        x, y = self._samples.x.to(device), self._samples.y.to(device)
        moment.model.eval()
        probe = Probe(
            moment.model,
            self._loss,
            rules=self._rules(moment, x, y),
            diagnostics=self._diagnostics,
            draws=self._draws,
        )
        torch.manual_seed(0)
        try:
            recording = probe.measure(x, y)
        except MeasurementError as error:
            if not moment.step:
                raise
            return {"refused": str(error)}
        if probe.output is not None:
            recording = with_scores(recording, scores(probe.output, probe.loss, self._samples))
        loss = xr.Variable(("step",), np.array([moment.loss]), dict(TRAINING_LOSS.attrs))
        step = ("step", [moment.step], dict(recording["step"].attrs))
        recording = recording.assign({TRAINING_LOSS.name: loss}).assign_coords(step=step)
        name = f"{moment.step:010d}.nc"
        self._folder.mkdir(parents=True, exist_ok=True)
        save(recording, self._folder / name, overwrite=True)
        return {"recording": name}

    def recording(self, history: Sequence[Mapping[str, Any]]) -> xr.Dataset | None:
        """Put together what was measured along ``step``; None where nothing was.

        Raises:
            InputError: What was measured at a step is gone or damaged.
        """
        parts = self._parts(history)
        if not parts:
            return None
        fixed = [name for name, v in parts[-1].data_vars.items() if "step" not in v.dims]
        common = [name for name in parts[0].data_vars if all(name in part for part in parts)]
        joined = xr.concat(
            [part[[name for name in common if name not in fixed]] for part in parts],
            dim="step",
            join="outer",
            coords="minimal",
            compat="override",
            combine_attrs="override",
        )
        kept = {name: parts[-1][name] for name in fixed if name in common}
        refused = {m["step"]: m["refused"] for m in history if "refused" in m}
        found = joined.assign(kept)[common].assign_attrs(parts[0].attrs)
        if refused:
            said = "; ".join(f"step {step}: {text}" for step, text in refused.items())
            found.attrs["probe_notes"] = f"Not measured: {said}"
        return found

    def require(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Refuse to go on from a history of which something is lost.

        Raises:
            InputError: What was measured at a step is gone or damaged.
        """
        self._parts(history)

    def remove(self) -> None:
        """Remove the recordings of single steps."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _parts(self, history: Sequence[Mapping[str, Any]]) -> list[xr.Dataset]:
        names = [moment["recording"] for moment in history if "recording" in moment]
        try:
            return [load(self._folder / name) for name in names]
        except (MissingError, RecordingError) as error:
            msg = (
                f"The training cannot go on without what it measured: {error} Put that file back, "
                "or start anew with --force."
            )
            raise InputError(msg) from error

    def _rules(self, moment: Moment, x: Tensor, y: Tensor) -> list[Rule | MeasuredRule]:
        learner = moment.learner
        if isinstance(learner.rule, BP):
            return [DFA(), USF()]
        first = learner.measured() if moment.step else self._begun(learner, x, y)
        return [first, *([] if learner.rule.label == USF().label else [USF()])]

    def _begun(self, learner: Learner, x: Tensor, y: Tensor) -> MeasuredRule:
        """Return the rule with the state that its first step will draw."""
        rule = learner.rule
        if rule.is_derived:
            return MeasuredRule(rule, {}, "derived from weights")
        state = initial_state(learner, self._loss, x, y)
        return MeasuredRule(rule.at_step(0), state, "training")

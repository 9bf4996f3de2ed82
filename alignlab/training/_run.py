"""A training in a folder: planned, kept, gone on with, and left as files that say all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from alignlab.errors import AlignlabError, DivergedError
from alignlab.locks import Lock
from alignlab.schedules import log_spaced, never
from alignlab.training._folder import (
    KEPT,
    PROBES,
    begin,
    leave_nothing,
    require_free,
    settle,
)
from alignlab.training._loop import train
from alignlab.training._outcome import Outcome
from alignlab.training._plan import Material, Plan
from alignlab.training._probing import Watcher
from alignlab.training._resuming import kept_history

__all__ = ["train_into"]

Progress = Callable[[str, int, int], None]


def train_into(
    folder: str | Path,
    plan: Plan,
    *,
    command: str = "",
    download: bool = False,
    force: bool = False,
    progress: Progress = lambda _label, _done, _total: None,
) -> dict[str, Any]:
    """Train by a plan into a folder; one that a kill left there is gone on with, to the same bits.

    Args:
        folder: Made where it is not there, and held by this process while it trains. At the end
            it holds ``initial.pt`` and ``checkpoint.pt``, ``best.pt`` where there was patience,
            ``losses.csv``, ``recording.nc`` where there was a probe, and ``run.json``, which is
            finished only when all of them are.
        plan: What is trained, on what, and how.
        command: Command line, for the recording.
        download: Fetch a data set that is not there.
        force: Start anew where a training is in the folder; it stays if the new one is refused.
        progress: Called with what is done, how much of it and of how much.

    Returns:
        What ``run.json`` holds.

    Raises:
        DivergedError: The loss or the weights are no longer finite; what was recorded until then
            is in the folder, but no last checkpoint.
        InputError: A finished training, another one, another process or other files are there.
        AlignlabError: Whatever is wrong with the plan.
    """
    folder = Path(folder)
    options = plan.options()
    with Lock(folder):
        settle(folder)
        require_free(folder, options, force=force)
        material = plan.material(download=download)
        # A plan that torch refuses leaves no folder behind.
        plan.recipe.schedule_of(plan.recipe.optimizer_of(material.model.parameters()))
        try:
            begin(folder, options, force=force)
            watcher = _watcher(folder, plan, material)
            return _trained(Outcome(folder, plan, material, watcher, command), progress)
        finally:
            settle(folder)


def _trained(outcome: Outcome, progress: Progress) -> dict[str, Any]:
    """Train, and write what came out of it."""
    folder, plan, material = outcome.folder, outcome.plan, outcome.material
    try:
        if outcome.watcher is not None:
            outcome.watcher.require(kept_history(folder / KEPT))
        outcome.write_initial()
        training = train(
            material.model,
            material.loss,
            x=material.data.x,
            y=material.data.y,
            rule=plan.chosen_rule(),
            recipe=plan.recipe,
            held=material.held_out(),
            watch=outcome.watcher,
            when=log_spaced(plan.per_decade) if plan.per_decade else never,
            keep=folder / KEPT,
            keep_ended=True,
            progress=progress,
        )
    except DivergedError as error:
        if error.reached is None or not error.reached.steps:
            leave_nothing(folder)
            raise
        outcome.write(error.reached, diverged=str(error))
        msg = f"{error} What was recorded until then is in {folder}."
        raise DivergedError(msg) from error
    except AlignlabError:
        if not (folder / KEPT).exists():
            leave_nothing(folder)
        raise
    return outcome.write(training)


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

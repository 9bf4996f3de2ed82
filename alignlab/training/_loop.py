"""The loop: epochs of steps by any rule, watched, kept, and gone on with."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from alignlab.engine.capture import Loss
from alignlab.errors import InputError
from alignlab.learner import Learner
from alignlab.rules._base import Rule
from alignlab.schedules import Schedule, never
from alignlab.training._checkpoint import Training
from alignlab.training._recipe import Recipe
from alignlab.training._resuming import Keeper

__all__ = ["Moment", "train"]

KEEP_SECONDS = 30.0
"""Seconds of work that a kill may cost, beside the epoch that it falls into."""


@dataclass(frozen=True)
class Moment:
    """A training between two steps.

    Attributes:
        model: In training mode; whatever is done to it here is seen by the training.
        learner: The rule with its present state; ``learner.measured()`` is for a probe.
        step: How many steps were made.
        epoch: How many passes over the data that is.
        loss: Mean loss of the epoch so far, or of the last one; NaN before the first step.
    """

    model: nn.Module
    learner: Learner
    step: int
    epoch: float
    loss: float


def train(  # noqa: PLR0913 - each is one property of a training
    model: nn.Module,
    loss_function: Loss,
    *,
    x: Tensor,
    y: Tensor,
    rule: Rule,
    recipe: Recipe,
    watch: Callable[[Moment], Mapping[str, Any]] | None = None,
    when: Schedule = never,
    keep: str | Path | None = None,
    progress: Callable[[str, int, int], None] = lambda _label, _done, _total: None,
) -> Training:
    """Train a model in place with the updates of a rule.

    Feedback is drawn once, from the rule's own seed, before the first step; rules that draw in
    every pass do so from that seed and the number of the step, and rules that learn their
    feedback change it after every step. Torch's global random state is left as it was.

    Args:
        model: Trained in place, in training mode.
        loss_function: Takes output and targets, returns a scalar.
        x: Inputs, shape ``(n_samples, ...)``.
        y: Targets.
        rule: Any rule.
        recipe: How.
        watch: Called before the steps that are due, counted from 0, and after the last; returns
            plain values and tensors.
        when: Which steps are due.
        keep: File in which the training is kept while it goes on; one that is found there is
            gone on with, to the same bits, and it is removed at the end.
        progress: Called with what is done, how much of it and of how much.

    Raises:
        InputError: The loss is no longer finite, a frozen name is not in the model, or what is
            kept is that of another training.
    """
    parameters = _learning(model, recipe.frozen)
    optimizer = recipe.optimizer_of(parameters.values())
    schedule = recipe.schedule_of(optimizer)
    learner = Learner(model, loss_function, rule)
    run = _Run(learner, optimizer, recipe, watch, when)
    targets = recipe.targets(y)
    keeper = Keeper(keep, model, optimizer, schedule, learner, recipe, KEEP_SECONDS)
    devices = [x.device] if x.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(recipe.dropout_seed)
        model.train()
        run.resume(keeper)
        for epoch in range(len(run.losses), recipe.epochs):
            if run.losses and recipe.stop_loss is not None and run.losses[-1] <= recipe.stop_loss:
                break
            run.epoch(x, targets)
            if schedule is not None:
                schedule.step()
            keeper.keep(run.step, run.losses, run.history, run.order)
            progress(f"training by {rule.label}, loss {run.losses[-1]:.3f}", epoch + 1, recipe.epochs)
        run.look(float(len(run.losses)), run.losses[-1] if run.losses else math.nan, last=True)
    model.zero_grad()
    keeper.remove()
    return Training(
        rule, learner.feedback, tuple(run.losses), recipe.options(), tuple(run.history)
    )


class _Run:
    """The state of a training between two steps."""

    def __init__(
        self,
        learner: Learner,
        optimizer: torch.optim.Optimizer,
        recipe: Recipe,
        watch: Callable[[Moment], Mapping[str, Any]] | None,
        when: Schedule,
    ) -> None:
        self.learner = learner
        self.optimizer = optimizer
        self.recipe = recipe
        self.watch = watch
        self.when = when
        self.step = 0
        self.losses: list[float] = []
        self.history: list[Mapping[str, Any]] = []
        self.order = torch.Generator().manual_seed(recipe.order_seed)

    def resume(self, keeper: Keeper) -> None:
        """Go on from what was kept, if anything was."""
        found = keeper.found(self.order)
        if found is not None:
            self.step, self.losses, self.history = found

    def epoch(self, x: Tensor, y: Tensor) -> None:
        """Take a step on every batch; raise InputError where the loss is not finite."""
        size = self.recipe.batch_size
        batches = torch.randperm(len(x), generator=self.order).split(size)
        if self.recipe.drop_last and len(batches) > 1 and len(batches[-1]) < size:
            batches = batches[:-1]
        total, seen = 0.0, 0
        before = self.losses[-1] if self.losses else math.nan
        for number, chosen in enumerate(batches):
            epoch = len(self.losses) + number / len(batches)
            self.look(epoch, total / seen if seen else before)
            loss = self._step(x[chosen.to(x.device)], y[chosen.to(y.device)])
            if not math.isfinite(loss):
                msg = (
                    f"The loss is {loss} in epoch {len(self.losses) + 1}; lower the learning "
                    "rate (lr)."
                )
                raise InputError(msg)
            total += loss * len(chosen)
            seen += len(chosen)
        self.losses.append(total / max(seen, 1))

    def look(self, epoch: float, loss: float, *, last: bool = False) -> None:
        """Watch, where that is due and was not done at this step."""
        done = bool(self.history) and self.history[-1]["step"] == self.step
        if self.watch is None or done or not (last or self.when(self.step)):
            return
        moment = Moment(self.learner.model, self.learner, self.step, epoch, loss)
        found = self.watch(moment)
        self.learner.model.train()
        self.history.append({"step": self.step, "epoch": epoch, **found})

    def _step(self, x: Tensor, y: Tensor) -> float:
        self.learner.model.zero_grad()
        with self._precision(x.device):
            loss = self.learner.backward(x, y).item()
        if math.isfinite(loss):
            self.optimizer.step()
        self.step += 1
        return loss

    def _precision(self, device: torch.device) -> AbstractContextManager[Any]:
        if self.recipe.precision == "float32":
            return nullcontext()
        if self.recipe.precision != "bfloat16":
            msg = f"There is no precision {self.recipe.precision!r}; there are float32, bfloat16."
            raise InputError(msg)
        return torch.autocast(device.type, dtype=torch.bfloat16)


def _learning(model: nn.Module, frozen: tuple[str, ...]) -> dict[str, nn.Parameter]:
    """Return the parameters that learn, by name."""
    named = dict(model.named_parameters())
    unknown = [name for name in frozen if name not in named]
    if unknown:
        message = (
            f"There is no parameter {unknown[0]!r} to freeze in {type(model).__name__}; it has "
            f"{', '.join(named)}."
        )
        raise InputError(message)
    return {name: p for name, p in named.items() if name not in frozen and p.requires_grad}

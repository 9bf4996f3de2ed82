"""The state of a training between two steps, and how it goes from one to the next."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from alignlab.engine.capture import Loss
from alignlab.engine.forward import called
from alignlab.errors import DivergedError, InputError, MeasurementError
from alignlab.feedback import encoded
from alignlab.learner import Learner
from alignlab.schedules import Schedule
from alignlab.training._held import evaluated, is_out_of_patience, least
from alignlab.training._random import undisturbed
from alignlab.training._recipe import Recipe

__all__ = ["Moment", "Steps", "host_state"]


@dataclass(frozen=True)
class Moment:
    """A training between two steps.

    Attributes:
        model: In training mode; whatever is done to its weights and buffers here is seen by the
            training.
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


class Steps:
    """A training on its way: what it has done, and what it does next."""

    def __init__(
        self,
        learner: Learner,
        loss_function: Loss,
        optimizer: torch.optim.Optimizer,
        *,
        recipe: Recipe,
        watch: Callable[[Moment], Mapping[str, Any]] | None,
        when: Schedule,
    ) -> None:
        """Stand before the first step."""
        self.learner = learner
        self.optimizer = optimizer
        self.schedule = recipe.schedule_of(optimizer)
        self.recipe = recipe
        self.device = next(p.device for p in learner.model.parameters())
        self.losses: list[float] = []
        self.held_losses: list[float] = []
        self.held_accuracies: list[float] = []
        self.history: list[Mapping[str, Any]] = []
        self.best: dict[str, Any] | None = None
        self.step = 0
        self._loss_function = loss_function
        self._watch = watch
        self._when = when
        self._order = torch.Generator().manual_seed(recipe.order_seed)

    @property
    def last_loss(self) -> float:
        """Mean loss of the last epoch; NaN before the first has ended."""
        return self.losses[-1] if self.losses else math.nan

    def values(self) -> dict[str, Any]:
        """Return what was done so far, as plain values and tensors."""
        return {
            "step": self.step,
            "losses": list(self.losses),
            "held_losses": list(self.held_losses),
            "held_accuracies": list(self.held_accuracies),
            "history": list(self.history),
            "best": self.best,
            "order": self._order.get_state(),
        }

    def go_on_from(self, values: Mapping[str, Any] | None) -> None:
        """Take up what ``values`` returned; None is the beginning."""
        if values is None:
            return
        self.step = int(values["step"])
        self.losses = list(values["losses"])
        self.held_losses = list(values["held_losses"])
        self.held_accuracies = list(values["held_accuracies"])
        self.history = list(values["history"])
        self.best = values["best"]
        self._order.set_state(values["order"])

    def is_over(self) -> bool:
        """Say whether all epochs are done, or the losses say that it is enough."""
        if len(self.losses) >= self.recipe.epochs:
            return True
        stop = self.recipe.stop_loss
        if stop is not None and self.losses and self.losses[-1] <= stop:
            return True
        return is_out_of_patience(self.held_losses, self.recipe.patience)

    def epoch(self, x: Tensor, y: Tensor, held: tuple[Tensor, Tensor] | None) -> None:
        """Take a step on every batch, see to the held-out data, and move the learning rate.

        Raises:
            DivergedError: The loss or the weights are not finite, or optimizer or schedule
                cannot go on.
        """
        size = self.recipe.batch_size
        batches = torch.randperm(len(x), generator=self._order).split(size)
        if self.recipe.drop_last and len(batches) > 1 and len(batches[-1]) < size:
            batches = batches[:-1]
        total, seen = 0.0, 0
        for number, chosen in enumerate(batches):
            loss = total / seen if seen else self.last_loss
            self.look(len(self.losses) + number / len(batches), loss)
            total += self._stepped(x[chosen.to(x.device)], y[chosen.to(y.device)]) * len(chosen)
            seen += len(chosen)
        self._require_finite_weights()
        if held is not None:
            found = evaluated(self.learner.model, self._loss_function, *held)
            if not math.isfinite(found[0]):
                self._diverge(f"The loss on held-out data is {found[0]}")
            self.held_losses.append(found[0])
            self.held_accuracies.append(found[1])
            self._remember_best()
        self.losses.append(total / seen)
        with self._refused(self.recipe.schedule):
            if isinstance(self.schedule, torch.optim.lr_scheduler.ReduceLROnPlateau):
                self.schedule.step(self.losses[-1])
            elif self.schedule is not None:
                self.schedule.step()

    def look(self, epoch: float, loss: float, *, last: bool = False) -> None:
        """Watch, where that is due and was not done at this step."""
        done = bool(self.history) and self.history[-1]["step"] == self.step
        if self._watch is None or done or not (last or self._when(self.step)):
            return
        model = self.learner.model
        with undisturbed(self.device):
            found = self._watch(Moment(model, self.learner, self.step, epoch, loss))
        model.train()
        seen = {name: _plain(value, name) for name, value in found.items()}
        self.history.append(seen | {"step": self.step, "epoch": epoch})

    def _stepped(self, x: Tensor, y: Tensor) -> float:
        """Take a step on a batch and return its loss."""
        x, y = x.to(self.device), y.to(self.device)
        self.learner.model.zero_grad()
        with self._precision():
            try:
                loss = self.learner.backward(x, y).item()
            except MeasurementError:
                self._require_finite(self._loss_at(x, y))
                raise
        self._require_finite(loss)
        with self._refused(self.recipe.optimizer):
            self.optimizer.step()
        self.step += 1
        return loss

    def _remember_best(self) -> None:
        """Copy weights and feedback where the held-out loss is the least and will be asked for."""
        number = len(self.held_losses)
        if self.recipe.patience is None or least(self.held_losses) != number - 1:
            return
        self.best = {
            "epoch": number,
            "step": self.step,
            "weights": deepcopy(host_state(self.learner.model)),
            "feedback": deepcopy(encoded(self.learner.feedback)),
        }

    @contextmanager
    def _refused(self, name: str) -> Iterator[None]:
        """Say in one line what an optimizer or a schedule cannot do with its arguments."""
        try:
            yield
        except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:
            options = self.recipe.options()
            if name == self.recipe.schedule:
                given = options["schedule_options"]
            else:
                given = {**options["optimizer_options"], "lr": self.optimizer.param_groups[0]["lr"]}
            said = ", ".join(f"{key}={value!r}" for key, value in given.items())
            text = " ".join(str(error).split()).rstrip(".")
            msg = (
                f"{name} with {said or 'no arguments'} cannot go on after {self._done}: "
                f"{text}. Change its arguments."
            )
            raise (DivergedError if self.step else InputError)(msg) from error

    @torch.no_grad()
    def _loss_at(self, x: Tensor, y: Tensor) -> float:
        return float(self._loss_function(called(self.learner.model, x), y))

    def _require_finite(self, loss: float) -> None:
        if math.isfinite(loss):
            return
        if self.step:
            self._diverge(f"The loss is {loss}")
        msg = (
            f"The loss is {loss} before the first step; look at the data, their scale (mean, std) "
            "and the initial weights."
        )
        raise DivergedError(msg)

    def _require_finite_weights(self) -> None:
        """Refuse what the last step of an epoch may have left, of which no loss tells."""
        for name, parameter in self.learner.model.named_parameters():
            if parameter.requires_grad and not parameter.isfinite().all():
                self._diverge(f"{name} is no longer finite")

    @property
    def _done(self) -> str:
        return "1 step" if self.step == 1 else f"{self.step} steps"

    def _diverge(self, what: str) -> NoReturn:
        msg = (
            f"{what} after {self._done}, in epoch {len(self.losses) + 1}; lower the learning "
            "rate (lr), or whatever else makes steps large, such as momentum or weight_decay."
        )
        raise DivergedError(msg)

    def _precision(self) -> AbstractContextManager[Any]:
        if self.recipe.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)


def host_state(model: nn.Module) -> dict[str, Any]:
    """Return the state of a model on the host, so that a file of it can be read anywhere.

    Tensors that are on the host already are the model's own.
    """
    state = model.state_dict().items()
    return {name: one.cpu() if isinstance(one, Tensor) else one for name, one in state}


def _plain(value: Any, name: str) -> Any:
    """Return a watched value as one that a file can hold; numpy's become torch's and Python's."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, Mapping):
        return {key: _plain(one, name) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one, name) for one in value]
    if isinstance(value, bool | int | float | str | bytes | type(None)):
        return value
    msg = (
        f"What was watched as {name!r} is {type(value).__name__}; return numbers, words, tensors "
        "and lists or dicts of them, so that a file can hold them."
    )
    raise InputError(msg)

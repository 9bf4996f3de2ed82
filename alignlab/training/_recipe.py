"""How a model is trained, as plain values that a checkpoint can hold."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, cast

import torch
from torch import Tensor

from alignlab.errors import InputError, MissingError
from alignlab.training._random import require_seed

__all__ = ["Recipe"]

PRECISIONS = ("float32", "bfloat16")
NEEDS_MORE = ("lbfgs", "sparseadam")
"""Optimizers that need a closure, or gradients of another form."""
_PLAIN = (bool, int, float, str, type(None))


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a model is trained, but for the rule, the data and the initial weights.

    Attributes:
        epochs: Passes over the data.
        batch_size: Samples a step; the last batch of an epoch may be smaller.
        drop_last: Leave such a batch out.
        optimizer: Name of a class of ``torch.optim``, in any case: ``sgd``, ``adam``, ...
        optimizer_options: Its arguments; torch's own defaults for what is not given. None for
            ``lr=0.1, momentum=0.9`` of ``sgd``, and for torch's own of any other.
        schedule: Name of a class of ``torch.optim.lr_scheduler``, stepped once an epoch; empty
            for none.
        schedule_options: Its arguments.
        label_noise: Share of the training targets that are drawn anew from all classes, so that
            with C classes a share of ``label_noise * (1 - 1/C)`` is wrong.
        precision: ``float32`` for the model's own, or ``bfloat16`` for autocast.
        stop_loss: Training ends after an epoch whose mean loss is at most this; None for never.
        patience: Training ends when the loss on held-out data has not fallen below its least
            for so many epochs; None for never. The model is left with the weights of the last
            epoch; those of the best are kept beside them, in ``Training.best``.
        frozen: Names of parameters that stay as they are, for controls.
        order_seed: Of the order of the data.
        noise_seed: Of the label noise.
        dropout_seed: Of all else that is drawn in a step, such as dropout.

    Raises:
        InputError: A value that is none of these.

    Example:
        >>> Recipe(epochs=5, optimizer="adam", optimizer_options={"lr": 0.001}).options()["epochs"]
        5
    """

    epochs: int
    batch_size: int = 64
    drop_last: bool = False
    optimizer: str = "sgd"
    optimizer_options: Mapping[str, Any] | None = None
    schedule: str = ""
    schedule_options: Mapping[str, Any] = field(default_factory=dict)
    label_noise: float = 0.0
    precision: str = "float32"
    stop_loss: float | None = None
    patience: int | None = None
    frozen: tuple[str, ...] = ()
    order_seed: int = 0
    noise_seed: int = 0
    dropout_seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what no training can be made of."""
        wrong = ""
        if self.epochs < 0:
            wrong = f"A training of {self.epochs} epochs is none; give 0 or more."
        elif self.batch_size < 1:
            wrong = f"A batch of {self.batch_size} samples is none; give at least 1."
        elif self.patience is not None and self.patience < 1:
            wrong = f"A patience of {self.patience} epochs is none; give at least 1."
        elif self.stop_loss is not None and math.isnan(self.stop_loss):
            wrong = "A loss to stop at of nan is never reached; give a number."
        elif not 0.0 <= self.label_noise <= 1.0:
            wrong = f"A share of {self.label_noise} of the targets is none; give 0 to 1."
        elif self.precision not in PRECISIONS:
            wrong = f"There is no precision {self.precision!r}; there are {', '.join(PRECISIONS)}."
        if wrong:
            raise InputError(wrong)
        require_seed(self.order_seed, "order of the data")
        require_seed(self.noise_seed, "label noise")
        require_seed(self.dropout_seed, "draws of dropout")
        _require_plain(self._optimizer_options(), "optimizer")
        _require_plain(self.schedule_options, "schedule")

    def options(self) -> dict[str, Any]:
        """Return everything as plain values."""
        found = {each.name: getattr(self, each.name) for each in fields(self)}
        return found | {
            "optimizer_options": self._optimizer_options(),
            "schedule_options": dict(self.schedule_options),
            "frozen": list(self.frozen),
        }

    def optimizer_of(self, parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
        """Return the optimizer.

        Raises:
            MissingError: torch has none of that name, or it needs more than gradients.
            InputError: It does not take these arguments.
        """
        kinds = _kinds(torch.optim, torch.optim.Optimizer)
        known = {name: kind for name, kind in kinds.items() if name not in NEEDS_MORE}
        kind = _named(known, self.optimizer, "optimizer")
        made = _made(kind, self.optimizer, list(parameters), self._optimizer_options())
        return cast("torch.optim.Optimizer", made)

    def schedule_of(
        self, optimizer: torch.optim.Optimizer
    ) -> torch.optim.lr_scheduler.LRScheduler | None:
        """Return the schedule of the learning rate; None where there is none.

        Raises:
            MissingError: torch has none of that name.
            InputError: It does not take these arguments.
        """
        if not self.schedule:
            return None
        kinds = _kinds(torch.optim.lr_scheduler, torch.optim.lr_scheduler.LRScheduler)
        kind = _named(kinds, self.schedule, "schedule")
        made = _made(kind, self.schedule, optimizer, self.schedule_options)
        return cast("torch.optim.lr_scheduler.LRScheduler", made)

    def targets(self, y: Tensor) -> Tensor:
        """Return the targets with their label noise.

        Raises:
            InputError: There are no classes to draw from.
        """
        if self.label_noise == 0.0:
            return y
        if y.is_floating_point() or y.dim() != 1:
            msg = "Label noise needs one class a sample; these targets are no classes."
            raise InputError(msg)
        stream = torch.Generator().manual_seed(self.noise_seed)
        is_drawn = torch.rand(len(y), generator=stream) < self.label_noise
        drawn = torch.randint(int(y.max()) + 1, (len(y),), generator=stream)
        return torch.where(is_drawn.to(y.device), drawn.to(y), y)

    def _optimizer_options(self) -> dict[str, Any]:
        if self.optimizer_options is not None:
            return dict(self.optimizer_options)
        return {"lr": 0.1, "momentum": 0.9} if self.optimizer.lower() == "sgd" else {}


def _require_plain(options: Mapping[str, Any], what: str) -> None:
    """Refuse arguments that a checkpoint cannot hold."""
    for name, value in options.items():
        parts = value if isinstance(value, list | tuple) else (value,)
        if any(_is_infinite(part) for part in parts):
            msg = f"The {what} is given {name}={value!r}; give finite numbers."
            raise InputError(msg)
        if not all(isinstance(part, _PLAIN) for part in parts):
            msg = (
                f"The {what} is given {name}={value!r}; its arguments are numbers, words and "
                "lists of them, so that a checkpoint can hold them."
            )
            raise InputError(msg)


def _is_infinite(value: Any) -> bool:
    """Say whether a value, or a word that stands for one, is an infinite number or none."""
    if isinstance(value, str):
        return value.lower().lstrip("+-") in {"inf", "infinity", "nan"}
    return isinstance(value, float) and not math.isfinite(value)


def _kinds(module: Any, base: type) -> dict[str, Any]:
    """Return the classes of a module below a base, by their names in small letters."""
    every = ((each, getattr(module, each)) for each in dir(module) if not each.startswith("_"))
    return {
        name.lower(): kind
        for name, kind in every
        if isinstance(kind, type) and issubclass(kind, base) and kind is not base
    }


def _named(kinds: Mapping[str, Any], name: str, what: str) -> Any:
    if name.lower() not in kinds:
        msg = f"There is no {what} {name!r} here; of torch's there are {', '.join(sorted(kinds))}."
        raise MissingError(msg)
    return kinds[name.lower()]


def _made(kind: Any, name: str, first: Any, options: Mapping[str, Any]) -> Any:
    try:
        return kind(first, **options)
    except (TypeError, ValueError, ArithmeticError, AttributeError, RuntimeError) as error:
        given = ", ".join(f"{key}={value!r}" for key, value in options.items()) or "no arguments"
        msg = f"{name} cannot be made with {given}: {' '.join(str(error).split())}."
        raise InputError(msg) from error

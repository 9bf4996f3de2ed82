"""How a model is trained, as plain values that a checkpoint can hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from alignlab.errors import InputError, MissingError

__all__ = ["Recipe"]

_SGD: Mapping[str, Any] = MappingProxyType({"lr": 0.1, "momentum": 0.9})


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a model is trained, but for the rule, the data and the initial weights.

    Attributes:
        epochs: Passes over the data.
        batch_size: Samples a step; the last batch of an epoch may be smaller.
        drop_last: Leave such a batch out.
        optimizer: Name of a class of ``torch.optim``, in any case: ``sgd``, ``adam``, ...
        optimizer_options: Its arguments; torch's own defaults for what is not given.
        schedule: Name of a class of ``torch.optim.lr_scheduler``, stepped once an epoch; empty
            for none.
        schedule_options: Its arguments.
        label_noise: Share of the training targets that are drawn anew from all classes, so that
            with C classes a share of ``label_noise * (1 - 1/C)`` is wrong.
        precision: ``float32`` for the model's own, or ``bfloat16`` for autocast.
        stop_loss: Training ends after an epoch whose mean loss is at most this; None for never.
        frozen: Names of parameters that stay as they are, for controls.
        order_seed: Of the order of the data.
        noise_seed: Of the label noise.
        dropout_seed: Of all else that is drawn in a step, such as dropout.
    """

    epochs: int
    batch_size: int = 64
    drop_last: bool = False
    optimizer: str = "sgd"
    optimizer_options: Mapping[str, Any] = field(default_factory=lambda: dict(_SGD))
    schedule: str = ""
    schedule_options: Mapping[str, Any] = field(default_factory=dict)
    label_noise: float = 0.0
    precision: str = "float32"
    stop_loss: float | None = None
    frozen: tuple[str, ...] = ()
    order_seed: int = 0
    noise_seed: int = 0
    dropout_seed: int = 0

    def options(self) -> dict[str, Any]:
        """Return everything as plain values."""
        found = asdict(self)
        return found | {"frozen": list(self.frozen)}

    def optimizer_of(self, parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
        """Return the optimizer.

        Raises:
            MissingError: torch has none of that name.
            InputError: It does not take these arguments.
        """
        kind = _named(torch.optim, self.optimizer, torch.optim.Optimizer, "optimizer")
        return _made(kind, self.optimizer, list(parameters), self.optimizer_options)

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
        base = torch.optim.lr_scheduler.LRScheduler
        kind = _named(torch.optim.lr_scheduler, self.schedule, base, "schedule")
        return _made(kind, self.schedule, optimizer, self.schedule_options)

    def targets(self, y: Tensor) -> Tensor:
        """Return the targets with their label noise.

        Raises:
            InputError: There are no classes to draw from, or the share is none.
        """
        if self.label_noise == 0.0:
            return y
        if not 0.0 <= self.label_noise <= 1.0:
            msg = f"A share of {self.label_noise} of the targets is none; give 0 to 1."
            raise InputError(msg)
        if y.is_floating_point() or y.dim() != 1:
            msg = "Label noise needs one class a sample; these targets are no classes."
            raise InputError(msg)
        stream = torch.Generator().manual_seed(self.noise_seed)
        is_drawn = torch.rand(len(y), generator=stream) < self.label_noise
        drawn = torch.randint(int(y.max()) + 1, (len(y),), generator=stream)
        return torch.where(is_drawn.to(y.device), drawn.to(y), y)


def _named(module: Any, name: str, base: type, what: str) -> Any:
    """Return the class of a module that is called so, in any case."""
    found = {
        each.lower(): getattr(module, each)
        for each in dir(module)
        if isinstance(getattr(module, each), type)
        and issubclass(getattr(module, each), base)
        and getattr(module, each) is not base
    }
    if name.lower() not in found:
        msg = f"There is no {what} {name!r}; torch has {', '.join(sorted(found))}."
        raise MissingError(msg)
    return found[name.lower()]


def _made(kind: Any, name: str, first: Any, options: Mapping[str, Any]) -> Any:
    try:
        return kind(first, **options)
    except (TypeError, ValueError) as error:
        msg = f"{name} does not take {dict(options)}: {error}."
        raise InputError(msg) from error

"""A training kept on disk while it goes on, so that a kill costs little."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from alignlab.errors import InputError
from alignlab.learner import Learner
from alignlab.training._recipe import Recipe

__all__ = ["Keeper"]


class Keeper:
    """Keeps a training in a file between two epochs, and finds it again."""

    def __init__(
        self,
        path: str | Path | None,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler | None,
        learner: Learner,
        recipe: Recipe,
        seconds: float,
    ) -> None:
        """Keep nothing where there is no path, and otherwise no more often than so."""
        self._path = None if path is None else Path(path)
        self._parts: dict[str, Any] = {"model": model, "optimizer": optimizer, "learner": learner}
        if schedule is not None:
            self._parts["schedule"] = schedule
        self._recipe = recipe
        self._seconds = seconds
        self._last = time.monotonic()

    def found(
        self, order: torch.Generator
    ) -> tuple[int, list[float], list[Mapping[str, Any]]] | None:
        """Load what was kept into model, optimizer, schedule, learner and random states.

        Args:
            order: Source of the order of the data.

        Returns:
            Steps, losses and history; None where nothing was kept.

        Raises:
            InputError: It cannot be read, or is that of another training.
        """
        if self._path is None or not self._path.exists():
            return None
        try:
            held = torch.load(self._path, map_location="cpu", weights_only=True)
            recipe = held["recipe"]
        except (OSError, RuntimeError, KeyError, EOFError, ValueError) as error:
            msg = f"{self._path} is no training that was kept: {error}. Remove it to start anew."
            raise InputError(msg) from error
        own = self._recipe.options()
        other = [name for name in own if recipe.get(name) != own[name]]
        if other:
            msg = (
                f"{self._path} is kept of a training with {other[0]} {recipe.get(other[0])!r}, "
                f"this one has {own[other[0]]!r}; give another file, or remove it to start anew."
            )
            raise InputError(msg)
        for name, part in self._parts.items():
            part.load_state_dict(held[name])
        order.set_state(held["order"])
        torch.set_rng_state(held["random"])
        if "random_cuda" in held:
            torch.cuda.set_rng_state(held["random_cuda"])
        return int(held["step"]), list(held["losses"]), list(held["history"])

    def keep(
        self,
        step: int,
        losses: Sequence[float],
        history: Sequence[Mapping[str, Any]],
        order: torch.Generator,
    ) -> None:
        """Write everything to the file, if the last time is long enough ago."""
        if self._path is None or time.monotonic() - self._last < self._seconds:
            return
        held: dict[str, Any] = {name: part.state_dict() for name, part in self._parts.items()}
        held |= {"step": step, "losses": list(losses), "history": list(history)}
        held |= {"order": order.get_state(), "random": torch.get_rng_state()}
        if torch.cuda.is_initialized():
            held["random_cuda"] = torch.cuda.get_rng_state()
        held["recipe"] = self._recipe.options()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        draft = self._path.with_name(f".{self._path.name}.part")
        torch.save(held, draft)
        draft.replace(self._path)
        self._last = time.monotonic()

    def remove(self) -> None:
        """Remove the file: the training has ended."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

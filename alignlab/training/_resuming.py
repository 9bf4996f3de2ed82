"""A training kept on disk while it goes on, so that a kill costs little."""

from __future__ import annotations

import hashlib
import pickle
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from alignlab.errors import InputError
from alignlab.training._random import put_back, random_states

__all__ = ["Keeper", "Part", "identity", "kept_history"]

SHARE = 0.02
"""Share of the time that may go into keeping."""


class Part(Protocol):
    """What has a state to be kept: a model, an optimizer, a schedule, a learner."""

    def state_dict(self) -> Any:
        """Return all that is needed to go on."""

    def load_state_dict(self, held: Any, /) -> Any:
        """Go on from it."""


def identity(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, str]:
    """Return hashes of the initial weights and of the data, by what they are of."""
    weights = [value for value in model.state_dict().values() if isinstance(value, Tensor)]
    return {"initial weights": _hash(*weights), "data": _hash(x, y)}


def kept_history(path: Path) -> list[Mapping[str, Any]]:
    """Return what was watched of the training in a file; nothing where no file is.

    Raises:
        InputError: It cannot be read.
    """
    return list(_read(path)["values"]["history"]) if path.exists() else []


class Keeper:
    """Keeps a training in a file between two epochs, and finds it again.

    Args:
        path: The file; None to keep nothing.
        parts: What has a state, by name.
        device: Where the training draws.
        same: What must be the same in the training that goes on, as plain values.
    """

    def __init__(
        self,
        path: str | Path | None,
        parts: Mapping[str, Part],
        *,
        device: torch.device,
        same: Mapping[str, Any],
    ) -> None:
        """Look at nothing yet."""
        self._path = None if path is None else Path(path)
        self._parts = parts
        self._device = device
        self._same = same
        self._due = 0.0

    def found(self) -> dict[str, Any] | None:
        """Load what was kept into all parts and the random states.

        Returns:
            The plain values that were kept; None where nothing was.

        Raises:
            InputError: It cannot be read, or is that of another training.
        """
        if self._path is None or not self._path.exists():
            return None
        held = _read(self._path)
        self._require_same(held["same"])
        random = held["random"]
        if len(random) != len(random_states(self._device)):
            msg = f"{self._path} was kept on another kind of device; remove it to start anew."
            raise InputError(msg)
        for name, part in self._parts.items():
            part.load_state_dict(held["parts"][name])
        put_back(random, self._device)
        return dict(held["values"])

    def keep(self, values: Mapping[str, Any]) -> None:
        """Write everything to the file, unless the last time was too short ago."""
        start = time.monotonic()
        if self._path is None or start < self._due:
            return
        held = {
            "same": dict(self._same),
            "parts": {name: part.state_dict() for name, part in self._parts.items()},
            "random": random_states(self._device),
            "values": dict(values),
        }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        draft = self._path.with_name(f".{self._path.name}.part")
        torch.save(held, draft)
        draft.replace(self._path)
        now = time.monotonic()
        self._due = now + (now - start) / SHARE

    def remove(self) -> None:
        """Remove the file: the training has ended."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _require_same(self, same: Mapping[str, Any]) -> None:
        other = [name for name, value in self._same.items() if same.get(name) != value]
        if not other:
            return
        name = other[0]
        if isinstance(self._same[name], str) and len(self._same[name]) == 64:
            what = f"other {name}"
        else:
            what = f"{name} {same.get(name)!r}, and this one has {self._same[name]!r}"
        msg = (
            f"{self._path} is kept of a training with {what}; keep this one elsewhere, or remove "
            "the file to start anew."
        )
        raise InputError(msg)


def _read(path: Path) -> dict[str, Any]:
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
        return {name: held[name] for name in ("same", "parts", "random", "values")}
    except (
        *(OSError, RuntimeError, KeyError, TypeError, EOFError, ValueError),
        pickle.UnpicklingError,
    ) as error:
        what = str(error).partition("\n")[0]
        msg = f"{path} is no training that was kept: {what}. Remove it to start anew."
        raise InputError(msg) from error


def _hash(*tensors: Tensor) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()

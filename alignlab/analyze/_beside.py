"""What is measured beside a checkpoint: earlier states of its training, and a twin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from alignlab.analyze._loading import Loaded, loaded_model, on_device
from alignlab.analyze._since import is_measured_before
from alignlab.checkpoints import open_checkpoint
from alignlab.errors import InputError
from alignlab.rules._base import Rule
from alignlab.snapshot import INITIAL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from alignlab.analyze._checkpoint import Options

__all__ = ["described", "earlier_states", "other", "require_model", "twin_of"]


def other(path: str | Path, x: Tensor, chose: Options) -> Loaded:
    """Fill the model with the weights of another checkpoint than the analysed one."""
    opened = open_checkpoint(path, allow_unsafe_pickle=chose.allow_unsafe_pickle, key=chose.key)
    # What the user points at is in the file that is analysed.
    return loaded_model(opened, x, replace(chose, feedback={}))


def earlier_states(
    since: Loaded | None, x: Tensor, *, rules: Sequence[Rule], chose: Options
) -> dict[str, Mapping[str, Tensor]]:
    """Return states of earlier in the training by label.

    A checkpoint that only gives the initial weights to rules is the initial state.
    """
    states: dict[str, Mapping[str, Tensor]] = {
        label: on_device(other(path, x, chose).model, chose).state_dict()
        for label, path in chose.earlier.items()
    }
    if since is not None and not is_measured_before(rules):
        states.setdefault(INITIAL, on_device(since.model, chose).state_dict())
    return states


def twin_of(x: Tensor, chose: Options) -> nn.Module | None:
    """Return the network that is compared with, in the mode of the analysed one."""
    if chose.twin is None:
        return None
    return on_device(other(chose.twin, x, chose).model, chose).train(chose.mode == "train")


def require_model(chose: Options) -> None:
    """Refuse other checkpoints where weights alone are read.

    Raises:
        InputError: There are some.
    """
    named = "--earlier" if chose.earlier else "--twin" if chose.twin is not None else ""
    if named:
        message = f"{named} is measured with a model on data; add --model and --data."
        raise InputError(message)


def described(chose: Options) -> dict[str, str]:
    """Return what a recording says of the other checkpoints: the names of their files."""
    found = {}
    if chose.earlier:
        files = (f"{label}={Path(path).name}" for label, path in chose.earlier.items())
        found["earlier"] = ", ".join(files)
    if chose.twin is not None:
        found["twin"] = Path(chose.twin).name
    return found

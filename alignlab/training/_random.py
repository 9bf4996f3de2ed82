"""Torch's global random state: what dropout draws from, and what a watcher must not change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from alignlab.errors import InputError

__all__ = ["put_back", "random_states", "require_seed", "seeded_apart", "undisturbed"]


def require_seed(seed: int, what: str) -> None:
    """Refuse a seed that torch does not take.

    Raises:
        InputError: It has more than 64 bits.
    """
    if not -(2**63) <= seed < 2**64:
        msg = f"A seed of {seed} for the {what} is too long; give one from -2**63 to 2**64 - 1."
        raise InputError(msg)


def random_states(device: torch.device) -> list[Tensor]:
    """Return the random states of the host and, where the work is on one, of the GPU."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return states


def put_back(states: list[Tensor], device: torch.device) -> None:
    """Set the random states that ``random_states`` returned."""
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)


@contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """Leave the random states as they are, whatever is drawn inside."""
    states = random_states(device)
    try:
        yield
    finally:
        put_back(states, device)


@contextmanager
def seeded_apart(seed: int, device: torch.device) -> Iterator[None]:
    """Draw from a seed inside, and leave the random states as they were.

    Other devices are not touched: ``torch.manual_seed`` would seed all of them for good.
    """
    with undisturbed(device):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield

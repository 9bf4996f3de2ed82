"""What a fault is: one change, and the readings that it must move."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.diagnostics.planted.network import Recipe

__all__ = ["Fault", "Move", "each", "update"]


@dataclass(frozen=True)
class Move:
    """A change that must be seen.

    Attributes:
        least: Its direction, and its least size at every seed.
        because: Why the fault moves this reading.
    """

    least: float
    because: str


@dataclass(frozen=True)
class Fault:
    """One thing that is changed.

    Attributes:
        name: How it is called.
        short: The same in one word, for the heads of tables.
        change: The one field of the recipe, and its value.
        text: What that is.
        moves: By name of the reading.
    """

    name: str
    short: str
    change: Mapping[str, Any]
    text: str
    moves: Mapping[str, Move]

    def recipe(self, seed: int) -> Recipe:
        """Return the recipe of the faulty network."""
        return Recipe(seed=seed, **self.change)


def each(names: str, least: float, because: str) -> dict[str, Move]:
    """Return the same move of several readings, whose names are separated by semicolons."""
    return {name.strip(): Move(least, because) for name in names.split(";")}


def update(layers: str, least: float, because: str) -> dict[str, Move]:
    """Return the same move of the cosines of weight gradients at some layers."""
    return {
        f"cosine of weight gradients, {layer}": Move(least, because) for layer in layers.split()
    }

"""Every fault against every reading: what moved, by how much, and the tables that show it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import xarray as xr

from alignlab.probe import Probe
from tests.diagnostics.planted.fault import Fault
from tests.diagnostics.planted.faults import FAULTS
from tests.diagnostics.planted.network import Recipe, planted
from tests.diagnostics.planted.readings import PANEL, Reading, diagnostics

__all__ = ["Matrix", "healthy_values", "measured", "shifts"]

FEWEST_DRAWS = 32
"""The readings are no chance levels, so that the least number of redraws is enough."""


@cache
def measured(recipe: Recipe) -> xr.Dataset:
    """Return the one step of a recording of what a recipe makes."""
    found = planted(recipe)
    with Probe(
        found.model,
        found.loss,
        rules=found.rules,
        diagnostics=diagnostics(),
        draws=FEWEST_DRAWS,
        earlier=found.earlier,
    ) as probe:
        return probe.measure(found.x, found.y).isel(step=0)


def _values(recipe: Recipe) -> list[float]:
    recording = measured(recipe)
    return [reading.read(recording) for reading in PANEL]


def healthy_values(seeds: Sequence[int]) -> np.ndarray:
    """Return the readings of the healthy networks, shape ``(n_seeds, n_readings)``."""
    return np.array([_values(Recipe(seed=seed)) for seed in seeds])


def shifts(fault: Fault, seeds: Sequence[int]) -> np.ndarray:
    """Return how far a fault moves the readings, seed by seed, shape ``(n_seeds, n_readings)``."""
    faulty = np.array([_values(fault.recipe(seed)) for seed in seeds])
    return faulty - healthy_values(seeds)


@dataclass(frozen=True)
class Matrix:
    """What faults move in some seeds.

    Attributes:
        seeds: The seeds.
        faults: The faults.
        shifts: Shape ``(n_faults, n_seeds, n_readings)``.
    """

    seeds: Sequence[int]
    faults: Sequence[Fault]
    shifts: np.ndarray

    @classmethod
    def of(cls, seeds: Sequence[int], *, faults: Sequence[Fault] = FAULTS) -> Matrix:
        """Measure every fault in every seed."""
        return cls(seeds, faults, np.stack([shifts(fault, seeds) for fault in faults]))

    def violations(self) -> list[str]:
        """Return what did not move and should, and what moved and should not, in words."""
        found = []
        for fault, moved in zip(self.faults, self.shifts, strict=True):
            for reading, values in zip(PANEL, moved.T, strict=True):
                complaint = _complaint(fault, reading, values)
                if complaint:
                    found.append(f"{fault.name}: {reading.name} {complaint}")
        return found

    def cells(self) -> list[list[str]]:
        """Return the mean shifts in units of tolerance; in bold those that must be there."""
        table = []
        for k, reading in enumerate(PANEL):
            row = []
            for fault, moved in zip(self.faults, self.shifts, strict=True):
                value = moved[:, k].mean() / reading.tolerance
                must = reading.name in fault.moves
                row.append(
                    f"**{value:+.1f}**" if must else "·" if abs(value) < 0.05 else f"{value:+.1f}"
                )
            table.append(row)
        return table

    def text(self) -> str:
        """Return the matrix for a terminal."""
        width = max(len(reading.name) for reading in PANEL) + 2
        head = " " * width + " ".join(f"{fault.short:>10}" for fault in self.faults)
        lines = [
            f"{reading.name:<{width}}" + " ".join(f"{cell:>10}" for cell in cells)
            for reading, cells in zip(PANEL, self.cells(), strict=True)
        ]
        return "\n".join([head, *lines])


def _complaint(fault: Fault, reading: Reading, values: np.ndarray) -> str:
    """Return what is wrong with the shifts of a reading under a fault; empty if nothing is."""
    shown = f"(shifts {', '.join(f'{value:+.3g}' for value in values)})"
    move = fault.moves.get(reading.name)
    if move is None:
        stays = (np.abs(values) <= reading.tolerance).all()
        return "" if stays else f"moved by more than {reading.tolerance:g} {shown}"
    far = (np.sign(move.least) * values >= abs(move.least)).all()
    return "" if far else f"did not move by {move.least:+g} {shown}"

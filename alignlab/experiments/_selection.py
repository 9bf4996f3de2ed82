"""Runs by their coordinates: all combinations of some, and those that are chosen."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

if TYPE_CHECKING:
    from alignlab.experiments._base import Case

__all__ = ["chosen", "crossed", "over_seeds"]


def crossed(**coordinates: Iterable[str | float]) -> list[Case]:
    """Return one case for every combination of coordinates, the last of which changes fastest.

    Example:
        >>> crossed(rule=("bp", "dfa"), seed=range(2))[1:3]
        [{'rule': 'bp', 'seed': 1}, {'rule': 'dfa', 'seed': 0}]
    """
    return [dict(zip(coordinates, each, strict=True)) for each in product(*coordinates.values())]


def chosen(results: xr.Dataset, **coordinates: str | float) -> xr.Dataset:
    """Return the runs with these coordinates, in the order of their seeds.

    Args:
        results: Of all cases along ``run``.
        **coordinates: Of the runs; or one place of another dimension, such as a layer.

    Example:
        >>> coords = {"rule": ("run", ["bp", "dfa", "dfa"]), "seed": ("run", [0, 1, 0])}
        >>> ds = xr.Dataset({"a": ("run", [1, 2, 3])}, coords)
        >>> chosen(ds, rule="dfa")["a"].values
        array([3, 2])
    """
    mask = np.ones(results.sizes["run"], dtype=bool)
    places = {name: value for name, value in coordinates.items() if results[name].dims != ("run",)}
    for name in coordinates.keys() - places.keys():
        mask &= results[name].values == coordinates[name]
    runs = np.flatnonzero(mask)
    if "seed" in results:
        runs = runs[np.argsort(results["seed"].values[runs], kind="stable")]
    return results.isel(run=runs).sel(places)


def over_seeds(results: xr.Dataset, variable: str, **coordinates: str | float) -> np.ndarray:
    """Return a variable of the runs with these coordinates, in the order of their seeds.

    Args:
        results: As for ``chosen``.
        variable: Its name.
        **coordinates: As for ``chosen``.

    Returns:
        Shape ``(n_runs, ...)``, so that the numbers of two such calls can be paired.
    """
    values: np.ndarray = chosen(results, **coordinates)[variable].transpose("run", ...).values
    return values

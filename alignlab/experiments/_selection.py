"""Runs by their coordinates, in the order of their seeds."""

from __future__ import annotations

import numpy as np
import xarray as xr

__all__ = ["chosen", "over_seeds"]


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

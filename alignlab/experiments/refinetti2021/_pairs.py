"""Runs that are compared with each other, pair by pair."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import xarray as xr

from alignlab.experiments._selection import chosen

__all__ = ["GROUPS", "cosines_of_pairs", "group_of"]

GROUPS = {
    "shared": "DFA, one feedback",
    "own": "DFA, feedback of its own",
    "bp": "backpropagation",
}


def group_of(runs: xr.Dataset, group: str) -> xr.Dataset:
    """Return the runs of one group; the first run of DFA belongs to both of its groups."""
    if group == "bp":
        return chosen(runs, rule="bp")
    runs = chosen(runs, rule="dfa")
    if group == "shared":
        return chosen(runs, feedback=0)
    return runs.isel(run=runs["feedback"].values == runs["init"].values)


def cosines_of_pairs(weights: np.ndarray) -> np.ndarray:
    """Return the cosines of all pairs of rows.

    Example:
        >>> cosines_of_pairs(np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0]]))
        array([1., 0., 0.])
    """
    rows = weights.astype(float)
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return np.array([units[i] @ units[j] for i, j in combinations(range(len(units)), 2)])

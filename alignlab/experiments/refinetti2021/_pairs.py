"""Runs that are compared with each other, pair by pair."""

from __future__ import annotations

from dataclasses import replace
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from alignlab.experiments._base import Case, Check, Setting
from alignlab.experiments._checking import mean_check
from alignlab.experiments._drawing import dots, legend_beside, level
from alignlab.experiments._selection import chosen
from alignlab.experiments._statistics import interval_of_pairs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["GROUPS", "cases_of_pairs", "cosines_of_pairs", "draw_pairs", "group_of", "pair_check"]

GROUPS = {
    "shared": "DFA, one feedback",
    "own": "DFA, feedback of its own",
    "bp": "backpropagation",
}

BOUND = 0.2
"""Least mean cosine of runs that share their feedback."""


def cases_of_pairs(setting: Setting, **place: str) -> list[Case]:
    """Return rules, inits and feedback; the first run of shared feedback is one of its own.

    Args:
        setting: With ``inits``.
        **place: Further coordinates of all these runs, before the others.
    """
    inits = range(setting["inits"])
    runs = [("dfa", init, 0) for init in inits] + [("dfa", init, init) for init in inits[1:]]
    runs += [("bp", init, 0) for init in inits]
    return [{**place, "rule": rule, "init": init, "feedback": fed} for rule, init, fed in runs]


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
    above: np.ndarray = _cosines(weights)[np.triu_indices(len(weights), 1)]
    return above


def _cosines(weights: np.ndarray) -> np.ndarray:
    rows = weights.astype(float)
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    found: np.ndarray = units @ units.T
    return found


def pair_check(
    where: str, runs: xr.Dataset, group: str, *, stated: str = "", chance: str = "0"
) -> Check:
    """Return the check of the weights of one group: alike where feedback is shared only."""
    is_shared = group == "shared"
    weights = group_of(runs, group)["weights"].values
    check = mean_check(
        f"{where}, {GROUPS[group]}: mean cosine of all weights over pairs of runs",
        cosines_of_pairs(weights),
        least=BOUND if is_shared else -0.05,
        most=None if is_shared else 0.05,
        stated=stated,
        chance=chance,
    )
    _, low, high = interval_of_pairs(_cosines(weights))
    return replace(check, low=low, high=high, runs=len(weights))


def draw_pairs(figure: Figure, results: xr.Dataset, *, key: str) -> None:
    """Draw the pairs of every group, an axes for every value of a coordinate."""
    names = list(dict.fromkeys(results[key].values))
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        runs = chosen(results, **{key: name})
        groups = {
            fill(label, 12, break_long_words=False): cosines_of_pairs(
                group_of(runs, group)["weights"].values
            )
            for group, label in GROUPS.items()
        }
        of = [_cosines(group_of(runs, group)["weights"].values) for group in GROUPS]
        dots(axes, groups, intervals=[interval_of_pairs(each) for each in of])
        axes.tick_params(axis="x", labelsize="small")
        axes.set_title(name)
        level(axes, 0.0, "chance")
        axes.axhline(BOUND, color="C3", ls="--", lw=1, label="bound for one feedback")
    panels[0].set_ylabel("cosine of all weights")
    legend_beside(axes)

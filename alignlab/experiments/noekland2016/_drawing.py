"""Errors of the rules beside the alignment of their error signals by depth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from alignlab.experiments._drawing import curve, dots_by, level
from alignlab.experiments._selection import over_seeds
from alignlab.experiments.noekland2016._setting import COLOURS

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

__all__ = ["errors_beside_alignment"]


def errors_beside_alignment(
    figure: Figure,
    results: xr.Dataset,
    *,
    error: str,
    aligned: Sequence[str],
    chance: float | None = None,
) -> None:
    """Draw an error of every rule, and the cosines of some by hidden layer.

    Args:
        figure: An empty one.
        results: Of ``outcome``.
        error: ``train_error`` or ``test_error``.
        aligned: Rules of which the cosines are drawn.
        chance: Error by chance, where it is near enough to be drawn.
    """
    left, right = figure.subplots(1, 2)
    dots_by(left, results, error, "rule")
    left.set_ylabel("training error (%)" if error == "train_error" else "test error (%)")
    left.set_ylim(bottom=0)
    if chance is not None:
        left.set_ylim(-3, 100)
        level(left, chance, "chance (error)")
    layers = results["layer"].values
    for rule in aligned:
        cosine = over_seeds(results, "cosine", rule=rule)
        curve(right, layers, cosine, label=rule, color=COLOURS[rule], marker=".")
    sd = over_seeds(results, "chance", rule="dfa").mean(0)
    right.plot(layers, 2 * sd, ":", color="0.4", label="chance (2 sd)")
    right.plot(layers, -2 * sd, ":", color="0.4")
    right.axhline(0.0, color="0.8", linewidth=0.8)
    right.locator_params(axis="x", integer=True)
    right.set_xlabel("hidden layer")
    right.set_ylabel("cosine of error signals (1)")
    figure.legend(loc="outside lower right", ncols=4)

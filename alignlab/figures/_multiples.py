"""Small multiples: one panel for each layer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from alignlab.figures._styles import DOUBLE, SINGLE, shortened

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

__all__ = ["multiples"]

COLUMNS, HEIGHT = 4, 1.35


def multiples(titles: Sequence[str], *, x_label: str, y_label: str) -> tuple[Figure, list[Axes]]:
    """Return a drawing with one panel for each title, axes shared and labelled once.

    Args:
        titles: Names of the panels, at least one.
        x_label: Label of the horizontal axes.
        y_label: Label of the vertical axes.
    """
    columns = min(COLUMNS, len(titles)) if len(titles) != COLUMNS + 1 else 3
    rows = math.ceil(len(titles) / columns)
    width = SINGLE if columns <= 2 else DOUBLE
    figure = Figure(figsize=(width, HEIGHT * rows + 0.4), layout="constrained")
    grid = np.ravel(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False))
    axes = list(grid[: len(titles)])
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(shortened(title, 20), loc="left")
    for axis in grid[len(titles) :]:
        axis.remove()
    for axis in axes[-columns:]:
        axis.tick_params(labelbottom=True)
    figure.supxlabel(x_label, fontsize=8)
    for axis in axes[::columns]:
        axis.set_ylabel(y_label)
    return figure, axes

"""How figures look: sizes of paper columns, type, and a palette that the colour-blind can read."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, cast

import matplotlib as mpl
import numpy as np
import seaborn as sns
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike

__all__ = [
    "CHANCE",
    "DOUBLE",
    "GREY",
    "SINGLE",
    "TRUE",
    "band_entry",
    "context",
    "entry",
    "logarithmic",
    "mark",
    "rule_styles",
    "shortened",
]

SINGLE = 3.4
"""Width of one column of a paper, in inches."""

DOUBLE = 7.0
"""Width of both columns, in inches."""

TRUE = "#222222"
GREY = "#777777"
CHANCE = "#bbbbbb"

MARKERS = "osD^vPX*<>"
FONTS = ["DejaVu Sans", "Verdana", "Arial", "Helvetica", "sans-serif"]


def context() -> AbstractContextManager[None]:
    """Return the context in which figures are drawn and saved."""
    style: dict[str, Any] = dict(sns.axes_style("ticks"))
    style |= {
        "axes.labelsize": 8,
        "axes.linewidth": 0.6,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlesize": 8,
        "figure.dpi": 100,
        "font.family": "sans-serif",
        "font.sans-serif": FONTS,
        "font.size": 8,
        "grid.color": "#e6e6e6",
        "grid.linewidth": 0.5,
        "legend.fontsize": 7,
        "legend.frameon": False,
        "legend.handlelength": 1.2,
        "lines.linewidth": 1.0,
        "lines.markersize": 4,
        "pdf.fonttype": 42,
        "savefig.dpi": 300,
        "svg.fonttype": "none",
        "svg.hashsalt": "alignlab",
        "text.parse_math": False,
        "text.usetex": False,
        "xtick.labelsize": 7,
        "xtick.major.size": 3,
        "xtick.major.width": 0.6,
        "xtick.minor.size": 1.5,
        "ytick.labelsize": 7,
        "ytick.major.size": 3,
        "ytick.major.width": 0.6,
    }
    return mpl.rc_context(cast("Any", style))


def rule_styles(table: pd.DataFrame, shown: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return a colour and a marker for each rule that has a number; both differ, for print.

    Args:
        table: Rows with ``rule``; its attribute ``rules`` names all rules of the recording.
        shown: Columns that hold a rule's own numbers.
    """
    present = table.dropna(how="all", subset=list(shown))["rule"].unique()
    rules = [str(rule) for rule in table.attrs.get("rules", present)]
    every = sns.color_palette("colorblind").as_hex()
    # The palette's grey is kept for chance, its yellow is too light on white.
    colours = [every[place] for place in (0, 1, 2, 4, 3, 9, 5, 6)]
    return {
        rule: (colours[place % len(colours)], MARKERS[place % len(MARKERS)])
        for place, rule in enumerate(rules)
        if rule in present
    }


def shortened(name: str, most: int = 24) -> str:
    """Return a name that fits beside an axis, its middle left out where it is too long.

    Example:
        >>> shortened("transformer.layers.11.attention.query", 20)
        'transforme…ion.query'
    """
    if len(name) <= most:
        return name
    tail = name[-(most // 2 - 1) :]
    return f"{name[: most - len(tail) - 1]}…{tail}"


def entry(label: str, *, color: str, marker: str = "o", filled: bool = True) -> Line2D:
    """Return a legend entry for markers."""
    face = color if filled else "white"
    return Line2D(
        [], [], color=color, marker=marker, linestyle="none", markerfacecolor=face, label=label
    )


def mark(
    axis: Axes,
    x: ArrayLike,
    y: ArrayLike,
    *,
    color: str,
    marker: str,
    area: float,
    filled: ArrayLike = True,
) -> None:
    """Draw markers in the colour of a rule, hollow where they are not filled."""
    x, y = np.atleast_1d(np.asarray(x, dtype=float)), np.atleast_1d(np.asarray(y, dtype=float))
    faces = np.where(np.broadcast_to(np.asarray(filled), x.shape), color, "white")
    axis.scatter(
        x, y, s=area, marker=marker, facecolor=faces, edgecolor=color, linewidth=0.8, zorder=4
    )


def logarithmic(axis: Axes) -> None:
    """Give the horizontal axis powers of ten with plain numbers, also over less than a decade."""
    axis.set_xscale("log")
    low, high = axis.get_xlim()
    few = high / low < 200
    axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if few else (1.0,)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())


def band_entry(label: str) -> Patch:
    """Return a legend entry for a band."""
    return Patch(facecolor=CHANCE, alpha=0.6, label=label)

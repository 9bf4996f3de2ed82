"""The picture of the calibration: coverage, the switch of methods, and p-values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alignlab.diagnostics._chance import CONCENTRATION_BOUND
from alignlab.figures._styles import DOUBLE, GREY, context
from tests.calibration.coverage import LEVELS, Covered, share
from tests.calibration.pvalues import CONTINUOUS, SETTINGS, largest_distance
from tests.calibration.results import Results

__all__ = ["drawn"]

COLOURS = {"closed form": "#0072b2", "redraws": "#d55e00"}
LINES = {
    CONTINUOUS[0]: ("#0072b2", "signal, entry"),
    CONTINUOUS[1]: ("#009e73", "signal, pre-activation"),
    CONTINUOUS[2]: ("#d55e00", "weight gradient"),
}
SHOWN = (
    *("one unit", "4 units", "16 units", "two classes", "one-channel convolution"),
    *("64 units", "backward weights", "random signs", "rotated signals"),
)


def drawn(results: Results, path: Path) -> None:
    """Draw results and write them as a picture.

    Args:
        results: What was measured.
        path: Of an SVG or PNG file.
    """
    with context(), mpl.rc_context({"svg.hashsalt": "calibration"}):
        figure = Figure(figsize=(DOUBLE, 8.4), layout="constrained")
        parts = figure.subfigures(3, 1, height_ratios=(3.0, 2.1, 3.3))
        _coverage(parts[0].subplots(), results.covered)
        _switch(parts[1].subplots(1, 2, sharey=True), results)
        axes = parts[2].subplots(3, 3, sharex=True, sharey=True)
        for axis, setting in zip(axes.flat, SHOWN, strict=True):
            _p_values(axis, results, setting)
        axes[-1, 1].set_xlabel("p-value")
        axes[1, 0].set_ylabel("share of networks with at most that p-value")
        axes[0, 0].legend(loc="lower right", fontsize=6, handlelength=1.0)
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)


def _coverage(axis: Axes, found: Sequence[Covered]) -> None:
    """Draw a point for each network, and one for all, by level and method."""
    axis.axvspan(0.90, 0.99, color="0.93", lw=0)
    axis.axvspan(0.93, 0.97, color="0.84", lw=0)
    axis.axvline(0.95, color=GREY, lw=0.6)
    labels = []
    for level in LEVELS:
        for method, colour in COLOURS.items():
            here = [c for c in found if (c.level, c.band.method) == (level, method)]
            if not here:
                continue
            row = -len(labels)
            labels.append(f"{level}: {method}")
            free = [c for c in here if not c.is_tied]
            names = list(dict.fromkeys(c.network for c in free))
            each = [share([c for c in free if c.network == name]) for name in names]
            spots = row + np.linspace(-0.22, 0.22, len(each))
            axis.plot(each, spots, "o", ms=2.5, color=colour, alpha=0.6, mew=0)
            axis.plot(share(free), row, "D", ms=5, color="black", mfc=colour, mew=0.8)
    axis.set_yticks(-np.arange(len(labels)), labels)
    axis.set_xlim(0.885, 1.0)
    axis.set_xlabel("share of fresh draws in the 95% band")
    axis.set_title("Points: networks. Diamonds: all of them.", loc="left")


def _switch(axes: Sequence[Axes], results: Results) -> None:
    """Draw coverage against the spread of norms under either method."""
    for axis, method in zip(axes, COLOURS, strict=True):
        found = [
            (each.spread, each.closed_form if method == "closed form" else each.redraws)
            for each in results.switched
            if not each.closed_form.is_tied
        ]
        axis.axhspan(0.90, 0.98, color="0.93", lw=0)
        axis.axhline(0.95, color=GREY, lw=0.6)
        axis.axvline(CONCENTRATION_BOUND, color=GREY, lw=0.8, ls=":")
        axis.plot(
            [spread for spread, _ in found],
            [each.inside / each.count for _, each in found],
            *("o",),
            ms=2.5, color=COLOURS[method], alpha=0.5, mew=0,
        )  # fmt: skip
        axis.set_title(f"{method}, wherever it can be had", loc="left")
        axis.set_xlabel("relative spread of the squared norm")
    axes[0].set_ylabel("share in the band")


def _p_values(axis: Axes, results: Results, setting: str) -> None:
    """Draw the share of p-values up to each level, in the band of uniform ones."""
    rule = SETTINGS[setting].rule
    grid = np.array([0.0, 1.0])
    n = max(len(p) for p in results.p[setting].values())
    width = largest_distance(n, draws=results.redraws)
    axis.fill_between(grid, grid - width, grid + width, color="0.93", lw=0)
    axis.plot(grid, grid, color=GREY, lw=0.6)
    for key, (colour, label) in LINES.items():
        p = np.sort(results.p[setting][key])
        axis.step(
            np.concatenate([[0.0], p, [1.0]]),
            np.concatenate([[0.0], np.arange(1, len(p) + 1) / len(p), [1.0]]),
            *("",),
            where="post", color=colour, lw=0.9, label=label,
        )  # fmt: skip
    axis.set_title(setting if rule == "dfa" else f"{setting} ({n})", fontsize=7)
    axis.set_xlim(0, 1)
    axis.set_ylim(0, 1)

"""Layers as rows of a drawing, rules as lanes within a row."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from alignlab.figures._styles import DOUBLE, GREY, SINGLE, rule_styles, shortened

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

__all__ = ["Lanes", "legend"]

ROW, LANE, MARGIN, LEGEND_ROW = 0.2, 0.07, 0.7, 0.15
OUTPUT_GAP = 0.4


@dataclass(frozen=True)
class Lanes:
    """Where each layer and rule lies on the vertical axis, the first layer on top.

    Args:
        layers: Names in call order; the output layer, if any, last.
        styles: Colour and marker of each rule; one lane each.
        output: Name of the output layer, set apart; empty if it is not shown.
    """

    layers: tuple[str, ...]
    styles: dict[str, tuple[str, str]]
    output: str = ""

    @classmethod
    def of(cls, table: pd.DataFrame, *, shown: Sequence[str]) -> Lanes:
        """Return the lanes of a table with ``layer``, ``rule`` and, if any, ``is_output``.

        Args:
            table: The numbers of the figure.
            shown: Columns of which a rule needs a number to get a lane.
        """
        layers = tuple(str(name) for name in table["layer"].unique())
        outputs: list[str] = []
        if "is_output" in table:
            outputs = [str(name) for name in table["layer"][table["is_output"].astype(bool)]]
        return cls(layers, rule_styles(table, shown), (outputs or [""])[0])

    @property
    def rules(self) -> tuple[str, ...]:
        """Labels of the rules, from the upper lane to the lower."""
        return tuple(self.styles)

    def row(self, layer: str) -> float:
        """Return the height of a layer's row."""
        return self.layers.index(layer) + (OUTPUT_GAP if layer == self.output else 0.0)

    def lane(self, layer: str, rule: str) -> float:
        """Return the height of a rule's lane in a layer's row."""
        count = len(self.rules)
        offset = (self.rules.index(rule) - (count - 1) / 2) / max(count, 1)
        return self.row(layer) + 0.72 * offset

    @property
    def thickness(self) -> float:
        """How high a lane is, in rows."""
        return 0.72 / max(len(self.rules), 1)

    @property
    def marker_area(self) -> float:
        """Size of a marker that fits a lane, in square points."""
        return 14.0 if len(self.rules) <= 3 else 9.0

    def panels(self, titles: Sequence[str]) -> tuple[Figure, list[Axes]]:
        """Return a drawing with one panel for each title, the layers' names at the left."""
        row = max(ROW, LANE * len(self.rules))
        height = MARGIN + row * (len(self.layers) + OUTPUT_GAP)
        width = SINGLE if len(titles) == 1 else DOUBLE
        figure = Figure(figsize=(width, max(height, 1.2)), layout="constrained")
        axes = list(np.ravel(figure.subplots(1, len(titles), sharey=True)))
        for axis, title in zip(axes, titles, strict=True):
            axis.set_title(title, loc="left")
            axis.grid(axis="y")
            axis.set_axisbelow(True)
        self._label(axes[0])
        return figure, axes

    def _label(self, axis: Axes) -> None:
        """Name the rows and set the output layer apart."""
        axis.set_yticks([self.row(layer) for layer in self.layers])
        axis.set_yticklabels([shortened(layer) for layer in self.layers])
        axis.set_ylim(self.row(self.layers[-1]) + 0.6, -0.6)
        if self.output:
            axis.get_yticklabels()[self.layers.index(self.output)].set_color(GREY)


def legend(figure: Figure, entries: Sequence[Artist]) -> None:
    """Put the legend above the panels, in as many columns as fit, and make room for it."""
    labels = [shortened(str(entry.get_label()), 48) for entry in entries]
    # About 0.058 inches a character at 7 points, and 0.4 inches for handle and space.
    widths = [0.058 * len(label) + 0.4 for label in labels]
    wide = figure.get_figwidth()
    columns = len(labels) if sum(widths) < wide else max(1, int(wide / max(widths)))
    figure.set_figheight(figure.get_figheight() + LEGEND_ROW * math.ceil(len(labels) / columns))
    figure.legend(
        handles=list(entries),
        labels=labels,
        loc="outside upper left",
        ncols=columns,
        columnspacing=1.0,
        borderaxespad=0.1,
    )

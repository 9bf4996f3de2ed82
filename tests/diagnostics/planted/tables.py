"""The tables of the page on planted causes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tests.diagnostics.planted.fault import Fault
from tests.diagnostics.planted.matrix import Matrix, healthy_values
from tests.diagnostics.planted.readings import PANEL

__all__ = ["page"]


def page(matrix: Matrix) -> str:
    """Return what was found, in Markdown."""
    seeds = f"seeds {min(matrix.seeds)} to {max(matrix.seeds)}"
    return "\n\n".join(
        [
            "## The faults",
            _table(["fault", "what is changed"], _faults(matrix.faults)),
            f"## What moved, {seeds}",
            _table(["reading", *(fault.short for fault in matrix.faults)], _shifts(matrix)),
            "## Why",
            *(_reasons(fault) for fault in matrix.faults),
            f"## The readings of the healthy network, {seeds}",
            _table(["reading", "diagnostic", "mean ± sd", "tolerance"], _healthy(matrix.seeds)),
        ]
    )


def _faults(faults: Sequence[Fault]) -> list[list[str]]:
    return [[f"**{fault.short}**: {fault.name}", fault.text] for fault in faults]


def _shifts(matrix: Matrix) -> list[list[str]]:
    return [[reading.name, *row] for reading, row in zip(PANEL, matrix.cells(), strict=True)]


def _reasons(fault: Fault) -> str:
    """Return the reasons of a fault, one line for all readings that share one."""
    by_reason: dict[str, list[str]] = {}
    for name, move in fault.moves.items():
        by_reason.setdefault(move.because, []).append(name)
    lines = [f"- {'; '.join(names)}: {reason}." for reason, names in by_reason.items()]
    return "\n".join([f"**{fault.name.capitalize()}**", "", *lines])


def _healthy(seeds: Sequence[int]) -> list[list[str]]:
    values = healthy_values(seeds)
    return [
        [
            reading.name + (" (guard)" if reading.is_guard else ""),
            f"`{reading.diagnostic}`",
            f"{values[:, k].mean():.3f} ± {values[:, k].std(ddof=1):.4f}",
            f"{reading.tolerance:g}",
        ]
        for k, reading in enumerate(PANEL)
    ]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

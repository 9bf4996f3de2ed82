"""From runs to verdicts, and to the page that shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.benchmarks._harness import Quartiles, Timing, quartiles
from tests.benchmarks._memory import Growth
from tests.benchmarks.costs import PROBINGS, Launches, Memory
from tests.benchmarks.rows import Row

__all__ = ["BEGIN", "END", "page_with", "table_of_launches", "table_of_memory", "table_of_times"]

BEGIN = "<!-- measured: begin -->"
END = "<!-- measured: end -->"


def verdict(row: Row, ratio: Quartiles) -> str:
    """Return ``yes`` where the bound holds for the worse quartile of the runs, else ``no``."""
    if row.at_least:
        met, stretched = (b is not None and ratio.low >= b for b in (row.target, row.stretch))
    else:
        met, stretched = (b is not None and ratio.high <= b for b in (row.target, row.stretch))
    return "stretch" if stretched else "yes" if met else "no"


def across(runs: Sequence[Timing]) -> Quartiles:
    """Return the quartiles over the runs of their median ratios."""
    return quartiles([run.ratio.median for run in runs])


def table_of_times(found: Mapping[Row, Sequence[Timing]]) -> str:
    """Return a table in Markdown, one line a row."""
    lines = []
    for row, runs in found.items():
        ratio = across(runs)
        sign = "≥" if row.at_least else "≤"
        milliseconds = [1e3 * quartiles(t).median for t in _seconds(runs)]
        lines.append(
            (
                row.work,
                f"{sign} {row.target:.2f}",
                "" if row.stretch is None else f"{sign} {row.stretch:.2f}",
                f"{ratio.median:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]",
                f"{milliseconds[0]:.4g} / {milliseconds[1]:.4g}",
                f"{len(runs)} × {runs[0].rounds}",
                verdict(row, ratio),
            )
        )
    names = ("work", "target", "stretch", "ratio", "reference / work, ms", "runs × pairs", "met")
    return _table(names, lines)


def table_of_memory(found: Sequence[Memory], grown: Growth) -> str:
    """Return a table in Markdown, and a sentence about what many probings leave behind."""
    lines = [
        (
            m.work,
            f"≤ {m.target:.2f}" + (" + buffer" if m.allowed else ""),
            f"{m.ratio:.3f}",
            *(f"{size / 1e6:.1f}" for size in (m.plain, m.observed, m.kept, m.feedback)),
            f"{m.allowed / 1e6:.1f}" if m.allowed else "",
            "yes" if m.met else "no",
        )
        for m in found
    ]
    names = (
        "work",
        "target",
        "ratio",
        "plain, MB",
        "observed",
        "kept",
        "feedback",
        "buffer",
        "met",
    )
    flat = (
        f"From probing {PROBINGS // 10} to probing {PROBINGS} of a small network with DFA and FA "
        f"at all levels, live tensors grow by {grown.live} bytes in {grown.storages} storages, "
        f"the process by {grown.resident / 1e6:.1f} MB."
    )
    return f"{_table(names, lines)}\n\n{flat}"


def table_of_launches(found: Sequence[Launches]) -> str:
    """Return a table in Markdown, one line a network."""
    lines = [
        (
            each.work,
            "reported" if each.target is None else f"≤ {each.target:.0f}",
            f"{each.per_site:.2f}",
            f"{each.plain} / {each.observed}",
            str(each.sites),
            str(each.waits),
            "yes" if each.met else "no",
        )
        for each in found
    ]
    names = ("work", "target", "launches a site", "plain / observed", "sites", "host waits", "met")
    return _table(names, lines)


def page_with(path: Path, measured: str) -> None:
    """Write what was measured between the marks of a page.

    Raises:
        ValueError: The page has no marks.
    """
    text = path.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        message = f"{path.name} has no lines {BEGIN} and {END}; put them where the tables belong."
        raise ValueError(message)
    path.write_text(f"{before}{BEGIN}\n\n{measured}\n\n{END}{after}", encoding="utf-8")


def _seconds(runs: Sequence[Timing]) -> tuple[list[float], list[float]]:
    return [run.reference for run in runs], [run.work for run in runs]


def _table(names: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [names, ["---"] * len(names), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)

"""The tables of the page of stated values."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from math import isinf

from tests.stated_values.stated import Found, Stated, measured_over_seeds
from tests.stated_values.table import SECTIONS, WITHOUT_NUMBER

__all__ = ["line_of", "tables"]

_NAMES = ("value", "stated", "measured", "seeds", "setting", "holds")


def tables() -> Iterator[str]:
    """Measure, and yield one section of the page after the other."""
    for title, rows in SECTIONS.items():
        yield f"### {title}\n\n{_table(_NAMES, [_measured(row) for row in rows])}"
    rest = _table(("statement", "where it is held"), list(WITHOUT_NUMBER.items()))
    yield f"### Without a number of their own\n\n{rest}"


def line_of(stated: Stated, measured: Sequence[str], verdict: str) -> tuple[str, ...]:
    """Return what a row of the table shows."""
    return (
        stated.of,
        "; ".join(_shown(value) for value in stated.values),
        "; ".join(measured),
        str(stated.seeds),
        ". ".join(filter(None, (stated.setting, stated.note.removesuffix(".")))),
        verdict,
    )


def _measured(stated: Stated) -> tuple[str, ...]:
    found = measured_over_seeds(stated)
    return line_of(stated, _numbers(found), _verdict(stated, found))


def _shown(text: str) -> str:
    signs = text.replace("<=", "≤ ").replace(">=", "≥ ")
    return re.sub(r"(?<=\d)-", "–", signs)


def _numbers(found: Found) -> list[str]:
    return [
        "singular" if isinf(mean) else f"{mean + 0.0:.4g}" if sd == 0 else f"{mean:.3g} ± {sd:.1g}"
        for mean, sd in zip(found.mean, found.sd, strict=True)
    ]


def _verdict(stated: Stated, found: Found) -> str:
    if not found.agrees(stated).all():
        return f"not reproduced: {stated.because}"
    wide = ", within a wide spread" if stated.is_wide else ""
    return f"yes{wide}{', in a setting chosen for it' if stated.is_chosen else ''}"


def _table(names: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [names, ["---"] * len(names), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)

"""Measure every stated value again: ``python -m tests.stated_values --help``."""

from __future__ import annotations

from collections.abc import Sequence
from math import isinf
from pathlib import Path

import click
import numpy as np
import torch

from tests.benchmarks._report import page_with
from tests.rules.test_golden_table import TABLE, Golden
from tests.stated_values.stated import Found, Stated, measured_over_seeds
from tests.stated_values.table import OTHERWISE, SECTIONS, WITHOUT_NUMBER


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--write", type=click.Path(path_type=Path, exists=True), help="Page to fill in.")
def main(write: Path | None) -> None:
    """Measure all values, and print or write the tables."""
    torch.set_num_threads(1)
    texts = []
    for title, rows in SECTIONS.items():
        lines = [_line(row) for row in rows if not row.found]
        texts.append(f"### {title}\n\n{_table(_NAMES, lines)}")
    others = [_line(row) for row in OTHERWISE]
    texts.append(f"### Not reproduced in this setting\n\n{_table(_NAMES, others)}")
    golden = [_golden_line(name, golden) for name, golden in TABLE.items()]
    texts.append(f"### Golden values\n\n{_GOLDEN}\n\n{_table(_GOLDEN_NAMES, golden)}")
    rest = _table(("statement", "where it is held"), list(WITHOUT_NUMBER.items()))
    texts.append(f"### Without a number of their own\n\n{rest}")
    text = "\n\n".join(texts)
    if write:
        page_with(write, text)
    click.echo(text)


_NAMES = ("value", "stated", "measured", "seeds", "setting", "holds")
_GOLDEN_NAMES = ("rule and value", "theory", "measured", "allowed")
_GOLDEN = (
    "Exact values of rules and diagnostics, each measured once; `tests/rules/test_golden_table.py` "
    "holds them."
)


def _line(stated: Stated) -> tuple[str, ...]:
    found = measured_over_seeds(stated)
    return (
        stated.of,
        "; ".join(_shown(value) for value in stated.values),
        "; ".join(_numbers(found)),
        str(stated.seeds),
        f"{stated.setting}. {stated.note}".removesuffix(". "),
        _verdict(stated, found),
    )


def _shown(text: str) -> str:
    return text.replace("<=", "≤ ").replace(">=", "≥ ").replace("-", "–")


def _numbers(found: Found) -> list[str]:
    return [
        "singular" if isinf(mean) else f"{mean:.4g}" if sd == 0 else f"{mean:.3g} ± {sd:.1g}"
        for mean, sd in zip(found.mean, found.sd, strict=True)
    ]


def _verdict(stated: Stated, found: Found) -> str:
    if not found.agrees(stated).all():
        return "no"
    return "within a wide spread" if stated.is_wide else "yes"


def _golden_line(name: str, golden: Golden) -> tuple[str, ...]:
    found = np.asarray(golden.measure(), dtype=float)
    allowed = 4.0 * np.broadcast_to(golden.sd, found.shape) + golden.rounding
    held = (np.abs(found - golden.values) <= allowed).all()
    shown = [_range(each) for each in (golden.values, found, allowed)]
    return (name, shown[0], f"{shown[1]}{'' if held else ' (outside)'}", shown[2])


def _range(values: Sequence[float] | np.ndarray) -> str:
    """Return few values one by one, and many by their least and most."""
    numbers = [f"{value:.4g}" for value in np.asarray(values, dtype=float) + 0.0]
    different = list(dict.fromkeys(numbers))
    if len(different) <= 4:
        return "; ".join(different)
    return f"{np.min(values):.4g} to {np.max(values):.4g}"


def _table(names: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [names, ["---"] * len(names), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    main()

"""Calibrate every chance level: ``python -m tests.calibration --help``."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
import torch

from tests.benchmarks._machine import machine
from tests.benchmarks._report import page_with
from tests.calibration.coverage import LEVELS, SMALL, Covered, share, small_shares
from tests.calibration.figure import drawn
from tests.calibration.pvalues import CONTINUOUS, SETTINGS, largest_distance
from tests.calibration.results import Results, kept, measured

PICTURE = "calibration.svg"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--draws", default=2000, help="Fresh draws for each network.")
@click.option("--seeds", default=200, help="Untrained networks for each setting of p-values.")
@click.option("--redraws", default=64, help="Most redraws behind each of these p-values.")
@click.option("--json", "path", type=click.Path(path_type=Path), help="Keep and find results.")
@click.option("--write", type=click.Path(path_type=Path, exists=True), help="Page to fill in.")
def main(draws: int, seeds: int, redraws: int, path: Path | None, write: Path | None) -> None:
    """Hold every kind of chance level against fresh draws; print or write tables and picture."""
    torch.set_num_threads(1)
    begin, found = time.process_time(), machine("cpu")

    def make() -> Results:
        return measured(
            draws=draws,
            seeds=seeds,
            redraws=redraws,
            progress=lambda text: click.echo(f"{text} ...", err=True),
        )

    with tempfile.TemporaryDirectory() as folder:
        results = kept(path or Path(folder) / "results.json", make)
    minutes = (time.process_time() - begin) / 60
    lines = [f"- {key}: {value}" for key, value in found.items()]
    lines.append(f"- CPU time: {minutes:.1f} minutes")
    texts = ["\n".join(lines), *_texts(results)]
    click.echo("\n\n".join(texts))
    if write:
        folder_of = write.parent / "_static"
        folder_of.mkdir(exist_ok=True)
        drawn(results, folder_of / PICTURE)
        page_with(write, "\n\n".join(texts))


def _texts(results: Results) -> list[str]:
    """Return the tables of the page."""
    return [
        f"{results.draws:,} fresh draws for each network.",
        _table(
            [
                *("drawn again", "method", "networks", "bands", "in the band"),
                *("networks between", "where values are tied"),
                *(f"p ≤ {level}" for level in SMALL),
            ],
            _rows_of_coverage(results.covered),
        ),
        _table(
            ("variable", "site", "method", "bands", "in the band", "networks between"),
            _rows_of_variables(results.covered),
        ),
        _table(
            ("spread", "alignments", "closed form", "from", "to", "redraws", "from", "to"),
            _rows_of_switch(results),
        ),
        f"{results.seeds} untrained networks for each setting, p-values from at most "
        f"{results.redraws} redraws. Largest distance between the shares of p-values and uniform "
        "ones, and what it is below with probability 0.999:",
        _table(
            [
                *("setting", "signal, entry", "signal, pre-activation", "weight gradient"),
                *("bound", *(f"p ≤ {level}" for level in SMALL[:2])),
            ],
            _rows_of_p(results),
        ),
    ]


def _rows_of_coverage(found: Sequence[Covered]) -> list[list[str]]:
    rows = []
    for level in LEVELS:
        for method in ("closed form", "redraws"):
            here = [c for c in found if (c.level, c.band.method) == (level, method)]
            free, tied = ([c for c in here if c.is_tied == each] for each in (False, True))
            if free:
                low, high, n = _range(free)
                rows.append([level, method, str(n), str(len(here)), f"{share(free):.4f}"])
                rows[-1] += [f"{low:.3f} and {high:.3f}", f"{share(tied):.4f}" if tied else ""]
                rows[-1] += [f"{each:.4f}" for each in small_shares(free)]
    return rows


def _rows_of_variables(found: Sequence[Covered]) -> list[list[str]]:
    rows = []
    keys = dict.fromkeys((c.band.variable, c.band.site, c.band.method) for c in found)
    for variable, site, method in sorted(keys):
        here = [
            c
            for c in found
            if (c.band.variable, c.band.site, c.band.method) == (variable, site, method)
        ]
        low, high, _ = _range(here)
        rows.append([f"`{variable}`", site, method, str(len(here)), f"{share(here):.4f}"])
        rows[-1].append(f"{low:.3f} and {high:.3f}")
    return rows


def _rows_of_switch(results: Results) -> list[list[str]]:
    rows = []
    for low, high in ((0.0, 0.2), (0.2, 0.35), (0.35, 0.5), (0.5, 0.7), (0.7, 2.0)):
        here = [s for s in results.switched if low <= s.spread < high and not s.closed_form.is_tied]
        if here:
            rows.append([f"{low} to {high}", str(len(here))])
            for each in ([s.closed_form for s in here], [s.redraws for s in here]):
                shares = [c.inside / c.count for c in each]
                rows[-1] += [f"{np.mean(shares):.3f}", f"{min(shares):.3f}", f"{max(shares):.3f}"]
    return rows


def _rows_of_p(results: Results) -> list[list[str]]:
    rows = []
    for setting in SETTINGS:
        found = results.distances(setting)
        n = min(len(results.p[setting][key]) for key in CONTINUOUS)
        rows.append([setting, *(f"{found[key]:.3f}" for key in CONTINUOUS)])
        rows[-1].append(f"{largest_distance(n, draws=results.redraws):.3f}")
        p = np.concatenate([results.p[setting][key] for key in CONTINUOUS])
        rows[-1] += [f"{np.mean(p <= level):.3f}" for level in SMALL[:2]]
    return rows


def _range(found: Sequence[Covered]) -> tuple[float, float, int]:
    """Return the least and the largest share of a network, and how many networks there are."""
    names = dict.fromkeys(c.network for c in found)
    shares = [share([c for c in found if c.network == name]) for name in names]
    return min(shares), max(shares), len(names)


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()

"""The files that a claim leaves: numbers, figure, caption, outcome."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib as mpl
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from alignlab.experiments._base import Claim
from alignlab.experiments._outcome import Outcome, as_json
from alignlab.experiments._runs import write
from alignlab.figures import _styles
from alignlab.recording.replacement import replacing

__all__ = ["FILES", "write_results"]

FILES = ("results.nc", "figure.png", "figure.pdf", "numbers.csv", "caption.txt", "outcome.json")
SIZE = (_styles.DOUBLE, 3.6)


def write_results(folder: Path, outcome: Outcome, claim: Claim, results: xr.Dataset | None) -> None:
    """Write everything that a claim leaves aside, then put it in the place of what is there.

    Args:
        folder: Of the claim and its size.
        outcome: What came out.
        claim: The claim.
        results: All its runs; None where they failed, and then only the outcome is written and
            the files of an earlier run are taken away.

    Raises:
        InputError: The folder cannot be written to.
        OSError: The disk has no room, and nothing was changed.
    """
    with TemporaryDirectory(prefix=".results.", dir=folder) as aside:
        drafts = Path(aside)
        if results is not None:
            _write_numbers(drafts, outcome, claim, results)
        _write_text(drafts / "outcome.json", json.dumps(as_json(outcome), indent=2) + "\n")
        for name in reversed(FILES):
            (folder / name).unlink(missing_ok=True)
        for name in FILES:
            if (drafts / name).exists():
                (drafts / name).rename(folder / name)


def _write_numbers(folder: Path, outcome: Outcome, claim: Claim, results: xr.Dataset) -> None:
    """Write results, table, caption and figure."""
    attrs = {
        "key": outcome.key,
        "identity": outcome.identity,
        "size": outcome.sizes,
        "setting": json.dumps(outcome.setting),
        "data": json.dumps(outcome.data),
        "provenance": outcome.provenance,
        "alignlab": outcome.alignlab,
        "torch": outcome.torch,
        "code": outcome.code,
    }
    write(results.assign_attrs(attrs), folder / "results.nc")
    table = pd.DataFrame([vars(check) for check in outcome.checks])
    _write_text(folder / "numbers.csv", table.to_csv(index=False, lineterminator="\n"))
    _write_text(folder / "caption.txt", _caption(outcome, claim))
    with _styles.context(), mpl.rc_context({"text.parse_math": True}):
        figure = Figure(figsize=SIZE, layout="constrained")
        claim.draw(results, figure)
        for name, options in (("figure.png", {}), ("figure.pdf", {"CreationDate": None})):
            with replacing(folder / name) as draft:
                figure.savefig(draft, dpi=200, metadata=options)


def _caption(outcome: Outcome, claim: Claim) -> str:
    """Return what stands below the figure."""
    data = f" Data: {', '.join(outcome.data)}." if outcome.data else ""
    lines = [
        f"{outcome.identity}. {outcome.statement}",
        claim.caption.format_map(outcome.setting),
        f"Statement: {outcome.provenance}; {outcome.source}. Setting ({outcome.sizes}): "
        f"{json.dumps(outcome.setting)}.{data} alignlab {outcome.alignlab}, torch {outcome.torch}.",
    ]
    return "\n".join(lines) + "\n"


def _write_text(path: Path, text: str) -> None:
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8", newline="\n")

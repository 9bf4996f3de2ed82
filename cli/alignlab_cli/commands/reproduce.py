"""``alignlab reproduce``: claims of the works behind alignlab, measured anew."""

from __future__ import annotations

import itertools
import json
import math
import os
import textwrap
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from alignlab.errors import InputError, MissingError
from alignlab_cli.options import HELP, check_device, force, json_output, literals
from alignlab_cli.outputs import check_folder
from alignlab_cli.progress import Progress

if TYPE_CHECKING:
    from alignlab.experiments._catalogue import Entry
    from alignlab.experiments._outcome import Outcome

__all__ = ["command"]

WIDTHS = (60, 24, 28, 24, 28, 24, 8, 4)
"""Most characters of each column of a claim's table."""


def _completed(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Offer works, claims and identities to the shell."""
    from alignlab.experiments import catalogue

    entries = catalogue()
    known = {name for entry in entries for name in (entry.paper, entry.key, entry.identity)}
    return sorted(name for name in known if name.startswith(incomplete))


@click.command(context_settings=HELP)
@click.argument("names", metavar="[CLAIM]...", nargs=-1, shell_complete=_completed)
@click.option("--all", "every", is_flag=True, help="Run every claim of every work.")
@click.option("--list", "listing", is_flag=True, help="List the claims; run nothing.")
@click.option(
    "--fast/--full",
    "fast",
    default=True,
    help="Sizes of a minute (the default), or those of the works, with their data sets.",
)
@click.option(
    "--set",
    "changes",
    metavar="NAME=VALUE",
    multiple=True,
    callback=literals,
    help="A size in place of the setting's, such as seeds=1; the outcome says so. Repeatable.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("alignlab-reproduced"),
    show_default=True,
    help="The folder for results; runs that it holds already are not run again.",
)
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=lambda: len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1,
    show_default="one a core",
    help="Processes, each on one thread; results do not depend on it.",
)
@click.option("--device", default="cpu", show_default=True, help="Where tensors live.")
@force
@click.option("-q", "--quiet", is_flag=True, help="No progress; print only the folders.")
@json_output
def command(
    *,
    names: tuple[str, ...],
    every: bool,
    listing: bool,
    fast: bool,
    changes: dict[str, object],
    output: Path,
    jobs: int,
    device: str,
    force: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Measure each CLAIM anew, and hold what comes out against what must.

    CLAIM is a work (refinetti2021), a claim of it (refinetti2021:degeneracy) or an identity
    (R4). Leaves numbers, figure, caption and outcome in OUTPUT/WORK/CLAIM/fast or full; sizes
    that --set changes have a folder beside these. What was cut off goes on where it was; --force
    starts anew.

    Exit code 0: every claim that was run is reproduced; 1: one is not, or none was run; 2:
    refused; 130: interrupted; 141: all was run, and nobody read what was printed.
    """
    entries = _chosen(names, every=every, listing=listing)
    if listing:
        _show_list(entries, as_json=as_json)
        return
    check_device(device)
    check_folder(output)
    from alignlab.experiments import reproduce_many
    from alignlab.experiments._running import folder_of

    outcomes = []
    with Progress(quiet=quiet or as_json) as progress:
        runs = reproduce_many(
            entries,
            full=not fast,
            changes=changes,
            output=output,
            jobs=jobs,
            device=device,
            force=force,
            progress=progress,
        )
        for entry, outcome in zip(entries, runs, strict=True):
            if len(entries) == 1 and not outcome.was_run:
                raise MissingError(outcome.status.partition(": ")[2])
            outcomes.append(outcome)
            folder = folder_of(entry, output, full=not fast, changes=outcome.changed)
            progress.clear()
            with suppress(BrokenPipeError):
                _show(outcome, folder, quiet=quiet, as_json=as_json)
    _end(outcomes, quiet=quiet, as_json=as_json)


def _chosen(names: Sequence[str], *, every: bool, listing: bool) -> list[Entry]:
    """Return the claims that are meant, each once."""
    from alignlab.experiments import catalogue, found

    if every and names:
        message = f"--all runs every claim; leave out {names[0]!r}, or --all."
        raise InputError(message)
    if names:
        return list(dict.fromkeys(entry for name in names for entry in found(name)))
    if every or listing:
        return catalogue()
    message = "Name a claim or a work, or ask for --all; 'alignlab reproduce --list' shows them."
    raise InputError(message)


def _show_list(entries: Sequence[Entry], *, as_json: bool) -> None:
    """Print identity, key, what kept runs came to, and one line on what is claimed."""
    from alignlab.experiments._kept import kept
    from alignlab.experiments._outcome import NOT_RUN, Size

    known = kept()

    def status(entry: Entry, size: Size) -> str:
        outcome = known.get((entry.key, size))
        if outcome is None:
            return NOT_RUN
        is_whole = outcome.sizes == outcome.size
        return outcome.status if is_whole else f"{outcome.status}: {outcome.sizes}"

    if as_json:
        rows = [
            {
                "identity": entry.identity,
                "key": entry.key,
                "summary": entry.summary,
                "fast": status(entry, "fast"),
                "full": status(entry, "full"),
            }
            for entry in entries
        ]
        click.echo(json.dumps(rows, indent=2))
        return
    lines = [
        (
            *(entry.identity, entry.key),
            *(status(entry, size).partition(":")[0] for size in ("fast", "full")),
            entry.summary,
        )
        for entry in entries
    ]
    click.echo("\n".join(_aligned(lines)))
    legend = "Third and fourth column: what the kept runs of fast and full sizes came to."
    click.echo(legend, err=True)


def _show(outcome: Outcome, folder: Path, *, quiet: bool, as_json: bool) -> None:
    """Print what came out of a claim as soon as it is there."""
    from alignlab.experiments._outcome import FAILED

    if as_json:
        return
    failed = outcome.status.startswith(FAILED)
    if not outcome.was_run or (quiet and failed):
        click.echo(f"{outcome.identity}  {outcome.key}: {outcome.status}\n", err=quiet)
    if not outcome.was_run:
        return
    if quiet:
        click.echo(folder)
        return
    click.echo(f"{outcome.identity}  {outcome.key}  {outcome.sizes}")
    click.echo(click.wrap_text(outcome.statement, 100, "  ", "  "))
    click.echo(f"  Statement: {outcome.provenance}; {outcome.source}.")
    for line in _table(outcome):
        click.echo(f"  {line}".rstrip())
    click.echo(f"  {outcome.status}, {outcome.seconds:.0f} s of runs; {folder}\n")


def _table(outcome: Outcome) -> list[str]:
    """Return the checks as lines, long texts wrapped within their columns."""
    from alignlab.experiments._outcome import verdict

    header = ("", "measured", "95% interval", "expected", "stated", "chance", "runs", "")
    rows: list[Sequence[str]] = [header] if outcome.checks else []
    for check in outcome.checks:
        cells = (
            check.what,
            _number(check.measured),
            _interval(check.low, check.high),
            *(check.expected, check.stated or "-", check.chance or "-", str(check.runs)),
            {True: "pass", False: "FAIL", None: "-"}[verdict(check)],
        )
        wrapped = [textwrap.wrap(cell, width) for cell, width in zip(cells, WIDTHS, strict=True)]
        rows += itertools.zip_longest(*wrapped, fillvalue="")
    return _aligned(rows)


def _end(outcomes: Sequence[Outcome], *, quiet: bool, as_json: bool) -> None:
    """Print the summary, and end with its exit code."""
    from alignlab.experiments._outcome import as_json as written

    if as_json:
        click.echo(json.dumps([written(outcome) for outcome in outcomes], indent=2))
    ran = [outcome for outcome in outcomes if outcome.was_run]
    lacking = [outcome for outcome in ran if not outcome.is_reproduced]
    if not quiet and not as_json:
        click.echo(f"{len(ran) - len(lacking)} of {len(ran)} claims that were run are reproduced.")
        for outcome in (outcome for outcome in outcomes if not outcome.is_reproduced):
            click.echo(f"  {outcome.identity}  {outcome.key}: {outcome.status}")
    if lacking or not ran:
        raise click.exceptions.Exit(1)


def _aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Return lines whose columns begin at the same places."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]


def _number(value: float) -> str:
    return f"{value:.4g}"


def _interval(low: float, high: float) -> str:
    """Return both edges; a dash where nothing is drawn."""
    return "-" if math.isnan(low) else f"[{_number(low)}, {_number(high)}]"

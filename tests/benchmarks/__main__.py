"""Run the benchmarks: ``python -m tests.benchmarks --help``."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
import torch

from tests.benchmarks._gpu import event_seconds, profiled_waits
from tests.benchmarks._harness import Quartiles, Timing, cpu_seconds, timed
from tests.benchmarks._machine import machine
from tests.benchmarks._report import (
    page_with,
    table_of_launches,
    table_of_memory,
    table_of_times,
)
from tests.benchmarks.costs import flatness, launches, memory
from tests.benchmarks.rows import ROWS, Row

COSTS = "costs"
QUICK = 5


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--only", multiple=True, type=click.Choice([*ROWS, COSTS]), help="Some rows.")
@click.option("--runs", default=5, type=click.IntRange(1), help="Processes, one after another.")
@click.option("--rounds", type=click.IntRange(3), help="Pairs of one run, for every row.")
@click.option("--quick", is_flag=True, help="One run of a few pairs; says little, takes a minute.")
@click.option("--seed", default=0, help="Seed of the orders within rounds.")
@click.option("--device", default="cpu", type=click.Choice(["cpu", "cuda"]))
@click.option(
    "--json", "json_path", type=click.Path(path_type=Path), help="Leave all numbers here."
)
@click.option("--write", type=click.Path(path_type=Path, exists=True), help="Page to fill in.")
def main(
    only: tuple[str, ...],
    runs: int,
    rounds: int | None,
    quick: bool,
    seed: int,
    device: str,
    json_path: Path | None,
    write: Path | None,
) -> None:
    """Time observed training steps against plain ones, one thread, CPU time.

    The verdict on a row is that of the upper quartile, over all runs, of the runs' medians.
    """
    if write and (only or quick):
        message = "--write takes whole tables; leave --only and --quick out."
        raise click.UsageError(message)
    torch.set_num_threads(1)
    gc.freeze()  # what is imported need not be looked through between all rounds
    found_machine, begin = machine(device), time.monotonic()
    rows = [ROWS[name] for name in only or ROWS if name != COSTS]
    if quick:
        runs, rows = 1, [replace(row, rounds=min(QUICK, row.rounds)) for row in rows]
    options = {"rounds": rounds, "device": device}
    if runs == 1:
        found = [{row.name: _timing(row, seed, **options) for row in rows}] if rows else []
    else:
        found = []
        for run in _in_processes(rows, range(seed, seed + runs), **options):
            found.append(run)
            if json_path:
                json_path.write_text(_as_json(found_machine, found), encoding="utf-8")
    times = {row: [run[row.name] for run in found] for row in rows}
    texts = [table_of_times(times)] if rows else []
    if COSTS in only or not only:
        texts += _costs(device)
    minutes = (time.monotonic() - begin) / 60
    heading = _heading(found_machine, minutes)
    click.echo("\n\n".join([heading, *texts]))
    if json_path:
        json_path.write_text(_as_json(found_machine, found), encoding="utf-8")
    if write:
        page_with(write, "\n\n".join([heading, *texts]))


def _timing(row: Row, seed: int, *, rounds: int | None, device: str) -> Timing:
    click.echo(f"{row.name} ...", err=True)
    clock = event_seconds if device == "cuda" else cpu_seconds
    comparison = row.build(device)
    timing = timed(
        comparison, rounds=rounds or row.rounds, warmup=row.warmup, seed=seed, clock=clock
    )
    click.echo(f"{row.name} {timing.ratio.median:.3f}", err=True)
    if device == "cuda":
        click.echo(f"{row.name} waits {dict(profiled_waits(comparison.work.step))}", err=True)
    return timing


def _in_processes(
    rows: Sequence[Row], seeds: Sequence[int], *, rounds: int | None, device: str
) -> Iterator[dict[str, Timing]]:
    """Yield the timings of each run in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        for seed in seeds if rows else ():
            path = Path(folder) / f"{seed}.json"
            command = [sys.executable, "-m", "tests.benchmarks", "--runs", "1"]
            command += ["--seed", str(seed), "--device", device, "--json", str(path)]
            command += ["--rounds", str(rounds)] if rounds else []
            command += [word for row in rows for word in ("--only", row.name)]
            click.echo(f"run {seed}", err=True)
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            (run,) = json.loads(path.read_text(encoding="utf-8"))["runs"]
            yield {name: _from_json(timing) for name, timing in run.items()}


def _costs(device: str) -> list[str]:
    click.echo("bytes and launches ...", err=True)
    sizes = table_of_memory(list(memory(device)), flatness(device))
    return [sizes, table_of_launches(list(launches(device)))]


def _heading(found: dict[str, str], minutes: float) -> str:
    command = " ".join(["python -m tests.benchmarks", *sys.argv[1:]])
    lines = [f"- {key}: {value}" for key, value in found.items()]
    return "\n".join([f"`{command}`, {minutes:.1f} minutes.", "", *lines])


def _as_json(found: dict[str, str], runs: Sequence[dict[str, Timing]]) -> str:
    plain = [{name: asdict(timing) for name, timing in run.items()} for run in runs]
    return json.dumps({"machine": found, "runs": plain}, indent=1)


def _from_json(timing: dict[str, Any]) -> Timing:
    return Timing(**{**timing, "ratio": Quartiles(**timing["ratio"])})


if __name__ == "__main__":
    main()

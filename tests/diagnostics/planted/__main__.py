"""Plant every fault and show what moves: ``python -m tests.diagnostics.planted --help``."""

from __future__ import annotations

from pathlib import Path

import click
import torch

from tests.benchmarks._report import page_with
from tests.diagnostics.planted.matrix import Matrix
from tests.diagnostics.planted.tables import page


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--seeds", default=8, type=click.IntRange(min=2), help="How many seeds, from 0.")
@click.option("--write", type=click.Path(path_type=Path, exists=True), help="Page to fill in.")
def main(seeds: int, write: Path | None) -> None:
    """Measure all faults, print the matrix, and write the page if all is as it should be."""
    torch.set_num_threads(1)
    matrix = Matrix.of(range(seeds))
    click.echo(matrix.text())
    violations = matrix.violations()
    if violations:
        raise click.ClickException("\n".join(violations))
    if write:
        page_with(write, page(matrix))


if __name__ == "__main__":
    main()

"""Measure every stated value again: ``python -m tests.stated_values --help``."""

from __future__ import annotations

from pathlib import Path

import click
import torch

from tests.benchmarks._report import page_with
from tests.stated_values.page import tables


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--write", type=click.Path(path_type=Path, exists=True), help="Page to fill in.")
def main(write: Path | None) -> None:
    """Measure all values, and print or write the tables."""
    torch.set_num_threads(1)
    text = "\n\n".join(tables())
    if write:
        page_with(write, text)
    click.echo(text)


if __name__ == "__main__":
    main()

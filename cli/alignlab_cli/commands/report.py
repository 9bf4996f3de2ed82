"""``alignlab report``: a recording as one page."""

from __future__ import annotations

from pathlib import Path

import click

from alignlab_cli.options import HELP, force, recording
from alignlab_cli.outputs import check_page, write_text

__all__ = ["command"]


@click.command(context_settings=HELP)
@recording
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="The page to write.  [default: next to the recording, ending in .html]",
)
@force
def command(*, recording: str, output: Path | None, force: bool) -> None:
    """Write RECORDING as one page that needs no network: answer, tables, figures, provenance."""
    from alignlab.recording import load
    from alignlab.report import render

    page = output or Path(recording).with_suffix(".html")
    check_page(page, force=force)
    write_text(page, render(load(Path(recording))))
    click.echo(page)

"""``alignlab export``: figures and tables as files."""

from __future__ import annotations

from pathlib import Path

import click

from alignlab_cli.options import HELP, force, recording
from alignlab_cli.outputs import check_folder

__all__ = ["command"]

output = click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help="The folder to write to; it is made where there is none.",
)


@click.group(context_settings=HELP)
def command() -> None:
    """Write a recording's figures or tables as files."""


@command.command(context_settings=HELP)
@recording
@output
@click.option(
    "--format",
    "formats",
    type=click.Choice(["svg", "pdf", "png"]),
    multiple=True,
    default=("svg",),
    show_default=True,
    help="The format; may be given more than once.",
)
@force
def figures(*, recording: str, output: Path, formats: tuple[str, ...], force: bool) -> None:
    """Write every figure that RECORDING can feed, each with its data as CSV."""
    from alignlab import figures as figure_files
    from alignlab.recording import load

    dataset = load(Path(recording))
    check_folder(output)
    written = figure_files.export(dataset, output, formats=formats, overwrite=force)
    left_out = [(name, result) for name, result in written if isinstance(result, str)]
    for _, result in written:
        if not isinstance(result, str):
            for path in result:
                click.echo(path)
    for name, reason in left_out:
        click.echo(f"left out {name}: {reason}", err=True)


@command.command(context_settings=HELP)
@recording
@output
@force
def tables(*, recording: str, output: Path, force: bool) -> None:
    """Write RECORDING's tables as CSV."""
    from alignlab.recording import load
    from alignlab.report import tables as table_files

    dataset = load(Path(recording))
    check_folder(output)
    for path in table_files.export(dataset, output, overwrite=force):
        click.echo(path)

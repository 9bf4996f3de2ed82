"""``alignlab demo``: the packaged checkpoints from file to report."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from alignlab_cli.options import HELP, quiet, without_folders
from alignlab_cli.outputs import check_folder, write_text
from alignlab_cli.progress import Progress

if TYPE_CHECKING:
    import xarray as xr

    from alignlab.examples import Example

__all__ = ["command"]

DRAWS = 100
"""Redraws for each chance level: enough for p-values of 0.01, and done in half a minute."""


@click.command(context_settings=HELP)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("alignlab-demo"),
    show_default=True,
    help="The folder for recordings and reports; those of an earlier demo are replaced.",
)
@quiet
def command(*, output: Path, quiet: bool) -> None:
    """Analyse the packaged checkpoints, networks trained on digits by backpropagation and DFA.

    Leaves a recording and a report for each, and report.html, which leads to them.
    """
    import torch

    from alignlab.examples import manifest
    from alignlab.report import render_index
    from alignlab_cli.summary import lines

    # Networks this small lose more to threads than they win.
    torch.set_num_threads(1)
    examples = manifest()
    check_folder(output)
    analysed: list[tuple[Example, xr.Dataset]] = []
    with Progress(quiet=quiet) as progress:
        for index, example in enumerate(examples, start=1):
            prefix = f"{index} of {len(examples)}, {example.file.name}:"
            analysed.append((example, _analyse(example, output, _prefixed(progress, prefix))))
    page = output / "report.html"
    pages = {f"{example.file.stem}.html": dataset for example, dataset in analysed}
    write_text(page, render_index(pages, title="alignlab demo"))
    if not quiet:
        for _, dataset in analysed:
            click.echo("\n".join(lines(dataset, brief=True)) + "\n")
    click.echo(page.resolve())


def _analyse(
    example: Example, folder: Path, progress: Callable[[str, int, int], None]
) -> xr.Dataset:
    """Measure an example, write its recording and its report, and return the recording."""
    from alignlab.analyze import analyze_checkpoint
    from alignlab.recording import save
    from alignlab.report import render

    rules = _rules(example)
    analysis = analyze_checkpoint(
        example.file,
        model=example.model,
        model_arguments=example.model_arguments,
        data=example.data,
        rules=rules,
        draws=DRAWS,
        command=_command(example, rules),
        progress=progress,
    )
    save(analysis.recording, folder / f"{example.file.stem}.nc", overwrite=True)
    write_text(folder / f"{example.file.stem}.html", render(analysis.recording))
    return analysis.recording


def _rules(example: Example) -> tuple[str, ...]:
    """Return the rule that trained the example, or DFA for one that backpropagation trained.

    Sign-symmetric feedback comes from the weights, so that it can be observed on any checkpoint.
    """
    return ("dfa" if example.rule == "bp" else example.rule_spec, "usf")


def _command(example: Example, rules: tuple[str, ...]) -> str:
    """Return the command that measures the example alone."""
    words = ["alignlab", "analyze", "checkpoint", example.file.name]
    words += ["--model", without_folders(example.model)]
    for name, value in example.model_arguments.items():
        words += ["--model-arg", f"{name}={value}"]
    words += ["--data", example.data]
    for rule in rules:
        words += ["--rule", rule]
    words += ["--draws", str(DRAWS)]
    return shlex.join(words)


def _prefixed(progress: Progress, prefix: str) -> Callable[[str, int, int], None]:
    """Return a progress that says which of several checkpoints it is about."""

    def show(label: str, done: int, total: int) -> None:
        progress(f"{prefix} {label}", done, total)

    return show

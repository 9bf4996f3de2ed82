"""``alignlab analyze``: measure a rule's gradients on a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from alignlab.errors import InputError
from alignlab_cli.options import (
    HELP,
    RecordedCommand,
    allow_unsafe_pickle,
    check_device,
    command_line,
    complete,
    force,
    json_output,
    key,
    literals,
    numbers,
    pairs,
    quiet,
    words,
)
from alignlab_cli.outputs import check_writable
from alignlab_cli.progress import Progress
from alignlab_cli.recovery import recovered, require_recoverable, show_recovery

__all__ = ["command"]


@click.group(context_settings=HELP)
def command() -> None:
    """Measure how good a rule's gradients are."""


@command.command(cls=RecordedCommand, context_settings=HELP)
@click.argument("file", type=click.Path())
@click.option("--model", metavar="SPEC", help="net.py:build, package.module:build, alignlab:NAME.")
@click.option(
    "--model-arg",
    "model_arguments",
    metavar="NAME=VALUE",
    multiple=True,
    callback=literals,
    help="An argument of the model's factory.",
)
@click.option("--data", metavar="SPEC", help="digits, mnist, cifar10, npz:FILE, file.py:load, ...")
@click.option(
    "--rule",
    "rules",
    metavar="RULE",
    multiple=True,
    shell_complete=complete("alignlab.rules"),
    help="dfa, 'fa(distribution=uniform)', ...; may be given more than once.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="The recording, .nc or .zarr.  [default: FILE's name with .nc, in this folder]",
)
@force
@click.option("--split", default="test", show_default=True, help="Which part of the data.")
@click.option("--samples", type=click.IntRange(1), default=512, show_default=True)
@click.option(
    "--mean",
    metavar="NUMBERS",
    callback=numbers,
    help="Subtracted from the inputs; one, or one per channel with commas.",
)
@click.option("--std", metavar="NUMBERS", callback=numbers, help="The inputs are divided by it.")
@click.option("--loss", default="cross-entropy", show_default=True, help="The training loss.")
@click.option(
    "--mode",
    type=click.Choice(["eval", "train"]),
    default="eval",
    show_default=True,
    help="How dropout and normalisation behave.",
)
@click.option("--device", default="cpu", show_default=True)
@click.option("--seed", type=int, default=0, show_default=True, help="Of samples and redraws.")
@click.option(
    "--draws",
    type=click.IntRange(1),
    default=None,
    help="Redraws of the feedback for chance levels; 32 or more.  [default: 200, fewer for "
    "many units]",
)
@click.option(
    "--feedback",
    metavar="LAYER=KEY",
    multiple=True,
    callback=pairs,
    help="Which tensor of FILE is a layer's feedback.",
)
@click.option("--replay", metavar="SEED", type=int, help="The seed that the feedback came from.")
@click.option(
    "--rename",
    metavar="OLD=NEW",
    multiple=True,
    callback=pairs,
    help="A key of FILE and what the model calls it.",
)
@click.option(
    "--layers",
    metavar="NAMES",
    callback=words,
    help="Only these modules, with commas; what lies between is passed exactly.",
)
@click.option(
    "--diagnostic",
    "diagnostics",
    metavar="NAME",
    multiple=True,
    shell_complete=complete("alignlab.diagnostics"),
    help="Only these; see 'alignlab list diagnostics'.",
)
@click.option("--preset", metavar="NAME", help="A named choice of diagnostics.")
@click.option(
    "--save",
    metavar="WHAT",
    callback=words,
    help="Keep raw tensors too: signals,weight-gradients,feedback.",
)
@click.option(
    "--since",
    metavar="FILE",
    type=click.Path(),
    help="An earlier checkpoint of this training: measure the way from it, or --recover.",
)
@click.option(
    "--earlier",
    metavar="LABEL=FILE",
    multiple=True,
    callback=pairs,
    help="Another checkpoint of this training to look back at; 'initial' is where it began.",
)
@click.option(
    "--twin",
    metavar="FILE",
    type=click.Path(),
    help="The same network trained by backpropagation, to compare representations with.",
)
@click.option(
    "--recover",
    is_flag=True,
    help="With --since, without --model: the column space of lost direct feedback.",
)
@click.option(
    "--outputs",
    "n_errors",
    type=click.IntRange(1),
    help="With --recover, the network's outputs.  [default: those of the last layer]",
)
@key
@click.option("--plain-model", metavar="SPEC", help="A twin of the model without own backwards.")
@allow_unsafe_pickle
@click.option("--download", is_flag=True, help="Fetch a data set that is not there.")
@quiet
@json_output
@click.pass_context
def checkpoint(
    ctx: click.Context,
    /,
    *,
    file: str,
    output: Path | None,
    force: bool,
    quiet: bool,
    as_json: bool,
    since: str | None,
    recover: bool,
    n_errors: int | None,
    **measurement: Any,
) -> None:
    """Measure rules on the checkpoint FILE and write a recording.

    Without --model and --data, what the weights and their feedback alone tell is measured.
    """
    from alignlab.recording import check, save

    if recover:
        require_recoverable(since, measurement)
    elif n_errors:
        message = "--outputs belongs to --recover; add it, or leave --outputs out."
        raise InputError(message)

    path = output or Path(f"{Path(file).stem}.nc")
    check(path, overwrite=force)
    check_writable(path.parent)
    if measurement["model"] and not measurement["data"]:
        message = (
            "--model was given without --data. Add --data digits, npz:FILE, file.py:load or "
            "another that 'alignlab list datasets' names, or leave --model out."
        )
        raise InputError(message)

    unread = next((name for name in ("rules", "data") if measurement[name]), "")
    if unread and not measurement["model"]:
        message = (
            f"--{unread.removesuffix('s')} was given without --model. Add --model FILE.py:FACTORY; "
            f"leave --{unread.removesuffix('s')} out to measure what weights alone tell."
        )
        raise InputError(message)

    if recover:
        analysis = recovered(
            since or "", file, n_errors=n_errors, command=command_line(ctx), measurement=measurement
        )
        written = save(analysis.recording, path, overwrite=force, tensors=analysis.tensors)
        show_recovery(analysis.recording, written, quiet=quiet, as_json=as_json)
        return
    check_device(measurement["device"])
    from alignlab.analyze import analyze_checkpoint
    from alignlab_cli.summary import show

    with Progress(quiet=quiet) as progress:
        analysis = analyze_checkpoint(
            file, **measurement, since=since, command=command_line(ctx), progress=progress
        )
    written = save(analysis.recording, path, overwrite=force, tensors=analysis.tensors)
    show(analysis.recording, written, quiet=quiet, as_json=as_json)

"""``alignlab train``: the reference trainer, for any rule, model and data."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import click

from alignlab_cli.options import (
    HELP,
    RecordedCommand,
    check_device,
    command_line,
    complete,
    force,
    json_output,
    literals,
    numbers,
    quiet,
    words,
)
from alignlab_cli.progress import Progress

__all__ = ["command"]

PLAN = (
    *("model", "model_arguments", "data", "rule", "samples", "held_split", "mean", "std", "loss"),
    *("device", "init_seed", "feedback_seed", "per_decade", "probe_samples", "draws"),
    *("diagnostics", "preset"),
)
"""Options that are about the training as a whole; the others are its recipe."""


@click.command(cls=RecordedCommand, context_settings=HELP)
@click.argument("model", metavar="SPEC")
@click.option(
    "--model-arg",
    "model_arguments",
    metavar="NAME=VALUE",
    multiple=True,
    callback=literals,
    help="An argument of the model's factory.",
)
@click.option(
    "--data", metavar="SPEC", required=True, help="digits, mnist, npz:FILE, file.py:load, ..."
)
@click.option(
    "--rule",
    metavar="RULE",
    default="bp",
    show_default=True,
    shell_complete=complete("alignlab.rules"),
    help="bp, dfa, 'fa(distribution=uniform)', ...",
)
@click.option("--epochs", type=click.IntRange(0), required=True, help="Passes over the data.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="The run's folder."
)
@force
@click.option("--batch-size", type=click.IntRange(1), default=64, show_default=True)
@click.option("--drop-last", is_flag=True, help="Leave out a last batch that is smaller.")
@click.option("--optimizer", metavar="NAME", default="sgd", show_default=True, help="Of torch.")
@click.option(
    "--optimizer-arg",
    "optimizer_options",
    metavar="NAME=VALUE",
    multiple=True,
    callback=literals,
    help="lr=0.1, ...  [default: torch's; of sgd, where none is given, lr=0.1 momentum=0.9]",
)
@click.option(
    "--schedule", metavar="NAME", default="", help="Of torch.optim.lr_scheduler, once an epoch."
)
@click.option(
    "--schedule-arg",
    "schedule_options",
    metavar="NAME=VALUE",
    multiple=True,
    callback=literals,
    help="step_size=10, ...",
)
@click.option("--loss", default="cross-entropy", show_default=True, help="The training loss.")
@click.option(
    "--label-noise",
    type=click.FloatRange(0, 1),
    default=0.0,
    help="Share of the targets that are drawn anew from all classes.",
)
@click.option(
    "--frozen", metavar="NAMES", callback=words, help="Parameters that stay, with commas."
)
@click.option("--stop-loss", type=float, help="End after an epoch whose loss is at most this.")
@click.option(
    "--patience",
    type=click.IntRange(1),
    help="End when so many epochs lower no held-out loss; the best is kept as best.pt.",
)
@click.option("--amp", is_flag=True, help="Autocast to bfloat16.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--init-seed", type=int, default=0, show_default=True, help="Of the weights.")
@click.option("--feedback-seed", type=int, help="Of the feedback.  [default: the rule's own]")
@click.option("--order-seed", type=int, default=0, show_default=True, help="Of the data's order.")
@click.option("--noise-seed", type=int, default=0, show_default=True, help="Of the label noise.")
@click.option("--dropout-seed", type=int, default=0, show_default=True, help="Of dropout.")
@click.option("--samples", type=click.IntRange(1), help="Training samples.  [default: all]")
@click.option(
    "--held-split",
    metavar="NAME",
    default="test",
    show_default=True,
    help="Split for held-out loss, accuracy and probe; '' for none.",
)
@click.option("--mean", metavar="NUMBERS", callback=numbers, help="Subtracted from the inputs.")
@click.option("--std", metavar="NUMBERS", callback=numbers, help="The inputs are divided by it.")
@click.option(
    "--probe-per-decade",
    "per_decade",
    type=click.IntRange(0),
    default=4,
    show_default=True,
    help="Probes from a power of ten of the steps to the next; 0 for none.",
)
@click.option("--probe-samples", type=click.IntRange(2), default=256, show_default=True)
@click.option(
    "--draws",
    type=click.IntRange(1),
    default=50,
    show_default=True,
    help="Redraws of the feedback for chance levels; 32 or more.",
)
@click.option(
    "--diagnostic",
    "diagnostics",
    metavar="NAME",
    multiple=True,
    shell_complete=complete("alignlab.diagnostics"),
    help="What is probed; see 'alignlab list diagnostics'.",
)
@click.option("--preset", metavar="NAME", help="A named choice of diagnostics.  [default: core]")
@click.option("--download", is_flag=True, help="Fetch a data set that is not there.")
@quiet
@json_output
@click.pass_context
def command(
    ctx: click.Context,
    /,
    *,
    output: Path,
    force: bool,
    download: bool,
    amp: bool,
    quiet: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Train the model SPEC by a rule and probe it on the way.

    Leaves initial.pt, checkpoint.pt (the last weights), best.pt (with --patience), losses.csv,
    recording.nc and run.json. A run that was killed goes on when the same command is given again,
    to the same bits.
    """
    check_device(given["device"])
    from alignlab.training import Plan, Recipe, train_into

    chosen = {name: value for name, value in given.items() if name not in PLAN}
    chosen["optimizer_options"] = chosen["optimizer_options"] or None
    recipe = Recipe(**chosen, precision="bfloat16" if amp else "float32")
    plan = Plan(recipe=recipe, **{name: given[name] for name in PLAN})
    with Progress(quiet=quiet) as progress:
        found = train_into(
            *(output, plan),
            command=command_line(ctx),
            download=download,
            force=force,
            progress=progress,
        )
    if as_json:
        click.echo(json.dumps({"folder": str(output), **found}, indent=2))
        return
    if not quiet:
        click.echo("\n".join([*_said(found, output), ""]))
    click.echo(output)


def _said(found: dict[str, Any], output: Path) -> list[str]:
    """Return what came out, and what can be done with it."""
    plan, best = found["plan"], found["best"]
    said = [f"{plan['rule']} on {found['trained_on']}: {found['epochs']} epochs"]
    if found["loss"] is not None:
        said[0] += f", training loss {found['loss']:.4f}"
    if found["held_loss"] is not None:
        said.append(f"{found['held_out']}: {_held(found)}")
    if best is not None:
        said.append(
            f"best: epoch {best['epoch']}, training loss {best['loss']:.4f}, held-out "
            f"{_held(best)}; {output / 'best.pt'}"
        )
    arguments = [f"--model-arg={name}={value}" for name, value in plan["model_arguments"].items()]
    analyze = ["alignlab", "analyze", "checkpoint", str(output / "checkpoint.pt")]
    analyze += ["--model", plan["model"], *arguments, "--data", plan["data"]]
    for name in ("mean", "std"):
        if plan[name] is not None:
            values = plan[name] if isinstance(plan[name], list) else [plan[name]]
            analyze += [f"--{name}", ",".join(str(value) for value in values)]
    if plan["loss"] != "cross-entropy":
        analyze += ["--loss", plan["loss"]]
    if "recording.nc" in found["files"]:
        said.append(f"to see: {shlex.join(['alignlab', 'report', str(output / 'recording.nc')])}")
    return [*said, f"to analyse: {shlex.join(analyze)}"]


def _held(numbers: dict[str, Any]) -> str:
    """Return loss and accuracy on held-out data; there is none without classes."""
    said = f"loss {numbers['held_loss']:.4f}"
    accuracy = numbers["held_accuracy"]
    return said if accuracy is None else f"{said}, accuracy {100 * accuracy:.1f}%"

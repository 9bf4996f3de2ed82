"""``alignlab inspect``: what a checkpoint holds."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from alignlab_cli.options import HELP, json_output

if TYPE_CHECKING:
    from alignlab.checkpoints import Checkpoint

__all__ = ["command"]


@click.command(context_settings=HELP)
@click.argument("file", type=click.Path())
@click.option(
    "--allow-unsafe-pickle",
    is_flag=True,
    help="Unpickle a file that you trust; it may run any code.",
)
@json_output
def command(*, file: str, allow_unsafe_pickle: bool, as_json: bool) -> None:
    """Show the layers, shapes and feedback in FILE, and what to pass to analyze."""
    from alignlab import checkpoints

    if as_json:
        checkpoint = checkpoints.open_checkpoint(file, allow_unsafe_pickle=allow_unsafe_pickle)
        click.echo(json.dumps(_contents(checkpoint), indent=2, default=str))
    else:
        click.echo(checkpoints.describe(file, allow_unsafe_pickle=allow_unsafe_pickle))


def _contents(checkpoint: Checkpoint) -> dict[str, object]:
    """Return a checkpoint as names, shapes and types, without a tensor's values."""
    return {
        "file": checkpoint.path.name,
        "sha256": checkpoint.sha256,
        "format": checkpoint.format,
        "tensors": {
            name: {"shape": list(tensor.shape), "dtype": str(tensor.dtype)}
            for name, tensor in checkpoint.tensors.items()
        },
        "feedback": [str(stored) for stored in checkpoint.feedback],
        "hyper_parameters": checkpoint.hyper_parameters,
        "notes": list(checkpoint.notes),
    }

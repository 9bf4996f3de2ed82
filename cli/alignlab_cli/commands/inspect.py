"""``alignlab inspect``: what a checkpoint holds."""

from __future__ import annotations

import json

import click

from alignlab_cli.options import HELP, allow_unsafe_pickle, json_output, key

__all__ = ["command"]


@click.command(context_settings=HELP)
@click.argument("file", type=click.Path())
@key
@allow_unsafe_pickle
@json_output
def command(*, file: str, key: str, allow_unsafe_pickle: bool, as_json: bool) -> None:
    """Show the layers, shapes and feedback in FILE, and what to pass to analyze."""
    from alignlab.checkpoints import describe, describe_json

    if as_json:
        contents = describe_json(file, allow_unsafe_pickle=allow_unsafe_pickle, key=key)
        click.echo(json.dumps(contents, indent=2, default=str))
    else:
        click.echo(describe(file, allow_unsafe_pickle=allow_unsafe_pickle, key=key))

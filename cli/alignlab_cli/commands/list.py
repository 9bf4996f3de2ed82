"""``alignlab list``: the names that other commands and SPECs take."""

from __future__ import annotations

import json

import click

from alignlab.plugins import names, summary
from alignlab_cli.options import HELP, json_output

__all__ = ["command"]

KINDS = {
    "rules": "alignlab.rules",
    "diagnostics": "alignlab.diagnostics",
    "figures": "alignlab.figures",
    "datasets": "alignlab.datasets",
    "models": "alignlab.models",
    "hypotheses": "alignlab.diagnosis.hypotheses",
}


@click.command("list", context_settings=HELP)
@click.argument("kind", type=click.Choice(list(KINDS)))
@json_output
def command(*, kind: str, as_json: bool) -> None:
    """List the names of one KIND, one a line, each with what it is."""
    package = KINDS[kind]
    rows = {name: summary(package, name) for name in names(package)}
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    width = max(map(len, rows), default=0)
    for name, line in rows.items():
        click.echo(f"{name:<{width}}  {line}")

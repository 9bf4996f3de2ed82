"""``alignlab list``: the names that other commands and SPECs take."""

from __future__ import annotations

import json
from collections.abc import Mapping

import click

from alignlab.plugins import declared, names, summary
from alignlab_cli.options import HELP, json_output

__all__ = ["command"]

KINDS = {
    "rules": "alignlab.rules",
    "diagnostics": "alignlab.diagnostics",
    "analyses": "alignlab.analyses",
    "figures": "alignlab.figures",
    "datasets": "alignlab.datasets",
    "models": "alignlab.models",
    "hypotheses": "alignlab.diagnosis.hypotheses",
}


@click.command("list", context_settings=HELP)
@click.argument("kind", type=click.Choice([*KINDS, "claims"]))
@json_output
def command(*, kind: str, as_json: bool) -> None:
    """List the names of one KIND, one a line, each with what it is.

    Diagnostics come with what they cost, in training steps per rule, and their presets. Of
    claims, `alignlab reproduce --list` says more.
    """
    rows = _claims() if kind == "claims" else _rows(KINDS[kind])
    if kind == "diagnostics":
        _show_diagnostics(rows, as_json=as_json)
        return
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    width = max(map(len, rows), default=0)
    for name, line in rows.items():
        click.echo(f"{name:<{width}}  {line}")


def _rows(package: str) -> dict[str, str]:
    """Return name -> summary."""
    return {name: summary(package, name) for name in names(package)}


def _claims() -> dict[str, str]:
    """Return ``work:claim`` -> summary."""
    from alignlab.experiments import catalogue

    return {entry.key: entry.summary for entry in catalogue()}


def _show_diagnostics(rows: Mapping[str, str], *, as_json: bool) -> None:
    from alignlab.diagnostics._presets import PRESETS

    package = KINDS["diagnostics"]
    costs = {name: declared(package, name, "cost") for name in rows}
    presets = {name: [p for p, chosen in PRESETS.items() if name in chosen] for name in rows}
    if as_json:
        found = {
            name: {"summary": line, "cost": costs[name], "presets": [*presets[name], "full"]}
            for name, line in rows.items()
        }
        click.echo(json.dumps(found, indent=2))
        return
    width = max(map(len, rows), default=0)
    wide = max((len(",".join(each)) for each in presets.values()), default=0)
    for name, line in rows.items():
        cost = costs[name]
        steps = f"{cost:>6.4g}" if isinstance(cost, int | float) else f"{'?':>6}"
        click.echo(f"{name:<{width}}  {steps}  {','.join(presets[name]):<{wide}}  {line}")
    legend = "Second column: cost in plain training steps per rule; third: presets besides 'full'."
    click.echo(legend, err=True)

"""Configuration of the documentation; two pages are written from the code at each build."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

import alignlab
from alignlab.plugins import names, summary
from alignlab_cli.commands.list import KINDS
from alignlab_cli.main import alignlab as command_line

project = "alignlab"
author = "The alignlab maintainers"
release = alignlab.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"alignlab {release}"
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
autodoc_typehints = "description"
napoleon_google_docstring = True

HERE = Path(__file__).parent


def pages_of_names() -> Iterator[str]:
    """Yield what ``alignlab list`` knows, a section for each kind."""
    yield "# Names\n"
    yield "What rules, data and the other options take; `alignlab list KIND` prints the same.\n"
    for kind, package in KINDS.items():
        yield f"## {kind.capitalize()}\n"
        yield from (f"- `{name}`: {summary(package, name)}" for name in names(package))
        yield ""


def pages_of_commands(command: click.Command, path: str) -> Iterator[str]:
    """Yield the help of a command and of all below it."""
    context = click.Context(command, info_name=path, max_content_width=90)
    yield f"## {path}\n\n```text\n{command.get_help(context)}\n```\n"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            if child is not None:
                yield from pages_of_commands(child, f"{path} {name}")


(HERE / "names.md").write_text("\n".join(pages_of_names()), encoding="utf-8")
(HERE / "command-line.md").write_text(
    "\n".join(["# Command line\n", *pages_of_commands(command_line, "alignlab")]), encoding="utf-8"
)

"""Configuration of the documentation; names, rules and commands are written from the code."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

import alignlab
from alignlab.diagnostics._base import Diagnostic, Variable
from alignlab.diagnostics._presets import PRESETS
from alignlab.experiments import catalogue
from alignlab.plugins import load, names, summary
from alignlab.rules import Rule
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
    yield "## Claims\n"
    yield "What `alignlab reproduce` measures anew; what came out: [the five works](seeds.md).\n"
    yield from (f"- `{entry.key}`: {entry.summary}" for entry in catalogue())


def pages_of_commands(command: click.Command, path: str) -> Iterator[str]:
    """Yield the help of a command and of all below it."""
    context = click.Context(command, info_name=path, max_content_width=90)
    yield f"## {path}\n\n```text\n{command.get_help(context)}\n```\n"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            if child is not None:
                yield from pages_of_commands(child, f"{path} {name}")


def emptied(folder: Path) -> None:
    """Take away pages of an earlier build, of names that may be gone."""
    folder.mkdir(exist_ok=True)
    for page in folder.glob("*.md"):
        page.unlink()


def fact_of(rule: type[Rule]) -> Iterator[str]:
    """Yield what must be known of a rule before its numbers are read."""
    yield "error signals and updates" if rule.has_signals else "parameter updates alone"
    yield "exact output layer" if rule.has_exact_output else "no exact layer"
    if rule.learns:
        yield "learns its feedback"
    if rule.keeps_initial is True:
        yield "keeps the initial parameters"
    if rule.has_random_feedback:
        yield "chance level: feedback drawn again"
    elif rule.redraw is not Rule.redraw:
        yield "chance level: drawn by the rule's own law"
    else:
        yield "chance level: updates rotated among the output units"


def page_of_rule(name: str) -> str:
    """Return the page of one rule."""
    rule = load("alignlab.rules", name)
    assert isinstance(rule, type)
    assert issubclass(rule, Rule)
    facts = "; ".join(fact_of(rule))
    text = f"# {name}\n\n{summary('alignlab.rules', name)}\n\n*{facts}.*\n\n"
    place = f"{rule.__module__}.{rule.__name__}"
    return f"{text}```{{eval-rst}}\n.. autoclass:: {place}\n```\n"


def pages_of_rules(folder: Path) -> Iterator[str]:
    """Write a page for every rule, and yield the lines of the page that lists them."""
    emptied(folder)
    every = [name for name in names("alignlab.rules") if not name.startswith("_")]
    for name in every:
        (folder / f"{name}.md").write_text(page_of_rule(name), encoding="utf-8")
    yield "# Rules\n"
    yield "Every rule by its name, with its options. How accurately networks learn under each: "
    yield "[accuracy](accuracy.md); a rule of your own: [any rule](any-rule.md).\n"
    yield "```{toctree}\n:maxdepth: 1\n:hidden:\n"
    yield from (f"rules/{name}" for name in every)
    yield "```\n"
    yield from (
        f"- [`{name}`](rules/{name}.md): {summary('alignlab.rules', name)}" for name in every
    )


def page_of_diagnostic(name: str) -> str:
    """Return the page of one diagnostic."""
    diagnostic = load("alignlab.diagnostics", name)
    assert isinstance(diagnostic, type)
    assert issubclass(diagnostic, Diagnostic)
    presets = [f"`{preset}`" for preset, chosen in PRESETS.items() if name in chosen]
    facts = [
        f"cost: about {diagnostic.cost:.4g} plain training steps per rule",
        f"presets: {', '.join([*presets, '`full`'])}",
    ]
    place = f"{diagnostic.__module__}.{diagnostic.__name__}"
    return "\n".join(
        [
            f"# {name}\n\n{summary('alignlab.diagnostics', name)}\n",
            f"*{'; '.join(facts)}.*\n",
            f"```{{eval-rst}}\n.. autoclass:: {place}\n   :no-members:\n```\n",
            "## Variables\n",
            "| variable | over | what it is | units | better | source |",
            "|---|---|---|---|---|---|",
            *(row_of(variable) for variable in diagnostic.variables),
            "",
        ]
    )


def row_of(variable: Variable) -> str:
    """Return a variable's line in the table of its diagnostic."""
    name = f"`{variable.name}`" + (", with its chance level" if variable.alignment else "")
    cells = [
        *(name, ", ".join(variable.dims) or "the network", variable.long_name),
        *(variable.units, {"none": ""}.get(variable.better, variable.better), variable.source),
    ]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def pages_of_diagnostics(folder: Path) -> Iterator[str]:
    """Write a page for every diagnostic, and yield the lines of the page that lists them."""
    every = names("alignlab.diagnostics")
    emptied(folder)
    for name in every:
        (folder / f"{name}.md").write_text(page_of_diagnostic(name), encoding="utf-8")
    yield "# Diagnostics\n"
    yield "Everything that is measured, by name. `--diagnostic NAME` or `--preset NAME` chooses; "
    yield "what is not defined for a layer says why in the recording (`not_defined`). Chance "
    yield "levels: [conventions](conventions.md).\n"
    yield "```{toctree}\n:maxdepth: 1\n:hidden:\n"
    yield from (f"diagnostics/{name}" for name in every)
    yield "```\n"
    yield "| preset | diagnostics |\n|---|---|"
    for preset, chosen in PRESETS.items():
        yield f"| `{preset}` | {', '.join(f'[{n}](diagnostics/{n}.md)' for n in chosen)} |"
    yield "| `full` | all of them; what is measured where nothing is chosen |\n"
    yield from (
        f"- [`{name}`](diagnostics/{name}.md): {summary('alignlab.diagnostics', name)}"
        for name in every
    )


listed = "\n".join(pages_of_diagnostics(HERE / "diagnostics"))
(HERE / "diagnostics.md").write_text(f"{listed}\n", encoding="utf-8")
(HERE / "rules.md").write_text("\n".join(pages_of_rules(HERE / "rules")) + "\n", encoding="utf-8")
(HERE / "names.md").write_text("\n".join(pages_of_names()), encoding="utf-8")
(HERE / "command-line.md").write_text(
    "\n".join(["# Command line\n", *pages_of_commands(command_line, "alignlab")]), encoding="utf-8"
)

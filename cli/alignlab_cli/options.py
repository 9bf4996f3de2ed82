"""Options that several commands share, and how their values are read."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Callable, Iterable
from pathlib import PurePath

import click

from alignlab.errors import InputError
from alignlab.plugins import names

__all__ = [
    "HELP",
    "RecordedCommand",
    "allow_unsafe_pickle",
    "check_device",
    "command_line",
    "complete",
    "force",
    "json_output",
    "key",
    "literals",
    "numbers",
    "pairs",
    "quiet",
    "recording",
    "without_folders",
    "words",
]

HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

allow_unsafe_pickle = click.option(
    "--allow-unsafe-pickle", is_flag=True, help="Unpickle a FILE that you trust; it may run code."
)
force = click.option("--force", is_flag=True, help="Replace what is already there.")
json_output = click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
key = click.option("--key", metavar="NAME", default="", help="Which of several networks in FILE.")
quiet = click.option("-q", "--quiet", is_flag=True, help="No progress; print only the path.")
recording = click.argument("recording", type=click.Path())

TYPED = "alignlab_cli.typed"


class RecordedCommand(click.Command):
    """A command that remembers the words it was called with, for the recording."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep the words, then read them as any command does."""
        ctx.meta[TYPED] = tuple(args)
        return super().parse_args(ctx, args)


def command_line(ctx: click.Context) -> str:
    """Return the command as it was typed, with file names in place of paths."""
    return shlex.join([*ctx.command_path.split(), *map(without_folders, ctx.meta[TYPED])])


def check_device(name: str) -> None:
    """Refuse a device that this machine or this build of torch does not have."""
    import torch

    try:
        torch.empty(1, device=name).sum().item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        found = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        message = f"--device {name!r} cannot be used here; there is {', '.join(found)}."
        raise InputError(message) from error


def complete(package: str) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """Return the shell completion that offers the public names of a package."""

    def offer(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
        return [name for name in names(package) if name.startswith(incomplete)]

    return offer


def pairs(ctx: click.Context, parameter: click.Parameter, values: Iterable[str]) -> dict[str, str]:
    """Read ``left=right`` values as a dictionary; a click callback."""
    option = parameter.opts[-1]
    found: dict[str, str] = {}
    for value in values:
        left, equals, right = value.partition("=")
        if not (left and equals and right):
            message = f"{option} takes {parameter.metavar}; it was given {value!r}."
            raise InputError(message)
        if left in found:
            message = f"{option} names {left!r} twice: {found[left]!r} and {right!r}. Keep one."
            raise InputError(message)
        found[left] = right
    return found


def literals(
    ctx: click.Context, parameter: click.Parameter, values: Iterable[str]
) -> dict[str, object]:
    """Read ``name=value`` values, numbers and the like as Python literals; a click callback."""
    return {name: _literal(text) for name, text in pairs(ctx, parameter, values).items()}


def numbers(
    ctx: click.Context, parameter: click.Parameter, text: str | None
) -> tuple[float, ...] | None:
    """Read a number, or several with commas between them; a click callback."""
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        option = parameter.opts[-1]
        message = f"{option} takes a number, or one per channel with commas; it was given {text!r}."
        raise InputError(message) from error


def words(ctx: click.Context, parameter: click.Parameter, text: str | None) -> tuple[str, ...]:
    """Read words with commas between them; a click callback."""
    return tuple(filter(None, (part.strip() for part in (text or "").split(","))))


def _literal(text: str) -> object:
    """Return a Python literal, or the text itself where it is none.

    Example:
        >>> _literal("64"), _literal("relu")
        (64, 'relu')
    """
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def without_folders(word: str) -> str:
    """Return a word of a command with the folders of its path or SPEC left out.

    Example:
        >>> without_folders("npz:/home/user/x.npz"), without_folders("--model=src/net.py:build")
        ('npz:x.npz', '--model=net.py:build')
    """
    option, equals, value = word.partition("=") if word.startswith("-") else ("", "", word)
    if ":" in value:
        value = re.sub(r"[^:]*[/\\]", "", value)
    elif "/" in value or "\\" in value:
        value = PurePath(value).name
    return option + equals + value

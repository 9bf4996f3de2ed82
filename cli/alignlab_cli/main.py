"""The entry point: a table of commands, each imported when it is used."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib import import_module
from typing import Any, cast

import click

from alignlab.errors import AlignlabError
from alignlab_cli.options import HELP

__all__ = ["alignlab", "main"]

COMMANDS = {
    "demo": ("demo", "Analyse the packaged checkpoints and write a report."),
    "inspect": ("inspect", "Show what a checkpoint holds and what to pass to analyze."),
    "analyze": ("analyze", "Measure how good a rule's gradients are on a checkpoint."),
    "train": ("train", "Train a model by a rule, with a probe along the way."),
    "report": ("report", "Write a recording as one self-contained page."),
    "export": ("export", "Write a recording's figures or tables as files."),
    "reproduce": ("reproduce", "Measure the claims of the works behind alignlab anew."),
    "list": ("list", "List rules, diagnostics, figures and other names."),
}

RESUMED = ("train", "reproduce")
"""Commands that go on where they were when they are called again."""

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


UNREAD = 141
"""Exit code where nobody reads stdout any more, as shells have it."""


class Refused(click.ClickException):
    """What was asked cannot be done; one line, exit code 2."""

    exit_code = 2


class Commands(click.Group):
    """Commands that are imported when they are used, and errors that are one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the table, in its order."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of a command and return the command."""
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"alignlab_cli.commands.{COMMANDS[cmd_name][0]}")
        return cast("click.Command", module.command)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the help from the table, without importing a command."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that was asked for, or name the nearest ones."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], COMMANDS, n=2) or list(COMMANDS)
            message = f"There is no command {args[0]!r}. Did you mean {' or '.join(near)}?"
            raise Refused(message)
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the options that stand before the command."""
        with _refusals():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; whatever goes wrong becomes one line unless --debug was given."""
        try:
            with nullcontext() if ctx.params["debug"] else _one_line_errors(), _refusals():
                return super().invoke(ctx)
        except (KeyboardInterrupt, click.Abort):
            goes_on = ctx.invoked_subcommand in RESUMED
            click.echo(f"Interrupted.{' The same command goes on.' if goes_on else ''}", err=True)
            raise click.exceptions.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise click.exceptions.Exit(UNREAD) from None


@contextmanager
def _refusals() -> Iterator[None]:
    """Turn what click says in three lines about a misused option into one."""
    try:
        yield
    except click.exceptions.NoArgsIsHelpError:
        raise
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "alignlab"
        message = f"{error.format_message()} See '{path} -h'."
        raise Refused(message) from error


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """Turn any error into one line: exit code 2 for what alignlab refuses, 1 for the rest."""
    try:
        yield
    except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
        raise
    except AlignlabError as error:
        raise Refused(_one_line(str(error))) from error
    except Exception as error:
        message = (
            f"{type(error).__name__}: {_one_line(str(error))} "
            "This was not foreseen; 'alignlab --debug ...' shows where it happened."
        )
        raise click.ClickException(message) from error


@click.group(cls=Commands, context_settings=HELP)
@click.version_option(package_name="alignlab", message="alignlab %(version)s")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def alignlab(*, debug: bool) -> None:
    """Measure how good approximate gradients are, layer by layer, with chance levels."""


def main() -> None:
    """Run the command line.

    Exit codes are 0, 1 (not foreseen), 2 (refused), 130 (interrupted), 141 (stdout was closed).
    """
    alignlab(prog_name="alignlab")


def _one_line(text: str) -> str:
    """Return a text without line breaks."""
    return " ".join(text.split())

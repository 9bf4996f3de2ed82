"""How far the work is, on stderr."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from types import TracebackType
from typing import Self

import click

__all__ = ["Progress"]

QUIET_SECONDS = 2.0
WIDTH = 24


class Progress:
    """A bar on a terminal and, elsewhere, a line at times once the work takes over two seconds.

    It is the ``progress`` of ``analyze_checkpoint``: called with a label, how much is done and
    how much there is.
    """

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._terminal = sys.stderr.isatty()
        self._start = time.monotonic()
        self._next = self._start + (0.0 if self._terminal else QUIET_SECONDS)
        self._shown = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.clear()

    def clear(self) -> None:
        """Take the bar off the terminal, before something else is printed there."""
        if self._shown and self._terminal:
            self._shown = False
            _say("\r\033[K", nl=False)

    def __call__(self, label: str, done: int, total: int) -> None:
        """Show a step of the work, at most ten times a second (every ten seconds in a log)."""
        now = time.monotonic()
        if self._quiet or now < self._next:
            return
        self._shown = True
        if self._terminal:
            self._next = now + 0.1
            filled = WIDTH * done // max(total, 1)
            bar = "#" * filled + "-" * (WIDTH - filled)
            _say(f"\r\033[K[{bar}] {label} {done}/{total}", nl=False)
        else:
            self._next = now + 10.0
            _say(f"{label} {done}/{total} ({now - self._start:.0f} s)")


def _say(text: str, *, nl: bool = True) -> None:
    """Print on stderr, and go on where nobody reads it any more."""
    with suppress(BrokenPipeError):
        click.echo(text, nl=nl, err=True)

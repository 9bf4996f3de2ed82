"""Claims of the works that alignlab stands on, each one file that measures it anew."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alignlab.experiments._base import Case, Check, Claim, Work
    from alignlab.experiments._catalogue import Entry, catalogue, found
    from alignlab.experiments._outcome import Outcome
    from alignlab.experiments._running import reproduce, reproduce_many
    from alignlab.experiments._selection import chosen
    from alignlab.experiments._statistics import interval_of_mean, interval_of_share

__all__ = [
    "Case",
    "Check",
    "Claim",
    "Entry",
    "Outcome",
    "Work",
    "catalogue",
    "chosen",
    "found",
    "interval_of_mean",
    "interval_of_share",
    "reproduce",
    "reproduce_many",
]

_HOME = {
    **dict.fromkeys(("Case", "Check", "Claim", "Work"), "_base"),
    **dict.fromkeys(("Entry", "catalogue", "found"), "_catalogue"),
    "Outcome": "_outcome",
    **dict.fromkeys(("reproduce", "reproduce_many"), "_running"),
    "chosen": "_selection",
    **dict.fromkeys(("interval_of_mean", "interval_of_share"), "_statistics"),
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for; listing claims never imports torch."""
    if name not in _HOME:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)

"""What limits the learning signal: sentences that follow from the numbers of a recording."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alignlab.diagnosis._answer import CLOSING, answer
    from alignlab.diagnosis.evidence import (
        Answer,
        Evidence,
        Finding,
        Hypothesis,
        Intervention,
        Limit,
        Statement,
        Verdict,
    )

__all__ = [
    "CLOSING",
    "Answer",
    "Evidence",
    "Finding",
    "Hypothesis",
    "Intervention",
    "Limit",
    "Statement",
    "Verdict",
    "answer",
]

_HOME = {"CLOSING": "_answer", "answer": "_answer"}


def __getattr__(name: str) -> object:
    """Import the module that holds a public name, at its first use."""
    if name not in __all__:
        message = f"module 'alignlab.diagnosis' has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_module(f"alignlab.diagnosis.{_HOME.get(name, 'evidence')}"), name)


def __dir__() -> list[str]:
    """List the public names, those not yet imported included."""
    return sorted(__all__)

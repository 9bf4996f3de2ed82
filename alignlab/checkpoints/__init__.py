"""Weights and feedback out of files that others wrote, without ever running what is in them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alignlab.checkpoints._backwards import CustomBackward, custom_backwards
    from alignlab.checkpoints._checkpoint import Checkpoint, StoredFeedback
    from alignlab.checkpoints._describe import describe, describe_json
    from alignlab.checkpoints._fit import fit, match_names
    from alignlab.checkpoints._named_feedback import feedback_for, name_feedback
    from alignlab.checkpoints._open import open_checkpoint
    from alignlab.checkpoints._twin import Twin, plain_twin

__all__ = [
    "Checkpoint",
    "CustomBackward",
    "StoredFeedback",
    "Twin",
    "custom_backwards",
    "describe",
    "describe_json",
    "feedback_for",
    "fit",
    "match_names",
    "name_feedback",
    "open_checkpoint",
    "plain_twin",
]

_HOME = {
    "Checkpoint": "_checkpoint",
    "CustomBackward": "_backwards",
    "StoredFeedback": "_checkpoint",
    "Twin": "_twin",
    "custom_backwards": "_backwards",
    "describe": "_describe",
    "describe_json": "_describe",
    "feedback_for": "_named_feedback",
    "fit": "_fit",
    "match_names": "_fit",
    "name_feedback": "_named_feedback",
    "open_checkpoint": "_open",
    "plain_twin": "_twin",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for."""
    if name not in _HOME:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)

"""From what a user writes to objects: models, rules and losses by SPEC."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alignlab.specs.literals import parse_arguments
    from alignlab.specs.losses import Loss, build_loss
    from alignlab.specs.models import build_model
    from alignlab.specs.rules import parse_rule

__all__ = ["Loss", "build_loss", "build_model", "parse_arguments", "parse_rule"]

_HOME = {
    "Loss": "losses",
    "build_loss": "losses",
    "build_model": "models",
    "parse_arguments": "literals",
    "parse_rule": "rules",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for."""
    if name not in _HOME:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)

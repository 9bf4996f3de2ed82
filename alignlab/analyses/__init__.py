"""What follows from a recording along its steps: functions from recordings to datasets."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alignlab.analyses._base import Analysis, load, names

__all__ = ["Analysis", "load", "names"]


def __getattr__(name: str) -> object:
    """Import the module that holds a public name, at its first use."""
    if name not in __all__:
        message = f"module 'alignlab.analyses' has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_module("alignlab.analyses._base"), name)


def __dir__() -> list[str]:
    """List the public names, those not yet imported included."""
    return sorted(__all__)

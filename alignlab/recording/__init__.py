"""Recordings: what measurements leave behind, as a plain :class:`xarray.Dataset` and its files.

The names are resolved when they are first used, so that declaring a :class:`Variable` costs little.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alignlab.recording.assembly import assemble
    from alignlab.recording.schema import SCHEMA_VERSION, Variable, companions, migrate
    from alignlab.recording.store import check, load, load_tensors, save
    from alignlab.recording.validation import validate

__all__ = [
    "SCHEMA_VERSION",
    "Variable",
    "assemble",
    "check",
    "companions",
    "load",
    "load_tensors",
    "migrate",
    "save",
    "validate",
]

_HOME = {
    "SCHEMA_VERSION": "schema",
    "Variable": "schema",
    "assemble": "assembly",
    "check": "store",
    "companions": "schema",
    "load": "store",
    "load_tensors": "store",
    "migrate": "schema",
    "save": "store",
    "validate": "validation",
}


def __getattr__(name: str) -> object:
    """Import the module that holds a public name, at its first use."""
    if name not in _HOME:
        message = f"module 'alignlab.recording' has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_module(f"alignlab.recording.{_HOME[name]}"), name)

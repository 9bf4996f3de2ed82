"""Data sets by name, from files and from factories, as tensors that are ready to be measured on.

A data set is one module: its ``__all__`` holds one function ``(split, *, download) -> Arrays``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alignlab.datasets._load import load
    from alignlab.datasets._samples import Arrays, Samples

__all__ = ["Arrays", "Samples", "load"]

_HOME = {"Arrays": "_samples", "Samples": "_samples", "load": "_load"}


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for; listing data sets never imports torch."""
    if name not in _HOME:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)

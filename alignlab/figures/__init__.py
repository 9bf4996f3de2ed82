"""Figures of a recording, one file each, with the numbers that each of them shows."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alignlab.figures._base import Figure, observed, tidy
    from alignlab.figures._export import as_svg, export, load, names

__all__ = ["Figure", "as_svg", "export", "load", "names", "observed", "tidy"]


def __getattr__(name: str) -> object:
    """Import the module that holds a public name, at its first use."""
    if name not in __all__:
        message = f"module 'alignlab.figures' has no attribute {name!r}"
        raise AttributeError(message)
    home = "_base" if name in {"Figure", "observed", "tidy"} else "_export"
    return getattr(import_module(f"alignlab.figures.{home}"), name)


def __dir__() -> list[str]:
    """List the public names, those not yet imported included."""
    return sorted(__all__)

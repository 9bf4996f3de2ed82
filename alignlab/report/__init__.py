"""From a recording to a page and to tables; the names are resolved when they are first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alignlab.report.page import render, render_index
    from alignlab.report.tables import alignment_frame, export, layer_frame

__all__ = ["alignment_frame", "export", "layer_frame", "render", "render_index"]

_HOME = {
    "alignment_frame": "tables",
    "export": "tables",
    "layer_frame": "tables",
    "render": "page",
    "render_index": "page",
}


def __getattr__(name: str) -> object:
    """Import the module that holds a public name, at its first use."""
    if name not in _HOME:
        message = f"module 'alignlab.report' has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_module(f"alignlab.report.{_HOME[name]}"), name)

"""Measure how good approximate gradients are, layer by layer, with chance levels.

The public names are resolved when they are first used, so that ``import alignlab`` costs nothing
and reading a recording never imports torch.

Example:
    >>> import alignlab
    >>> issubclass(alignlab.CheckpointError, alignlab.AlignlabError)
    True
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alignlab import rules
    from alignlab.analyze import analyze_checkpoint
    from alignlab.errors import (
        AlignlabError,
        CheckpointError,
        InputError,
        MeasurementError,
        MissingError,
        RecordingError,
    )
    from alignlab.probe import Probe
    from alignlab.recording import load, save

__all__ = [
    "AlignlabError",
    "CheckpointError",
    "InputError",
    "MeasurementError",
    "MissingError",
    "Probe",
    "RecordingError",
    "__version__",
    "analyze_checkpoint",
    "load",
    "rules",
    "save",
]

_HOME = {
    "AlignlabError": "errors",
    "CheckpointError": "errors",
    "InputError": "errors",
    "MeasurementError": "errors",
    "MissingError": "errors",
    "Probe": "probe",
    "RecordingError": "errors",
    "analyze_checkpoint": "analyze",
    "load": "recording",
    "save": "recording",
}

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """Import the module that holds a public name, at its first use."""
    if name == "rules":
        return import_module("alignlab.rules")
    if name not in _HOME:
        message = f"module 'alignlab' has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_module(f"alignlab.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    """List the public names, those not yet imported included."""
    return sorted(__all__)

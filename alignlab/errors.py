"""The errors that alignlab raises: few kinds, each also a builtin."""

from __future__ import annotations

from typing import Any

__all__ = [
    "AlignlabError",
    "CheckpointError",
    "DivergedError",
    "InputError",
    "MeasurementError",
    "MissingError",
    "RecordingError",
]


class AlignlabError(Exception):
    """Anything that alignlab refuses; its text says what was asked, what is there, what to do."""

    def __str__(self) -> str:
        """Return the text as it was given, also for the kinds that derive from ``KeyError``."""
        return str(self.args[0]) if self.args else ""


class InputError(AlignlabError, ValueError):
    """An argument, a file's content or a batch that cannot be used as it is."""


class DivergedError(InputError):
    """A training whose loss or weights are no longer finite, or that torch cannot go on with.

    Attributes:
        reached: The ``Training`` up to then.
    """

    reached: Any = None


class MissingError(AlignlabError, LookupError):
    """A name or a file that is not there."""


class CheckpointError(AlignlabError, ValueError):
    """A checkpoint that is refused, with what the file is and what to do."""


class RecordingError(AlignlabError, ValueError):
    """A recording that breaks its schema or cannot be read."""


class MeasurementError(AlignlabError, RuntimeError):
    """A model on which the engine cannot measure truthfully."""

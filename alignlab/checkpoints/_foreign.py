"""Placeholders for what a file names and we never import."""

from __future__ import annotations

from typing import ClassVar

from alignlab.errors import CheckpointError

__all__ = ["Foreign", "HostileError"]


class HostileError(CheckpointError):
    """The pickle would call something that no checkpoint needs."""


class Foreign:
    """A placeholder for an object whose class was neither imported nor called.

    Attributes:
        path: Module and name of the class, a subclass attribute.
        args: What it would have been called with.
        state: What would have been set on it.
        entries: Items, where it was filled like a dict.
        values: Elements, where it was filled like a list.
    """

    path: ClassVar[str] = ""
    args: tuple[object, ...]
    state: object
    entries: dict[object, object]
    values: list[object]

    def __new__(cls, *args: object, **_: object) -> Foreign:
        """Remember the arguments."""
        self = object.__new__(cls)
        self.args, self.state, self.entries, self.values = args, None, {}, []
        return self

    def __call__(self, *args: object) -> Foreign:
        """Return another placeholder, as inert as this one."""
        return type(self)(*args)

    def __setitem__(self, key: object, value: object) -> None:
        self.entries[key] = value

    def append(self, value: object) -> None:
        """Take an element."""
        self.values.append(value)

    def __repr__(self) -> str:
        return f"<{self.path}>"

    @property
    def is_module(self) -> bool:
        """Whether it was a ``torch.nn.Module``."""
        return isinstance(self.state, dict) and "_parameters" in self.state

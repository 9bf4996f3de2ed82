"""Sizes of a claim that a user changes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from alignlab.errors import InputError
from alignlab.experiments._base import Setting
from alignlab.experiments._runs import plain

__all__ = ["changed"]


def changed(key: str, setting: Setting, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the changes that change something.

    Args:
        key: The claim's public name, for messages.
        setting: Its own sizes.
        changes: New values by name.

    Raises:
        InputError: The setting has no size of a name, its values are of another kind, or a new
            one is not finite, or is below 1 where its own is a positive integer.
    """
    own, changes = plain(setting), plain(changes)
    for name, value in changes.items():
        if name not in own:
            message = f"{key} has no size {name!r}; it has {', '.join(sorted(own))}."
            raise InputError(message)
        if not _is_alike(own[name], value):
            message = (
                f"{name} of {key} is {json.dumps(own[name])}; {json.dumps(value)} is of another "
                "kind; give its like."
            )
            raise InputError(message)
        if not _is_finite(value):
            message = f"{name} of {key} is {json.dumps(own[name])}; give finite numbers."
            raise InputError(message)
        if not name.endswith("_seed") and not _is_positive(own[name], value):
            message = (
                f"{name} of {key} is {json.dumps(own[name])}; {json.dumps(value)} is too small; "
                "give 1 or more."
            )
            raise InputError(message)
    return {name: value for name, value in changes.items() if value != own[name]}


def _is_alike(own: Any, value: Any) -> bool:
    """Return whether a value can stand where another one stands."""
    if isinstance(own, bool) or isinstance(value, bool):
        return isinstance(own, bool) and isinstance(value, bool)
    if isinstance(own, float):
        return isinstance(value, int | float)
    if isinstance(own, list) and isinstance(value, list):
        return bool(value) and all(_is_alike(own[0], each) for each in value)
    return isinstance(value, type(own)) or own is None


def _is_finite(value: Any) -> bool:
    """Return whether no number within a value is infinite or NaN."""
    if isinstance(value, Mapping):
        return all(map(_is_finite, value.values()))
    if isinstance(value, list):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def _is_positive(own: Any, value: Any) -> bool:
    """Return whether a value alike has positive integers where its own are positive integers."""
    if isinstance(own, list) and isinstance(value, list):
        return all(_is_positive(own[0], each) for each in value)
    is_count = isinstance(own, int) and not isinstance(own, bool) and own > 0
    return not is_count or value > 0

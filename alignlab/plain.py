"""Values in the types of JSON, which has neither NaN nor infinities."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

__all__ = ["plain"]


def plain(value: Any) -> Any:
    """Return a value in the types of JSON: null for NaN, words for infinities, lists for tuples.

    Example:
        >>> plain({"shape": (2, 3), "loss": float("nan"), "stop": float("inf")})
        {'shape': [2, 3], 'loss': None, 'stop': 'inf'}
    """
    if isinstance(value, Mapping):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value

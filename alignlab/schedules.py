"""At which steps of a training something is measured."""

from __future__ import annotations

from collections.abc import Callable
from math import log10

from alignlab.errors import InputError

__all__ = ["Schedule", "at", "every", "log_spaced", "never"]

Schedule = Callable[[int], bool]
"""Takes the number of a step, from 0, and says whether it is due."""


def every(stride: int) -> Schedule:
    """Return the schedule of every so many steps, the first included.

    Args:
        stride: Steps from one to the next, at least 1.

    Raises:
        InputError: The stride is smaller.

    Example:
        >>> [step for step in range(7) if every(3)(step)]
        [0, 3, 6]
    """
    if stride < 1:
        msg = f"A stride of {stride} steps is none; give at least 1."
        raise InputError(msg)
    return lambda step: step % stride == 0


def log_spaced(per_decade: int) -> Schedule:
    """Return the schedule of steps that lie evenly on a logarithmic axis, step 0 included.

    Args:
        per_decade: Steps between one power of ten and the next, where there are as many.

    Raises:
        InputError: There is less than one.

    Example:
        >>> [step for step in range(1001) if log_spaced(2)(step)]
        [0, 1, 3, 10, 32, 100, 316, 1000]
    """
    if per_decade < 1:
        msg = f"{per_decade} steps in a decade are none; give at least 1."
        raise InputError(msg)

    def due(step: int) -> bool:
        if step < 1:
            return step == 0
        nearest = round(per_decade * log10(step))
        return step == round(10 ** (nearest / per_decade))

    return due


def at(*steps: int) -> Schedule:
    """Return the schedule of these steps.

    Example:
        >>> [step for step in range(9) if at(2, 5)(step)]
        [2, 5]
    """
    chosen = frozenset(steps)
    return lambda step: step in chosen


def never(step: int) -> bool:
    """Return false: nothing is due."""
    del step
    return False

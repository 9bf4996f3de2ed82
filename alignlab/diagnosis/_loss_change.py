"""Whether a small step along a rule's update lowers the loss."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from alignlab.diagnosis._reading import is_drawn, number
from alignlab.diagnosis._wording import decimal

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["loss_change"]


def loss_change(ds: xr.Dataset, rule: str) -> list[str]:
    """Return the sentence that holds a rule's small step against the true gradient's.

    A drawn feedback says nothing about the rule that trained the model, so it gets no sentence.
    """
    actual = number(ds, "loss_change_actual", rule=rule)
    first = number(ds, "loss_change_first_order", rule=rule)
    if is_drawn(ds, rule) or math.isnan(actual):
        return []
    size = number(ds, "loss_change_step", rule=rule)
    true = number(ds, "loss_change_actual_true", rule=rule)
    step = "A small step" if math.isnan(size) else f"A small step ({decimal(size)})"
    beside = "" if math.isnan(true) else f"; one along the true gradient {change(true)}"
    effect = f"{change(actual)} (first order {decimal(first)})"
    return [f"{step} along the update of {rule} {effect}{beside}."]


def change(difference: float) -> str:
    """Write what a step did to the loss.

    Example:
        >>> change(-0.012)
        'lowers the loss by 0.012'
    """
    verb = "lowers" if difference < 0 else "raises"
    return f"{verb} the loss by {decimal(abs(difference))}" if difference else "changes it by 0"

"""How much closer a rule comes to backpropagation in wide networks."""

from __future__ import annotations

import numpy as np

from alignlab.experiments._base import Check
from alignlab.experiments._statistics import jackknifed

__all__ = ["distance_falls"]


def distance_falls(what: str, narrow: np.ndarray, wide: np.ndarray, *, stated: str = "") -> Check:
    """Return the check that the mean of a difference is closer to 0 in wide networks.

    Args:
        what: What is compared, without its unit.
        narrow: Differences in narrow networks by seed, in percentage points.
        wide: Differences in wide networks of the same seeds.
        stated: What is said of it elsewhere.

    Returns:
        The fall with the jackknife's interval; the number, not the interval, is held above 0.
    """
    fall, low, high = jackknifed(_fall, narrow, wide)
    return Check(
        f"{what}, percentage points", fall, "> 0", fall > 0, stated, low, high, "0", len(narrow)
    )


def _fall(narrow: np.ndarray, wide: np.ndarray) -> float:
    return abs(float(narrow.mean())) - abs(float(wide.mean()))

"""What the claims on shallow students share: drawn feedback, recorded curves, distances."""

from __future__ import annotations

import numpy as np
import xarray as xr

from alignlab.experiments.refinetti2021._teacher_student import (
    Runs,
    Trajectory,
    stream,
    weight_alignment,
)

__all__ = ["curves", "drawn_feedback", "every", "parsed"]


def drawn_feedback(seed: int, count: int, *, least: float = 0.0) -> np.ndarray:
    """Return normal feedback, each entry drawn again until its size is at least so.

    Args:
        seed: Of the run.
        count: Hidden units.
        least: Smallest absolute value; an entry near zero makes a unit that hardly learns.
    """
    source = stream(seed, "feedback")
    entries: list[float] = []
    while len(entries) < count:
        entry = float(source.standard_normal())
        if abs(entry) >= least:
            entries.append(entry)
    return np.array(entries)


def parsed(entries: str) -> np.ndarray:
    """Return the feedback that a case writes as ``0.6,1.2``."""
    return np.array([float(each) for each in entries.split(",")])


def every(entries: np.ndarray, count: int) -> np.ndarray:
    """Return the same feedback for so many runs."""
    return np.tile(entries, (count, 1))


def curves(runs: Runs, found: Trajectory, against: np.ndarray) -> xr.Dataset:
    """Return error, second layer and its alignment over time.

    Args:
        runs: What ran.
        found: What came out.
        against: Feedback that the second layer is compared with, shape ``(K,)``, also where
            backpropagation makes no use of it.
    """
    alignment = weight_alignment(found.state.v, against)
    return xr.Dataset(
        {
            "error": (("time", "init"), found.error),
            "weight_alignment": (("time", "init"), alignment),
            "v": (("time", "init", "unit"), found.state.v),
        },
        coords={
            "time": found.times,
            "init": list(runs.seeds),
            "unit": np.arange(runs.n_students),
        },
    )

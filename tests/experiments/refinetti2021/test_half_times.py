"""Half-times of curves that are known, and the epochs at which a training is watched."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from alignlab.experiments._deep_digits import log_epochs
from alignlab.experiments.refinetti2021._half_times import _with_half_times
from alignlab.experiments.refinetti2021._pairs import cosines_of_pairs, group_of


def test_half_times_are_in_epochs_and_between_zero_and_the_largest_value() -> None:
    steps = np.array([0, 10, 20, 40])
    rising = np.array([[0.0, 0.0], [0.4, 0.0], [0.8, 0.4], [0.8, 0.8]])
    found = _with_half_times(
        xr.Dataset(
            {
                "step": ("epoch", steps),
                "gradient": (("epoch", "layer"), rising),
                "weight": (("epoch", "upper"), rising),
            },
            {"epoch": steps / 10, "layer": [1, 2], "upper": [2, 3]},
        )
    )
    np.testing.assert_allclose(found["half_time_gradient"], [1, 2])
    np.testing.assert_allclose(found["half_time_weight"], [1, 2])


def test_watched_epochs_are_log_spaced_from_the_first_to_the_last() -> None:
    due = log_epochs({"samples": 100, "batch": 10, "epochs": 100}, 4)
    assert [step for step in range(1001) if due(step)] == [0, 1, 10, 100, 1000]


def test_groups_share_the_run_of_the_first_feedback() -> None:
    runs = xr.Dataset(
        {"weights": (("run", "weight"), np.eye(5)[:, :3] + 1)},
        {
            "rule": ("run", ["dfa", "dfa", "dfa", "bp", "bp"]),
            "init": ("run", [0, 1, 1, 0, 1]),
            "feedback": ("run", [0, 0, 1, 0, 0]),
        },
    )
    shared, own, other = (group_of(runs, group) for group in ("shared", "own", "bp"))
    assert (shared.sizes["run"], own.sizes["run"], other.sizes["run"]) == (2, 2, 2)
    assert own["feedback"].values.tolist() == [0, 1]
    a, b = shared["weights"].values
    expected = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    assert cosines_of_pairs(shared["weights"].values) == pytest.approx([expected])

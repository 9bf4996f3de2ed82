"""Half-times of constructed trainings, and of one that is run."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from scipy import stats
from torch import nn
from torch.nn import functional

from alignlab.analyses import load, names
from alignlab.errors import InputError, MissingError
from alignlab.probe import Probe
from alignlab.rules import DFA
from alignlab.schedules import every
from tests.analyses.series import recording_of

DIMS = ("step", "rule", "layer", "site")
STEPS = np.unique(np.geomspace(1, 5_001, 90).astype(int)) - 1
LAYERS = ("a", "b", "c", "d", "e", "head")
half_times = load("half-times")


def logistic(half: float, *, top: float = 0.8) -> np.ndarray:
    return top / (1 + ((1 + STEPS) / (1 + half)) ** -3.0)


def training(halves: list[float], **given: object) -> xr.Dataset:
    """Return a recording in which layers align at given times, and the samples are fitted at 99."""
    values = np.stack([logistic(half) for half in halves] + [np.ones(len(STEPS))], 1)
    sites = np.stack([0.0 * values - 0.5, values], -1)[:, None]
    accuracy = np.minimum(1.0, 0.01 * STEPS)
    return recording_of(
        list(STEPS),
        {
            "cosine_error_signal": (DIMS, sites),
            "cosine_error_signal_null_high": (DIMS, np.full(sites.shape, 0.1)),
            "accuracy": (("step",), accuracy),
            "loss": (("step",), 1.0 - accuracy),
        },
        layers=LAYERS,
        attrs={"accuracy": {"better": "higher"}, "loss": {"better": "lower"}},
        **given,
    )


def test_half_times_are_those_of_the_curves_and_their_order_is_that_of_the_layers() -> None:
    halves = [5.0, 12.0, 40.0, 90.0, 300.0]
    found = half_times(training(halves)).isel(rule=0)
    shown = found["half_time"].values
    # The largest recorded value is a little below the asymptote.
    np.testing.assert_allclose(shown[:5], halves, rtol=0.03)
    assert np.isnan(shown[5])
    assert found["half_time_order"].item() == 1.0
    assert found["half_time_order_p"].item() == pytest.approx(2 / 120)
    assert found["half_time_order_layers"].item() == 5
    assert (found["peak_step"].values[:5] == STEPS[-1]).all()
    np.testing.assert_allclose(found["largest_alignment"].values[:5], 0.8, rtol=0.01)
    # Steps around it are a tenth apart.
    assert found["fit_time"].item() == pytest.approx(99, rel=0.1)
    gap = found["fit_after_half_time"].values[:5]
    np.testing.assert_allclose(gap, found["fit_time"].item() - shown[:5])
    assert (gap[:4] > 0).all()
    assert gap[4] < 0, "the samples were fitted before the top layer aligned"


@pytest.mark.parametrize("seed", range(3))
def test_the_order_is_that_of_scipy(seed: int) -> None:
    halves = np.random.default_rng(seed).uniform(2, 400, size=5)
    found = half_times(training(list(halves))).isel(rule=0)
    expected = stats.spearmanr(np.arange(5), halves).statistic
    assert found["half_time_order"].item() == pytest.approx(expected)


def test_alignment_that_falls_after_the_fit_is_align_then_memorise() -> None:
    recording = training([5.0, 12.0, 40.0, 90.0, 300.0])
    fall = np.where(STEPS > 50, 0.5, 1.0)[:, None, None, None]
    recording["cosine_error_signal"] = recording["cosine_error_signal"] * fall
    found = half_times(recording).isel(rule=0, layer=0)
    assert found["peak_step"].item() <= 50
    assert found["fit_after_peak"].item() > 40


def test_what_has_no_half_time_says_why() -> None:
    recording = training([5.0, 12.0, 40.0, 90.0, 300.0])
    values = recording["cosine_error_signal"].values
    values[:, 0, 0] = np.nan
    values[:, 0, 1] = 0.05
    values[:, 0, 2] = 0.7
    found = half_times(recording).isel(rule=0)
    status = found["half_time_status"].values.tolist()
    assert status == [
        "nothing was measured", "its largest value is within chance",
        "it was there at the first recorded step, 0", "", "", "",
    ]  # fmt: skip
    assert np.isnan(found["half_time"].values[:3]).all()
    assert found["half_time_order_layers"].item() == 2
    assert found["half_time_order_p"].item() == 1.0


def test_half_of_a_rate_is_half_way_from_its_chance_mean() -> None:
    values = (0.5 + 0.4 * logistic(30.0, top=1.0))[:, None, None] * np.ones((1, 1, 2))
    recording = recording_of(
        list(STEPS), {"descent_rate": (("step", "rule", "layer"), values)},
        layers=("a", "head"), attrs={"descent_rate": {"null_mean": 0.5}},
    )  # fmt: skip
    found = half_times(recording, alignment="descent_rate").isel(rule=0, layer=0)
    assert found["half_time"].item() == pytest.approx(30.0, rel=0.03)
    assert "fit_time" not in found


def test_a_fit_is_told_by_a_series_of_the_users() -> None:
    recording = training([5.0, 12.0, 40.0, 90.0, 300.0])
    loss = xr.DataArray([1.0, 0.5, 0.1], dims="step", coords={"step": [0, 10, 20]})
    loss.attrs["better"] = "lower"
    found = half_times(recording, fit=loss, fit_level=0.5)
    assert found["fit_time"].item() == pytest.approx(10)
    assert np.isnan(half_times(recording, fit=loss, fit_level=0.01)["fit_time"].item())
    assert half_times(recording, fit=loss, fit_level=2.0)["fit_time"].item() == 0
    with pytest.raises(InputError, match="fit_level"):
        half_times(recording, fit="loss")
    with pytest.raises(InputError, match="by step"):
        half_times(recording, fit=recording["cosine_error_signal"])


def test_what_is_not_there_is_refused_by_name() -> None:
    recording = training([5.0, 12.0, 40.0, 90.0, 300.0])
    with pytest.raises(MissingError, match="cosine_weight_gradient"):
        half_times(recording, alignment="cosine_weight_gradient")
    with pytest.raises(InputError, match="exit"):
        half_times(recording, site="exit")
    with pytest.raises(InputError, match="accuracy"):
        half_times(recording, alignment="accuracy")


def test_a_training_that_is_run_has_half_times() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 20), nn.Tanh(), nn.Linear(20, 20), nn.Tanh(),
                          nn.Linear(20, 3))  # fmt: skip
    x = torch.randn(120, 6)
    y = x[:, :3].argmax(1)
    probe = Probe(model, functional.cross_entropy, rules=[DFA(seed=0)],
                  schedule={"entry": every(1), "preactivation": every(1)})  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for step in range(30):
        with probe.observe(step):
            functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    found = half_times(probe.recording(), site="entry").isel(rule=0)
    hidden = found["half_time_status"].values[:2]
    times = found["half_time"].values[:2]
    assert all(np.isfinite(t) or s for t, s in zip(times, hidden, strict=True))


def test_analyses_are_listed_and_loaded_by_name() -> None:
    assert {"half-times", "zoutendijk-budget"} <= set(names())
    with pytest.raises(MissingError, match="half-times"):
        load("half-time")

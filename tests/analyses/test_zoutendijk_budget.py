"""The budget of a training, against sums by hand and a training that is run."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn
from torch.nn import functional

from alignlab.analyses import load
from alignlab.errors import MissingError
from alignlab.probe import Probe
from alignlab.rules import DFA
from alignlab.schedules import every
from tests.analyses.series import recording_of

DIMS = ("step", "rule", "layer")
budget = load("zoutendijk-budget")


def raw(steps: list[int], gradients: np.ndarray, updates: np.ndarray) -> xr.Dataset:
    """Return a recording of gradients of shape (step, rule, layer, n)."""
    return recording_of(
        steps,
        {
            "inner_product_weight_gradient": (DIMS, (gradients * updates).sum(-1)),
            "squared_norm_weight_gradient": (DIMS, (updates**2).sum(-1)),
            "squared_norm_weight_gradient_true": (DIMS, (gradients**2).sum(-1)),
        },
        rules=["dfa", "fa"],
    )


def test_it_is_the_sum_of_squared_cosine_times_squared_norm() -> None:
    random = np.random.default_rng(0)
    g, update = random.normal(size=(2, 12, 2, 4, 7))
    found = budget(raw(list(range(12)), g, update))
    cosines = (g * update).sum(-1) / np.linalg.norm(g, axis=-1) / np.linalg.norm(update, axis=-1)
    spent = cosines**2 * (g**2).sum(-1)
    np.testing.assert_allclose(found["zoutendijk_budget"], spent.cumsum(0))
    np.testing.assert_allclose(found["zoutendijk_budget_all_steps"], spent.cumsum(0))
    climbing = np.where(cosines < 0, spent, 0).cumsum(0)
    np.testing.assert_allclose(found["zoutendijk_climbing"], climbing)
    share = spent.cumsum(0) / (g**2).sum(-1).cumsum(0)
    np.testing.assert_allclose(found["zoutendijk_share"], share)

    a, b = (each[:, :, :3].reshape(12, 2, -1) for each in (g, update))
    cosine = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    expected = (cosine**2 * (a**2).sum(-1)).cumsum(0)
    np.testing.assert_allclose(found["zoutendijk_budget_hidden"], expected)
    assert found["zoutendijk_budget"].attrs["units"] == "1"


def test_the_true_gradient_spends_all_of_it_and_scale_does_not_count() -> None:
    g = np.random.default_rng(1).normal(size=(5, 2, 4, 3))
    found = budget(raw([0, 1, 2, 3, 4], g, 1e150 * g))
    np.testing.assert_allclose(found["zoutendijk_share"], 1.0)
    np.testing.assert_allclose(found["zoutendijk_share_hidden"], 1.0)
    found = budget(raw([0, 1, 2, 3, 4], g, -g))
    xr.testing.assert_allclose(
        found["zoutendijk_budget"], found["zoutendijk_climbing"].rename("zoutendijk_budget")
    )


def test_recorded_steps_are_a_lower_bound_and_lines_estimate_the_rest() -> None:
    steps = np.unique(np.geomspace(1, 1001, 60).astype(int)) - 1
    decay = np.exp(-np.arange(1001) / 300)[:, None, None, None] * np.ones((1, 2, 4, 1))
    whole = budget(raw(list(range(1001)), decay, decay)).isel(step=-1)
    some = budget(raw(list(steps), decay[steps], decay[steps])).isel(step=-1)
    assert (some["zoutendijk_budget"] < whole["zoutendijk_budget"]).all()
    np.testing.assert_allclose(
        some["zoutendijk_budget_all_steps"], whole["zoutendijk_budget"], rtol=0.01
    )


def test_zero_and_missing_gradients_add_nothing() -> None:
    random = np.random.default_rng(2)
    g, update = random.normal(size=(2, 4, 2, 4, 3))
    update[1, 0, 0] = 0.0
    g[2, 0, 0] = np.nan
    g[:, :, 2] = np.nan
    found = budget(raw([0, 1, 2, 3], g, update))
    here = found["zoutendijk_budget"].isel(rule=0, layer=0).values
    assert here[0] == here[1] == here[2] < here[3]
    assert np.isnan(found["zoutendijk_budget"].isel(layer=2)).all()
    # A layer that is never measured is left out of the network; where one is missing once, the
    # step is.
    hidden = found["zoutendijk_budget_hidden"].isel(rule=0).values
    assert np.isfinite(hidden).all()
    assert hidden[1] == hidden[2]


def test_a_training_that_is_run_has_the_budget_of_its_gradients() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    x, y = torch.randn(30, 6, dtype=torch.float64), torch.arange(30) % 3
    schedule = {level: every(1) for level in ("entry", "preactivation", "weight-gradient")}
    rule = DFA(seed=0)
    probe = Probe(model, functional.cross_entropy, rules=[rule], schedule=schedule)
    optimizer, spent = torch.optim.SGD(model.parameters(), lr=0.5), []
    for step in range(6):
        with probe.observe(step):
            functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    recording = probe.recording()
    here = recording.sel(layer="0", rule="dfa")
    cosine, ratio = here["cosine_weight_gradient"], here["norm_ratio_weight_gradient"]
    product = here["inner_product_weight_gradient"]
    spent = cosine**2 * (product / cosine / ratio)
    found = budget(recording)["zoutendijk_budget"].sel(layer="0", rule="dfa")
    np.testing.assert_allclose(found, spent.cumsum("step"), rtol=1e-5)
    hidden = budget(recording)["zoutendijk_budget_hidden"].sel(rule="dfa")
    np.testing.assert_allclose(hidden, found)


def test_a_recording_without_raw_products_is_refused_by_name() -> None:
    with pytest.raises(MissingError, match="inner_product_weight_gradient"):
        budget(recording_of([0], {}))

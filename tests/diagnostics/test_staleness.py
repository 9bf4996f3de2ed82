"""Stale gradients, against closed forms of linear networks and plain backward passes."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor, nn

from alignlab.probe import Probe
from alignlab.recording import validate
from alignlab.rules import DFA
from tests.case import Batch
from tests.cases import CASES
from tests.diagnostics.probing import half_squared_error, linear_network

States = Mapping[str, Mapping[str, Tensor]]


def measured(batch: Batch, earlier: States) -> xr.Dataset:
    probe = Probe(
        *(batch.model, batch.loss),
        rules=[DFA()],
        diagnostics=["staleness"],
        draws=64,
        earlier=earlier,
    )
    found = probe.measure(batch.x, batch.y)
    validate(found)
    return found.isel(step=0)


def cosine(first: np.ndarray, second: np.ndarray) -> float:
    return float((first * second).sum() / np.linalg.norm(first) / np.linalg.norm(second))


def linear(
    *sizes: int, seed: int = 0
) -> tuple[Batch, dict[str, dict[str, Tensor]], list[list[np.ndarray]]]:
    """Return a deep linear network with two earlier states, and all weights, the present last."""
    rng = np.random.default_rng(seed)
    shapes = [(out, into) for into, out in pairwise(sizes)]
    weights = [[rng.normal(size=shape) for shape in shapes] for _ in range(3)]
    x, y = rng.normal(size=(20, sizes[0])), rng.normal(size=(20, sizes[-1]))
    batch = Batch(
        linear_network(weights[-1]), half_squared_error, torch.as_tensor(x), torch.as_tensor(y)
    )
    states = {
        f"state {k}": {f"{n}.weight": torch.as_tensor(w) for n, w in enumerate(weights[k])}
        for k in (0, 1)
    }
    return batch, states, weights


def gradients(
    x: np.ndarray, y: np.ndarray, weights: list[np.ndarray], back: list[np.ndarray]
) -> list[np.ndarray]:
    """Return the weight gradients of a deep linear network, signals sent back by other weights."""
    inputs = [x]
    for weight in weights:
        inputs.append(inputs[-1] @ weight.T)
    signal, found = inputs[-1] - y, []
    for layer in reversed(range(len(weights))):
        found.append(signal.T @ inputs[layer])
        signal = signal @ back[layer]
    return found[::-1]


def test_cosines_are_those_of_a_deep_linear_network() -> None:
    batch, states, weights = linear(6, 5, 4, 3)
    found = measured(batch, states)
    x, y = batch.x.numpy(), batch.y.numpy()
    now = gradients(x, y, weights[2], weights[2])
    half = measured_half(x, y, weights[2])
    for k in (0, 1):
        here = found.isel(earlier=k)
        then = gradients(x, y, weights[k], weights[k])
        piped = gradients(x, y, weights[2], weights[k])
        for layer in range(3):
            value = here["staleness_cosine"].isel(layer=layer).item()
            assert value == pytest.approx(cosine(then[layer], now[layer]))
            if layer < 2:
                value = here["staleness_cosine_pipeline"].isel(layer=layer).item()
                assert value == pytest.approx(cosine(piped[layer], now[layer]))
        total = cosine(*(np.concatenate([g.ravel() for g in each]) for each in (then, now)))
        assert here["staleness_cosine_total"].item() == pytest.approx(total)
        hidden = cosine(*(np.concatenate([g.ravel() for g in each[:2]]) for each in (piped, now)))
        assert here["staleness_cosine_pipeline_total"].item() == pytest.approx(hidden)
        first, second = measured_half(x, y, weights[k])
        for layer in range(3):
            ways = [cosine(first[layer], half[1][layer]), cosine(second[layer], half[0][layer])]
            value = here["staleness_cosine_crossed"].isel(layer=layer).item()
            assert value == pytest.approx(np.mean(ways))
    for layer in range(3):
        ceiling = found["staleness_noise_ceiling"].isel(layer=layer).item()
        assert ceiling == pytest.approx(cosine(half[0][layer], half[1][layer]))
    assert np.isnan(found["staleness_cosine_pipeline"].isel(layer=2)).all()


def measured_half(
    x: np.ndarray, y: np.ndarray, weights: list[np.ndarray]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the gradients of the two halves that the probe's seed makes of the samples."""
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0)).numpy()
    parts = [order[: len(x) // 2], order[len(x) // 2 :]]
    first, second = (gradients(x[p], y[p], weights, weights) for p in parts)
    return first, second


@pytest.mark.parametrize(
    "name", ["tanh", "residual", "dropout", "batch norm, training", "attention"]
)
def test_a_state_like_the_present_one_has_a_fresh_gradient(name: str) -> None:
    batch = CASES[name].make()
    found = measured(batch, {"the same": copy.deepcopy(batch.model.state_dict())}).isel(earlier=0)
    defined = np.isfinite(found["staleness_cosine"])
    assert defined.any()
    np.testing.assert_allclose(found["staleness_cosine"][defined], 1.0, atol=1e-5)
    assert found["staleness_cosine_total"].item() == pytest.approx(1.0, abs=1e-5)
    crossed, ceiling = found["staleness_cosine_crossed"], found["staleness_noise_ceiling"]
    np.testing.assert_allclose(crossed[defined], ceiling[defined], atol=1e-5)
    np.testing.assert_allclose(found["staleness_cosine_pipeline_total"], 1.0, atol=1e-5)


def test_staleness_ends_as_the_states_come_together() -> None:
    batch = CASES["tanh"].make(dtype=torch.float64, n_samples=40)
    torch.manual_seed(5)
    way = {n: torch.randn_like(p) for n, p in batch.model.state_dict().items()}
    states = {
        str(size): {n: p + size * way[n] for n, p in batch.model.state_dict().items()}
        for size in (1.0, 0.1, 0.01, 0.001)
    }
    found = measured(batch, states)
    total = found["staleness_cosine_total"]
    assert (np.diff(total) > 0).all()
    np.testing.assert_allclose(total[-1], 1.0, atol=1e-4)
    gap = np.abs(found["staleness_cosine_crossed"] - found["staleness_noise_ceiling"])
    assert (gap.isel(earlier=-1) < 0.01).all()
    assert (gap.isel(earlier=-1) < gap.isel(earlier=0)).all()


def test_unrelated_states_are_at_chance_and_the_same_one_is_not() -> None:
    torch.manual_seed(0)
    batch = CASES["tanh"].make(n_samples=30)
    wide = nn.Sequential(
        nn.Linear(6, 40), nn.Tanh(), nn.Linear(40, 40), nn.Tanh(), nn.Linear(40, 3)
    )
    other = copy.deepcopy(wide)
    for module in other:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight)
    states = {"other": other.state_dict(), "same": copy.deepcopy(wide.state_dict())}
    found = measured(Batch(wide, batch.loss, batch.x, batch.y), states)
    status = found["staleness_cosine_status"]
    assert status.sel(earlier="same").isel(layer=slice(0, 2)).values.tolist() == ["useful"] * 2
    assert "at chance" in status.sel(earlier="other").values
    assert found["staleness_cosine_null_kind"].values.ravel()[0] == "output_rotation"


def test_what_is_not_there_is_said() -> None:
    batch = CASES["tanh"].make()
    found = measured(batch, {})
    assert all("no earlier state" in each for each in found["not_defined"].values.ravel())
    batch = CASES["frozen"].make()
    found = measured(batch, {"same": copy.deepcopy(batch.model.state_dict())})
    text = found["not_defined"].sel(diagnostic="staleness", layer="2").item()
    assert "no parameter that is learned" in text
    batch = CASES["recomputed"].make()
    found = measured(batch, {"same": copy.deepcopy(batch.model.state_dict())})
    assert all("cannot be replaced" in each for each in found["not_defined"].values.ravel())
    assert np.isfinite(found["staleness_cosine"]).all()

"""Averages over states, against sums by hand and laws of random directions."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor, nn

from alignlab.kernels.descent import averaging_weights
from alignlab.probe import Probe
from alignlab.recording import validate
from alignlab.rules import BP, DFA, FA, KP, USF, Displacement, ForwardGradient
from alignlab.snapshot import MeasuredRule
from tests.case import Batch
from tests.cases import CASES
from tests.diagnostics.probing import half_squared_error
from tests.diagnostics.steps import inner, norm, updates_of

States = Mapping[str, Mapping[str, Tensor]]
Update = Mapping[str, Tensor]


def measured(batch: Batch, earlier: States, *rules: Any) -> xr.Dataset:
    probe = Probe(
        *(batch.model, batch.loss),
        rules=rules,
        diagnostics=["momentum-averaging"],
        draws=32,
        earlier=earlier,
    )
    found = probe.measure(batch.x, batch.y)
    validate(found)
    return found.isel(step=0)


def nearby(model: nn.Module, count: int, *, size: float) -> dict[str, dict[str, Tensor]]:
    torch.manual_seed(9)
    return {
        f"state {k}": {n: p + size * torch.randn_like(p) for n, p in model.state_dict().items()}
        for k in range(count)
    }


def at(batch: Batch, state: Mapping[str, Tensor]) -> Batch:
    model = copy.deepcopy(batch.model)
    model.load_state_dict(dict(state))
    return Batch(model, batch.loss, batch.x, batch.y)


def averaged(updates: Sequence[Update], length: int) -> dict[str, Tensor]:
    beta, total = 1.0 - 1.0 / length, {n: torch.zeros_like(u) for n, u in updates[0].items()}
    for update in updates:
        total = {n: beta * total[n] + (1 - beta) * each for n, each in update.items()}
    return total


def cosine(first: Update, second: Update) -> float:
    return inner(first, second) / norm(first) / norm(second)


@pytest.mark.parametrize("rule", [DFA(seed=1), FA(seed=2), USF()])
def test_averages_are_those_by_hand(rule: Any) -> None:
    batch = CASES["tanh"].make(dtype=torch.float64)
    states = nearby(batch.model, 4, size=0.3)
    found = measured(batch, states, rule).isel(rule=0)
    own, true = [], []
    for state in [*states.values(), batch.model.state_dict()]:
        update, exact = updates_of(at(batch, state), rule, seed=getattr(rule, "seed", 0))
        own.append(dict(update.parameters))
        true.append(dict(exact.parameters))
    for length in (1, 2, 4):
        mine, exact_mean = averaged(own, length), averaged(true, length)
        here = found.sel(length=length)
        assert here["momentum_cosine_total"].item() == pytest.approx(cosine(mine, exact_mean))
        assert here["momentum_cosine_present"].item() == pytest.approx(cosine(mine, true[-1]))
        expected = cosine(exact_mean, true[-1])
        assert here["momentum_cosine_present_true"].item() == pytest.approx(expected)
        for layer in found["layer"].values:
            parts = [
                {n: each for n, each in whole.items() if n.rpartition(".")[0] == layer}
                for whole in (mine, exact_mean)
            ]
            value = here["momentum_cosine"].sel(layer=layer).item()
            assert value == pytest.approx(cosine(*parts))
    assert np.isnan(found["momentum_cosine_total"].sel(length=8))
    assert "there are 5 states" in found["not_defined"].values.ravel()[0]


def test_variance_falls_as_that_of_averages_of_fresh_draws() -> None:
    # At one state the average of forward gradients is one with more tangents.
    torch.manual_seed(0)
    model = nn.Linear(20, 10, bias=False)
    batch = Batch(model, half_squared_error, torch.randn(16, 20), torch.randn(16, 10))
    same = {f"{k}": copy.deepcopy(model.state_dict()) for k in range(9)}
    found = []
    for seed in range(30):
        total = measured(batch, same, ForwardGradient(seed=seed))["momentum_cosine_total"]
        found.append(total.values.ravel())
    squares = (np.array(found) ** 2).mean(0)
    for place, length in enumerate((1, 2, 4, 8)):
        weights = averaging_weights(length, 10)
        tangents = 1.0 / weights.square().sum().item()
        expected = tangents / (200 + tangents + 1)
        assert squares[place] == pytest.approx(expected, rel=0.6), length
    assert squares[3] > 3 * squares[0]


def test_bias_stays_where_states_are_alike() -> None:
    batch = CASES["tanh"].make()
    same = {f"{k}": copy.deepcopy(batch.model.state_dict()) for k in range(7)}
    found = measured(batch, same, DFA(), BP())
    for variable in ("momentum_cosine_total", "momentum_cosine_present"):
        curve = found[variable].sel(rule="dfa")
        np.testing.assert_allclose(curve, curve[0], atol=1e-6)
        np.testing.assert_allclose(found[variable].sel(rule="bp"), 1.0, atol=1e-6)


def test_backpropagation_keeps_its_own_average_and_loses_the_present_with_staleness() -> None:
    batch = CASES["tanh"].make(dtype=torch.float64)
    found = measured(batch, nearby(batch.model, 7, size=1.0), BP()).isel(rule=0)
    np.testing.assert_allclose(found["momentum_cosine_total"], 1.0, atol=1e-12)
    present = found["momentum_cosine_present"]
    np.testing.assert_allclose(present, found["momentum_cosine_present_true"], atol=1e-12)
    assert present.sel(length=1).item() == pytest.approx(1.0)
    assert present.sel(length=8) < 0.99


def test_only_updates_that_are_known_at_earlier_states_are_averaged() -> None:
    batch = CASES["tanh"].make()
    states = nearby(batch.model, 1, size=0.1)
    before = {n: p.detach() for n, p in batch.model.named_parameters()}
    after = {n: p + 0.1 for n, p in before.items()}
    way = MeasuredRule(Displacement(), Displacement.between(before, after), "observed")
    drawn = MeasuredRule(DFA(), _feedback(batch), "drawn", "dfa, drawn")
    learned = MeasuredRule(KP(), _backward(batch), "checkpoint")
    found = measured(batch, states, way, drawn, learned, DFA())
    text = found["not_defined"].sel(diagnostic="momentum-averaging", layer="0").item()
    assert "under displacement because its updates were read" in text
    assert "under kp because what it had learned at earlier states" in text
    assert "under dfa, drawn because its feedback is drawn" in text
    assert np.isfinite(found["momentum_cosine_total"].sel(rule="dfa", length=2))
    assert np.isnan(found["momentum_cosine_total"].sel(rule="kp")).all()
    found = measured(batch, {}, DFA())
    assert all("no earlier state" in each for each in found["not_defined"].values.ravel())


def _feedback(batch: Batch) -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {"0": torch.randn(3, 7), "2": torch.randn(3, 5)}


def _backward(batch: Batch) -> dict[str, Tensor]:
    return {
        n: m.weight.detach() for n, m in batch.model.named_modules() if isinstance(m, nn.Linear)
    }

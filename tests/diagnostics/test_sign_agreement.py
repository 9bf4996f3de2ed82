"""Recorded agreement of signs, against the gradients themselves and planted faults."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor, nn
from torch.nn import functional

from alignlab.probe import Probe
from alignlab.rules import BP, DFA, FA, USF, FunctionRule
from alignlab.rules._base import Rule
from tests.cases import CASES, Batch, Case, each_case
from tests.diagnostics.probing import probed

NAMES = ["tanh", "conv1d, strided", "batch norm of maps", "residual", "positions", "reused"]
SHARE = "sign_agreement_weight_gradient"


def measured(batch: Batch, *rules: Rule, draws: int = 32) -> xr.Dataset:
    given = batch.model, batch.loss, (batch.x, batch.y)
    return probed(*given, *rules, diagnostics=["sign-agreement"], draws=draws)


@pytest.mark.parametrize("name", NAMES)
def test_numbers_follow_from_the_raw_gradients(name: str) -> None:
    batch = CASES[name].make(n_samples=24)
    with Probe(
        *(batch.model, batch.loss), rules=[DFA(), FA()], draws=32,
        diagnostics=["sign-agreement"], save=["weight-gradients"],
    ) as probe:  # fmt: skip
        found = probe.measure(batch.x, batch.y).isel(step=0)
    for rule in ("dfa", "fa"):
        for layer in found["layer"].values[~found["is_output"].values]:
            raw, here = probe.tensors[layer].sel(rule=rule), found.sel(rule=rule, layer=layer)
            true = raw["true_weight_gradient"].values.astype(float).ravel()
            other = raw["weight_gradient"].values.astype(float).ravel()
            kept = (true != 0) & (other != 0)
            same = (true * other > 0)[kept]
            assert float(here[SHARE]) == pytest.approx(same.mean(), abs=2e-3)
            weights = np.abs(true[kept])
            weighted = float(here[f"{SHARE}_weighted"])
            assert weighted == pytest.approx((same * weights).sum() / weights.sum(), abs=2e-3)
            assert float(here["sign_agreement_left_out"]) == (~kept).sum()
            cosine = true[kept] @ other[kept]
            cosine /= np.linalg.norm(true[kept]) * np.linalg.norm(other[kept])
            curve = 1 - np.arccos(cosine) / np.pi
            assert float(here["sign_agreement_gaussian"]) == pytest.approx(curve, abs=1e-4)
            excess = float(here["sign_agreement_excess"])
            assert excess == pytest.approx(float(here[SHARE]) - curve, abs=1e-4)


@each_case
def test_every_layer_has_a_number_or_a_reason(case: Case) -> None:
    found = measured(case.make(), BP(), DFA())
    for layer in found["layer"].values:
        here = found.sel(layer=layer, rule="dfa")
        has_number = str(here[f"{SHARE}_status"].item()) != ""
        reason = "not_defined" in here and str(here["not_defined"].squeeze().item())
        assert has_number or reason
    same = found[SHARE].sel(rule="bp").values
    assert (same[np.isfinite(same)] == 1.0).all()


def test_dead_units_neither_agree_nor_disagree() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    with torch.no_grad():
        model[0].bias[:3] = -100.0
    x, y = torch.randn(40, 6), torch.arange(40) % 3
    loss = functional.cross_entropy
    found = probed(model, loss, (x, y), DFA(), diagnostics=["sign-agreement"]).isel(rule=0)
    assert found["sign_agreement_left_out"].sel(layer="0").item() == 3 * 6
    with torch.no_grad():
        model[0].bias[:] = -100.0
    found = probed(model, loss, (x, y), DFA(), diagnostics=["sign-agreement"]).isel(rule=0)
    assert np.isnan(found[SHARE].sel(layer="0").item())
    assert found[f"{SHARE}_status"].sel(layer="0").item() == "undefined"


def changed(change: Callable[[Tensor], Tensor], title: str) -> FunctionRule:
    """Return a rule that yields updates alone: the true gradients with something changed."""

    def updates(
        model: nn.Module, loss: Callable[..., Tensor], x: Tensor, y: Tensor, _: torch.Generator
    ) -> dict[str, Tensor]:
        named = dict(model.named_parameters())
        gradients = torch.autograd.grad(loss(model(x), y), list(named.values()))
        return {name: change(each) for name, each in zip(named, gradients, strict=True)}

    return FunctionRule(updates, title)


def flipped(gradient: Tensor, *, smallest: bool) -> Tensor:
    """Return a gradient with the signs of 30% of its entries turned, by size."""
    rank = gradient.abs().flatten().argsort().argsort().reshape(gradient.shape)
    place = rank if smallest else gradient.numel() - 1 - rank
    return torch.where(place < 0.3 * gradient.numel(), -gradient, gradient)


def test_planted_faults_move_what_they_should() -> None:
    batch = CASES["tanh"].make(n_samples=60)
    rules = [
        changed(torch.clone, "none"),
        changed(lambda g: 10.0 * g, "scaled"),
        changed(torch.sign, "quantised"),
        changed(partial(flipped, smallest=True), "small"),
        changed(partial(flipped, smallest=False), "large"),
    ]
    found = measured(batch, *rules).sel(layer="0")
    share = found[SHARE].to_series()
    weighted = found[f"{SHARE}_weighted"].to_series()
    excess = found["sign_agreement_excess"].to_series()
    assert share[["none", "scaled", "quantised"]].tolist() == [1.0, 1.0, 1.0]
    assert share["small"] == share["large"] == pytest.approx(0.7, abs=0.02)
    assert weighted["small"] > 0.9
    assert weighted["large"] < 0.5
    assert excess["quantised"] > 0.1
    assert excess["small"] < -0.1
    assert excess["large"] > 0.1
    assert abs(excess["scaled"]) < 1e-3


def test_feedback_by_chance_has_half_of_the_signs() -> None:
    batch = CASES["tanh"].make(n_samples=60)
    found = measured(batch, DFA(seed=3), draws=200).isel(rule=0).sel(layer=["0", "2"])
    for name in (SHARE, f"{SHARE}_weighted"):
        assert (found[f"{name}_null_low"] < 0.5).all()
        assert (found[f"{name}_null_high"] > 0.5).all()
        assert (found[f"{name}_status"] != "useful").all()
        assert found[name].attrs["null_mean"] == 0.5


def test_a_unit_whose_errors_cancel_has_no_sign() -> None:
    # All backward weights of unit 0 are 1, and the errors of a softmax sum to zero.
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    model[2].weight.data[:, 0].abs_()
    x, y = torch.randn(20, 4).double(), torch.arange(20) % 3
    batch = Batch(model, functional.cross_entropy, x, y)
    found = measured(batch, USF()).sel(layer="0").isel(rule=0)
    assert found["sign_agreement_left_out"].item() == 4.0

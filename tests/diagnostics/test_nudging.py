"""Nudges of one layer, against hooks of plain torch, simulation and planted directions."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor, nn
from torch.nn import functional

from alignlab.engine.updates import Updates
from alignlab.recording import validate
from alignlab.rules import BP, DFA, FA, ForwardGradient
from alignlab.rules._base import Rule
from tests.case import Batch
from tests.cases import CASES
from tests.diagnostics.probing import half_squared_error, probed
from tests.diagnostics.steps import loss_at, norm, stepped, updates_of

NAME = ("nudging",)


def measured(batch: Batch, *rules: Any, diagnostics: tuple[str, ...] = NAME) -> xr.Dataset:
    found = probed(batch.model, batch.loss, (batch.x, batch.y), *rules, diagnostics=diagnostics)
    validate(found.expand_dims(step=[0]).assign_attrs(found.attrs))
    return found


def nudged(batch: Batch, layer: str, by: Tensor) -> float:
    """Return the loss with something added to a layer's output."""
    model = copy.deepcopy(batch.model)
    model.get_submodule(layer).register_forward_hook(lambda _m, _x, output: output + by)
    with torch.no_grad():
        return float(batch.loss(model(batch.x), batch.y))


@pytest.mark.parametrize("name", ["tanh", "conv2d, grouped", "layer norm"])
def test_nudges_are_steps_of_equal_length_in_one_layer(name: str) -> None:
    batch = CASES[name].make(dtype=torch.float64)
    found = measured(batch, DFA())
    rule, true = updates_of(batch, DFA())
    before = loss_at(batch, {})
    for layer in found["layer"].values:
        here = found.sel(layer=layer)
        exact = true.preactivation[layer]
        length = 1e-3 * before / float(exact.norm())
        assert here["nudge_signal_length"].item() == pytest.approx(length)
        change = nudged(batch, layer, -length * exact / exact.norm()) - before
        assert here["nudge_signal_true"].item() == pytest.approx(change, rel=1e-8)
        own = {n: g for n, g in true.parameters.items() if n.rpartition(".")[0] == layer}
        along = 1e-3 * before / norm(own)
        assert here["nudge_weight_length"].item() == pytest.approx(along)
        change = loss_at(batch, stepped(batch, own, along / norm(own))) - before
        assert here["nudge_weight_true"].item() == pytest.approx(change, rel=1e-8)
        if layer == found["layer"].values[-1]:
            assert np.isnan(here["nudge_signal"].sel(rule="dfa"))
            continue
        here, signal = here.sel(rule="dfa"), rule.preactivation[layer]
        change = nudged(batch, layer, -length * signal / signal.norm()) - before
        assert here["nudge_signal"].item() == pytest.approx(change, rel=1e-6)
        share = here["nudge_signal"] / here["nudge_signal_true"]
        assert here["nudge_signal_share"].item() == pytest.approx(share.item())
        own = {n: rule.parameters[n] for n in own}
        change = loss_at(batch, stepped(batch, own, along / norm(own))) - before
        assert here["nudge_weight"].item() == pytest.approx(change, rel=1e-6)


def test_to_first_order_a_share_is_the_cosine_and_the_true_change_one_per_mille() -> None:
    batch = CASES["tanh"].make()
    found = measured(batch, FA(), diagnostics=("nudging", "error-signal")).isel(rule=0)
    hidden = found.isel(layer=slice(0, 2))
    cosines = hidden["cosine_error_signal_flat"].sel(site="preactivation")
    np.testing.assert_allclose(hidden["nudge_signal_share"], cosines, atol=0.02)
    loss = loss_at(batch, {})
    np.testing.assert_allclose(found["nudge_signal_true"], -1e-3 * loss, rtol=0.05)


def test_random_directions_have_the_mean_and_spread_of_simulation() -> None:
    batch = CASES["tanh"].make(dtype=torch.float64)
    found = measured(batch)
    before = loss_at(batch, {})
    stream = torch.Generator().manual_seed(1)
    for layer in ("0", "4"):
        here = found.sel(layer=layer)
        shape = (8, batch.model.get_submodule(layer).out_features)
        changes = []
        for _ in range(400):
            drawn = torch.randn(shape, generator=stream, dtype=torch.float64)
            by = here["nudge_signal_length"].item() * drawn / drawn.norm()
            changes.append(nudged(batch, layer, by) - before)
        sd = here["nudge_signal_random_sd"].item()
        assert np.std(changes) == pytest.approx(sd, rel=0.12)
        assert np.mean(changes) == pytest.approx(
            here["nudge_signal_random"].item(), abs=4 * sd / 400**0.5
        )


@dataclass(frozen=True)
class Planted(Rule):
    """Signals that are the true ones times a factor, or noise."""

    name: ClassVar[str] = "planted"
    has_exact_output: ClassVar[bool] = False
    factor: float = 1.0

    def updates(self, task: Any, state: Any, *, parameters: bool = True) -> Updates:
        del state, parameters
        stream = torch.Generator().manual_seed(0)

        def made(true: Tensor) -> Tensor:
            noise = torch.randn(true.shape, generator=stream).to(true)
            return self.factor * true if self.factor else noise

        true = task.capture.reference(parameters=True)
        return Updates(
            {n: made(each) for n, each in true.entry.items()},
            {n: made(each) for n, each in true.preactivation.items()},
            {n: made(each) for n, each in true.parameters.items()},
            is_local=False,
        )


def test_planted_directions_are_told_apart() -> None:
    batch = CASES["layer norm"].make(n_samples=40)
    found = measured(batch, Planted(factor=3.0), Planted(factor=-1.0), Planted(factor=0.0), BP())
    for part in ("signal", "weight"):
        share, z = found[f"nudge_{part}_share"], found[f"nudge_{part}_z"]
        np.testing.assert_allclose(share.sel(rule="planted(factor=3.0)"), 1.0, atol=1e-4)
        np.testing.assert_allclose(share.sel(rule="planted(factor=-1.0)"), -1.0, atol=0.1)
        assert (z.sel(rule="planted(factor=3.0)") > 3).all()
        assert (z.sel(rule="planted(factor=-1.0)") < -3).all()
        assert (np.abs(z.sel(rule="planted(factor=0.0)")) < 4).all()
        assert np.isnan(share.sel(rule="bp", layer="6"))


def test_a_dead_layer_and_rules_without_signals_say_so() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 3))
    with torch.no_grad():
        model[0].bias.fill_(-100.0)
    batch = Batch(model, functional.cross_entropy, torch.randn(9, 6), torch.arange(9) % 3)
    found = measured(batch, ForwardGradient())
    texts = found["not_defined"].sel(diagnostic="nudging")
    assert "its true signal gradient is zero" in texts.sel(layer="0").item()
    assert "yields no signal" in texts.sel(layer="4").item()
    assert np.isfinite(found["nudge_weight"].sel(layer="4")).all()
    assert np.isnan(found["nudge_signal_true"].sel(layer="0"))


class Peeking(nn.Module):
    """Calls its first layer once without a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            mean = self.first(x).mean()
        return self.last(torch.tanh(self.first(x) - mean))


def test_calls_that_cannot_be_told_apart_are_not_moved() -> None:
    torch.manual_seed(0)
    batch = Batch(Peeking(), functional.cross_entropy, torch.randn(9, 6), torch.arange(9) % 3)
    found = measured(batch, DFA())
    text = found["not_defined"].sel(diagnostic="nudging", layer="first").item()
    assert "also called without a gradient" in text
    assert np.isfinite(found["nudge_weight_true"]).all()
    assert np.isfinite(found["nudge_signal_true"].sel(layer="last"))


def test_a_true_direction_that_overshoots_has_no_share() -> None:
    # At the bottom of a narrow valley the length that one per mille asks for leads across it.
    model = nn.Linear(1, 1, bias=False).double()
    with torch.no_grad():
        model.weight.fill_(1.0 + 1e-7)
    x = torch.ones(2, 1, dtype=torch.float64)
    y = torch.tensor([[0.0], [2.0]], dtype=torch.float64)
    found = measured(Batch(model, half_squared_error, x, y), Planted(factor=2.0))
    assert (found["nudge_weight_true"] > 0).all()
    assert "nudge_weight_share" not in found
    assert "does not lower the loss" in found["not_defined"].values.ravel()[0]


@pytest.mark.parametrize("name", ["residual", "reused", "tied", "dropout", "counting", "positions"])
def test_every_layer_has_numbers_or_a_reason(name: str) -> None:
    found = measured(CASES[name].make(), DFA(), BP())
    texts = found.get("not_defined")
    for layer in found["layer"].values:
        has_numbers = np.isfinite(found["nudge_weight_true"].sel(layer=layer))
        assert np.isfinite(found["nudge_signal_true"].sel(layer=layer))
        assert has_numbers or texts.sel(diagnostic="nudging", layer=layer).item()

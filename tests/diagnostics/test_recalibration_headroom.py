"""Headroom of recalibration: scrambled, lost and exact signals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor, nn
from torch.nn import functional

from alignlab.rules import BP, DFA, FA
from alignlab.snapshot import MeasuredRule, halves
from tests.diagnostics.probing import given_feedback, half_squared_error, linear_network, probed
from tests.diagnostics.reaching import deep, noise, signals_of
from tests.kernels.test_recalibration import by_ridge, scaled

LOSS = functional.cross_entropy
NAME = "recalibration-headroom"


def measured(model: nn.Module, batch: tuple[Tensor, Tensor], *rules: object) -> xr.Dataset:
    return probed(model, LOSS, batch, *rules, diagnostics=[NAME, "error-signal", "reach"])


def number(found: xr.Dataset, end: str, *, rule: str, layer: str) -> float:
    return float(found[f"recalibration_{end}"].sel(rule=rule, layer=layer))


def test_of_direct_feedback_the_share_is_the_reach() -> None:
    found = measured(deep((20, 40, 40, 5), nn.ReLU), noise(500, 20, 5), DFA(seed=0))
    for layer in ("0", "2"):
        reach = float(found["reach_held_out"].sel(layer=layer, site="entry"))
        assert number(found, "reach", rule="dfa", layer=layer) == pytest.approx(reach, abs=0.01)
        cosine = found["cosine_error_signal_flat"].sel(rule="dfa", layer=layer, site="entry")
        expected = reach - max(float(cosine), 0.0) ** 2
        headroom = number(found, "headroom", rule="dfa", layer=layer)
        assert headroom == pytest.approx(expected, abs=0.01)


def test_what_was_scrambled_by_a_matrix_has_all_the_headroom_there_is() -> None:
    found = measured(deep((20, 40, 40, 5), nn.Identity), noise(500, 20, 5), BP(), FA(seed=0))
    for layer in ("0", "2"):
        assert number(found, "reach", rule="fa", layer=layer) > 0.99
        assert number(found, "headroom", rule="fa", layer=layer) > 0.8
        assert abs(number(found, "headroom", rule="bp", layer=layer)) < 1e-3


def test_the_regressor_of_chained_feedback_is_the_signal_behind_the_next_gate() -> None:
    model, batch = deep((20, 25, 25, 5), nn.ReLU), noise(100, 20, 5)
    rng = np.random.default_rng(0)
    backward = {"2": rng.normal(size=(25, 25)), "4": rng.normal(size=(5, 25))}
    below, above = (signals_of(model, batch, layer=layer) for layer in (0, 2))
    state = {name: torch.as_tensor(each).float() for name, each in backward.items()}
    state["0"] = torch.zeros(25, 20)
    rule = MeasuredRule(FA(), state, "checkpoint")
    found = measured(model, batch, rule)
    # The output error reaches the top entry through the given matrix, and the gate after it.
    output = model(batch[0]).detach().requires_grad_()
    (e,) = torch.autograd.grad(LOSS(output, batch[1]), output)
    incoming = above.gate * (e.double().numpy() @ backward["4"])
    order = torch.argsort(halves(100, seed=0).int(), descending=True, stable=True).numpy()
    rows = scaled(torch.as_tensor(incoming[order].copy()))
    aims = scaled(torch.as_tensor(below.entry[order].copy()))
    expected = by_ridge(rows, aims, split=50)
    assert number(found, "reach", rule="fa", layer="0") == pytest.approx(expected, abs=1e-3)


def turned(matrix: np.ndarray) -> xr.Dataset:
    """Measure a linear network fed back its own weights, turned."""
    rng = np.random.default_rng(0)
    model = linear_network([rng.normal(size=shape) for shape in ((8, 6), (4, 8))])
    x = rng.normal(size=(200, 6))
    batch = torch.as_tensor(x), torch.as_tensor(rng.normal(size=(200, 4)))
    given = {"0": matrix @ model[1].weight.detach().numpy().T}
    return probed(*(model, half_squared_error, batch, given_feedback(given)), diagnostics=[NAME])


def test_a_turned_sign_is_headroom_and_not_alignment() -> None:
    found = turned(-np.eye(8))
    assert number(found, "headroom", rule="dfa", layer="0") == pytest.approx(1.0, abs=1e-3)
    exact = turned(np.eye(8))
    assert number(exact, "headroom", rule="dfa", layer="0") == pytest.approx(0.0, abs=1e-3)


def test_lost_information_has_no_headroom() -> None:
    """Feedback of the one error that the true signal does not depend on."""
    rng = np.random.default_rng(0)
    outer = rng.normal(size=(4, 8))
    outer[0] = 0.0
    model = linear_network([rng.normal(size=(8, 6)), outer])
    x, error = rng.normal(size=(300, 6)), rng.normal(size=(300, 4))
    output = x @ model[0].weight.detach().numpy().T @ outer.T
    sent = np.zeros((8, 4))
    sent[:, 0] = rng.normal(size=8)
    found = probed(
        *(model, half_squared_error, (torch.as_tensor(x), torch.as_tensor(output - error))),
        given_feedback({"0": sent}),
        diagnostics=[NAME],
    )
    assert abs(number(found, "headroom", rule="dfa", layer="0")) < 0.03


def test_a_common_mean_shows_in_the_chance_level() -> None:
    """Errors of one sign: any signal explains the mean of any other."""
    model, (x, _) = deep((20, 30, 5), nn.Identity), noise(300, 20, 5)

    def one_sided(output: Tensor, _: Tensor) -> Tensor:
        return output.sum()

    found = probed(model, one_sided, (x, x), DFA(seed=0), diagnostics=[NAME])
    assert number(found, "reach_chance", rule="dfa", layer="0") > 0.99
    zero_mean = measured(model, noise(300, 20, 5), DFA(seed=0))
    assert abs(number(zero_mean, "reach_chance", rule="dfa", layer="0")) < 0.05


def test_drawn_feedback_and_updates_alone_have_reasons() -> None:
    model, batch = deep((6, 5, 3), nn.ReLU), noise(60, 6, 3)
    drawn = given_feedback({"0": np.ones((5, 3), dtype=np.float32)}, origin="drawn")
    found = probed(model, LOSS, batch, drawn, diagnostics=[NAME])
    assert "drawn" in str(found["not_defined"].sel(diagnostic=NAME, layer="0").item())
    assert "recalibration_reach" not in found
    few = probed(model, LOSS, (batch[0][:3], batch[1][:3]), DFA(seed=0), diagnostics=[NAME])
    assert "fewer than 4" in str(few["not_defined"].sel(diagnostic=NAME, layer="0").item())

"""Orders and parts of a step, against dense Hessians and steps of plain torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor, nn
from torch.nn import functional

from alignlab.recording import validate
from alignlab.rules import BP, DFA
from alignlab.snapshot import MeasuredRule
from tests.case import Batch
from tests.cases import CASES
from tests.diagnostics.probing import given_feedback, half_squared_error, linear_network, probed
from tests.diagnostics.steps import hessian, inner, loss_at, norm, stepped, updates_of

NAMES = ("loss-change", "loss-change-parts")


def measured(batch: Batch, *rules: object) -> xr.Dataset:
    found = probed(batch.model, batch.loss, (batch.x, batch.y), *rules, diagnostics=NAMES)
    validate(found.expand_dims(step=[0]).assign_attrs(found.attrs))
    return found


def of_layer(update: dict[str, Tensor], layer: str) -> dict[str, Tensor]:
    return {name: each for name, each in update.items() if name.rpartition(".")[0] == layer}


@pytest.mark.parametrize("name", ["tanh", "conv2d, grouped"])
def test_second_order_and_interaction_are_those_of_the_dense_hessian(name: str) -> None:
    batch = CASES[name].make(dtype=torch.float64)
    found = measured(batch, DFA())
    h, names = hessian(batch)
    for label, update in zip(("dfa", ""), updates_of(batch, DFA()), strict=True):
        here = found.sel(rule=label) if label else found
        suffix = "" if label else "_true"
        step = float(found["loss_change_step_true"]) / norm(dict(update.parameters))
        vector = step * nn.utils.parameters_to_vector(update.parameters.values())
        second = float(vector @ h @ vector) / 2
        assert here[f"loss_change_second_order{suffix}"].item() == pytest.approx(second, rel=1e-3)
        modules = np.array([each.rpartition(".")[0] for each in names])
        apart = torch.as_tensor(modules[:, None] != modules)
        crossed = float(vector @ (h * apart) @ vector) / 2
        assert here[f"loss_change_interaction{suffix}"].item() == pytest.approx(
            crossed, rel=2e-2, abs=2e-2 * abs(second)
        )
        orders = [here[f"loss_change_{key}{suffix}"].item() for key in ("first_order", "actual")]
        rest = orders[1] - orders[0] - here[f"loss_change_second_order{suffix}"].item()
        assert here[f"loss_change_remainder{suffix}"].item() == pytest.approx(rest, abs=1e-12)
        assert abs(rest) < 0.1 * abs(second)


def test_a_quadratic_loss_has_no_remainder() -> None:
    rng = np.random.default_rng(0)
    model = linear_network([rng.normal(size=(3, 6))])
    x, y = torch.as_tensor(rng.normal(size=(12, 6))), torch.as_tensor(rng.normal(size=(12, 3)))
    found = measured(Batch(model, half_squared_error, x, y), BP())
    gradient = (x @ model[0].weight.detach().T - y).T @ x  # type: ignore[operator]
    step = float(found["loss_change_step_true"]) / float(gradient.norm())
    second = float((gradient @ x.T).square().sum()) * step**2 / 2
    assert found["loss_change_second_order_true"].item() == pytest.approx(second, rel=1e-8)
    loss = float(half_squared_error(model(x), y).detach())
    assert abs(found["loss_change_remainder_true"].item()) < 1e-13 * loss
    assert abs(found["loss_change_interaction_true"].item()) < 1e-13 * loss


@pytest.mark.parametrize("name", ["tanh", "residual", "layer norm", "conv1d, strided"])
def test_parts_are_steps_of_layers_alone(name: str) -> None:
    batch = CASES[name].make(dtype=torch.float64)
    batch.model.eval()
    found = measured(batch, DFA())
    before = loss_at(batch, {})
    true = updates_of(batch, DFA())[1].parameters
    for label, updates in zip(("dfa", ""), updates_of(batch, DFA()), strict=True):
        here, update = (found.sel(rule=label) if label else found), dict(updates.parameters)
        suffix = "" if label else "_true"
        step = float(found["loss_change_step_true"]) / norm(update)
        total, left = 0.0, dict(update)
        for layer in found["layer"].values:
            own = of_layer(update, layer)
            left = {key: each for key, each in left.items() if key not in own}
            change = loss_at(batch, stepped(batch, own, step)) - before
            alone = here[f"loss_change_alone{suffix}"].sel(layer=layer).item()
            assert alone == pytest.approx(change, rel=1e-6, abs=1e-13), layer
            slope = here[f"loss_change_alone_first_order{suffix}"].sel(layer=layer).item()
            expected = -step * inner(own, {key: true[key] for key in own})
            assert slope == pytest.approx(expected, rel=1e-6, abs=1e-15)
            total += change
        joint = loss_at(batch, stepped(batch, update, step)) - before
        rest = loss_at(batch, stepped(batch, left, step)) - before if left else 0.0
        together = here[f"loss_change_interaction{suffix}"].item()
        assert together == pytest.approx(joint - total - rest, abs=1e-12)


def test_layers_that_correct_the_same_error_undo_each_other() -> None:
    # Two scalar layers in a row, both too large by the same factor: each alone mends it.
    model = linear_network([np.array([[2.0]]), np.array([[2.0]])])
    batch = Batch(model, half_squared_error, torch.ones(4, 1).double(), torch.ones(4, 1).double())
    found = measured(batch, BP())
    assert found["loss_change_interaction_true"].item() > 0


@pytest.mark.parametrize(
    ("name", "layer", "because"),
    [
        ("frozen", "2", "its parameters are frozen"),
        ("reused", "again@2", "another layer has its weights"),
    ],
)
def test_layers_without_parameters_of_their_own_say_so(name: str, layer: str, because: str) -> None:
    found = measured(CASES[name].make(), BP())
    text = found["not_defined"].sel(diagnostic="loss-change-parts", layer=layer).item()
    assert because in text
    assert np.isnan(found["loss_change_alone_true"].sel(layer=layer))
    others = found["loss_change_alone_true"].drop_sel(layer=layer)
    assert np.isfinite(others).all()


def test_what_has_no_step_says_why() -> None:
    batch = CASES["tanh"].make()
    flat = Batch(batch.model, lambda output, _: output.sum() * 0.0 + 1.0, batch.x, batch.y)
    found = measured(flat, BP())
    for name in NAMES:
        assert "gradient or the loss is zero" in found["not_defined"].sel(diagnostic=name).values[0]
    drawn = MeasuredRule(
        DFA(), given_feedback({"0": np.ones((7, 3)), "2": np.ones((5, 3))}).feedback, "drawn"
    )
    found = measured(batch, drawn)
    assert "drawn, not the training's" in found["not_defined"].values.ravel()[0]
    assert "loss_change_actual" not in found
    assert np.isfinite(found["loss_change_actual_true"])


def test_a_larger_curvature_lowers_the_ratio_and_shows_in_the_second_order() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(20, 6).double(), torch.arange(20) % 3
    found = []
    for scale in (1.0, 30.0):
        model = nn.Sequential(nn.Linear(6, 3)).double()
        found.append(measured(Batch(model, functional.cross_entropy, x * scale, y), BP()))
    shares = [
        each["loss_change_second_order_true"] / each["loss_change_step_true"] ** 2 for each in found
    ]
    assert shares[1] > 10 * shares[0]

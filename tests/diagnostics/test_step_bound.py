"""Bounds of steps, against quadratic losses in closed form and dense Hessians."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor, nn

from alignlab.recording import validate
from alignlab.rules import BP, DFA, FA, FunctionRule
from tests.cases import CASES, Batch, Case, each_case
from tests.diagnostics.probing import half_squared_error, probed


def measured(batch: Batch, *rules: object) -> xr.Dataset:
    given = batch.model, batch.loss, (batch.x, batch.y)
    return probed(*given, *rules, diagnostics=["step-bound"])


def changed(change: Callable[[Tensor], Tensor], title: str) -> FunctionRule:
    """Return a rule that yields the true gradients with something changed."""

    def updates(
        model: nn.Module, loss: Callable[..., Tensor], x: Tensor, y: Tensor, _: torch.Generator
    ) -> dict[str, Tensor]:
        named = dict(model.named_parameters())
        gradients = torch.autograd.grad(loss(model(x), y), list(named.values()))
        return {name: change(each) for name, each in zip(named, gradients, strict=True)}

    return FunctionRule(updates, title)


def regression() -> Batch:
    torch.manual_seed(0)
    model = nn.Linear(3, 5, bias=False, dtype=torch.float64)
    x, y = torch.randn(30, 3, dtype=torch.float64), torch.randn(30, 5, dtype=torch.float64)
    return Batch(model, half_squared_error, x * torch.arange(1, 4), y)


RULES = [
    BP(),
    changed(torch.sign, "signs"),
    changed(lambda g: g + 0.5 * g.norm() * torch.ones_like(g) / g.numel() ** 0.5, "shifted"),
    changed(lambda g: 10.0 * g, "scaled"),
]


def test_bounds_of_linear_regression_have_their_closed_form() -> None:
    r"""Check against :math:`H = X^T X \otimes I`."""
    batch = regression()
    found = measured(batch, *RULES)
    covariance = batch.x.T @ batch.x
    weight = batch.model.weight.detach()
    g = (batch.x @ weight.T - batch.y).T @ batch.x
    largest = torch.linalg.eigvalsh(covariance)[-1]
    updates = [g, g.sign(), g + 0.5 * g.norm() * torch.ones_like(g) / 15**0.5, 10 * g]
    for rule, update in zip(found["rule"].values, updates, strict=True):
        here = found.sel(rule=rule)
        product, energy = (g * update).sum(), update.square().sum()
        curved = ((update @ covariance) * update).sum()
        expected = {
            "step_bound_update": 2 * product / curved,
            "curvature_along_update": curved / energy,
            "step_efficiency": product**2 / energy / g.square().sum(),
            "step_efficiency_curved": (
                product**2 / curved / (g.square().sum() ** 2 / ((g @ covariance) * g).sum())
            ),
        }
        for name, value in expected.items():
            assert here[name].item() == pytest.approx(value.item(), rel=1e-9), name
        # Five Lanczos steps exhaust the three eigenvalues.
        careful = 2 * product / (largest * energy)
        assert here["step_bound_largest_update"].item() == pytest.approx(careful.item(), rel=1e-6)

        def change(step: float, update: Tensor = update) -> float:
            with torch.no_grad():
                moved = weight - step * update
                after = half_squared_error(batch.x @ moved.T, batch.y)
                return float(after - half_squared_error(batch.x @ weight.T, batch.y))

        bound = here["step_bound_update"].item()
        assert change(0.999 * bound) < 0 < change(1.001 * bound)
    assert found["largest_curvature"].item() == pytest.approx(largest.item(), rel=1e-9)
    of_bp = found["step_bound_update"].sel(rule="bp").item()
    assert found["step_bound_gradient"].item() == pytest.approx(of_bp)


def test_a_wrong_scale_moves_the_bound_and_nothing_else() -> None:
    found = measured(regression(), *RULES)
    plain, scaled = found.sel(rule="bp"), found.sel(rule="scaled")
    ratio = scaled["step_bound_update"] / plain["step_bound_update"]
    assert ratio.item() == pytest.approx(0.1)
    for name in ("step_efficiency", "step_efficiency_curved", "curvature_along_update"):
        assert scaled[name].item() == pytest.approx(plain[name].item())


@pytest.mark.parametrize("name", ["tanh", "positions", "residual"])
def test_curvatures_of_deep_networks_are_those_of_the_dense_hessian(name: str) -> None:
    batch = CASES[name].make(dtype=torch.float64)
    found = measured(batch, DFA(seed=0), FA(seed=0))
    batch = CASES[name].make(dtype=torch.float64)
    named = {n: p.detach() for n, p in batch.model.named_parameters()}
    state = torch.random.get_rng_state()

    def loss(line: Tensor) -> Tensor:
        torch.random.set_rng_state(state)
        parts = line.split([p.numel() for p in named.values()])
        given = {
            n: part.reshape(p.shape) for (n, p), part in zip(named.items(), parts, strict=True)
        }
        output = torch.func.functional_call(batch.model, given, (batch.x,))
        return batch.loss(output, batch.y)

    line = torch.cat([p.flatten() for p in named.values()])
    dense = torch.autograd.functional.hessian(loss, line)
    g = torch.autograd.functional.jacobian(loss, line)
    along = (g @ dense @ g / g.square().sum()).item()
    assert found["curvature_along_gradient"].item() == pytest.approx(along, rel=1e-6)
    largest = torch.linalg.eigvalsh(dense)[-1].item()
    value, residual = (
        found[each].item() for each in ("largest_curvature", "largest_curvature_residual")
    )
    assert value <= largest * (1 + 1e-9)
    assert value == pytest.approx(largest, rel=0.1)
    assert residual < 0.3 * largest


@each_case
def test_every_network_has_numbers_or_a_reason(case: Case) -> None:
    found = measured(case.make(), BP(), DFA(seed=0))
    validate(found.expand_dims("step", 0))
    assert found["step_efficiency"].sel(rule="bp").item() == pytest.approx(1.0, abs=1e-5)
    has_all = "step_bound_update" in found and np.isfinite(found["step_bound_update"]).all()
    reasons = "" if "not_defined" not in found else str(found["not_defined"].values)
    assert has_all or "not defined" in reasons
    if "largest_curvature" in found:
        assert found["step_bound_largest_gradient"].item() > 0


@pytest.mark.parametrize("name", ["vision transformer", "own attention", "language model"])
def test_fused_attention_is_replaced_by_plain_kernels(name: str) -> None:
    found = measured(CASES[name].make(), BP())
    assert np.isfinite(found["largest_curvature"].item())


def test_an_update_that_climbs_has_no_bound_and_no_efficiency() -> None:
    found = measured(regression(), changed(torch.neg, "opposed")).isel(rule=0)
    assert found["step_efficiency"].item() == 0.0
    assert np.isnan(found["step_bound_update"].item())
    assert "does not descend" in str(found["not_defined"].values)


def test_a_saddle_has_no_bound_along_the_update() -> None:
    """Let two weights multiply: at equal ones the loss -uv is curved downwards along (1, 1)."""

    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
            for each in (self.first, self.last):
                nn.init.ones_(each.weight)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x))

    def loss(output: Tensor, _: Tensor) -> Tensor:
        return -output.sum()

    given = Product(), loss, (torch.ones(1, 1), torch.zeros(1))
    found = probed(*given, BP(), diagnostics=["step-bound"]).isel(rule=0)
    assert found["curvature_along_update"].item() == pytest.approx(-1.0)
    assert found["largest_curvature"].item() == pytest.approx(-1.0)
    assert np.isnan(found["step_bound_update"].item())
    reasons = str(found["not_defined"].values)
    assert "not curved upwards along the update" in reasons
    assert "not curved upwards along the true gradient" in reasons

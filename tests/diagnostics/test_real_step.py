"""What optimizers really did, against their own arithmetic and plain losses."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor, nn

from alignlab.probe import Probe
from alignlab.recording import validate
from alignlab.rules import BP, DFA, Applied, Displacement
from alignlab.snapshot import MeasuredRule
from tests.case import Batch
from tests.cases import CASES
from tests.diagnostics.probing import half_squared_error, linear_network, probed
from tests.diagnostics.steps import hessian, inner, loss_at, norm

NAME = ("real-step",)


def moved_to(batch: Batch, after: dict[str, Tensor]) -> xr.Dataset:
    """Return what is said of the way from a model's parameters to others."""
    before = {name: p.detach().clone() for name, p in batch.model.named_parameters()}
    rule = MeasuredRule(Displacement(), Displacement.between(before, after), "observed")
    found = probed(batch.model, batch.loss, (batch.x, batch.y), rule, diagnostics=NAME)
    validate(found.expand_dims(step=[0]).assign_attrs(found.attrs))
    return found.sel(rule="displacement")


def gradient(batch: Batch) -> dict[str, Tensor]:
    named = dict(batch.model.named_parameters())
    loss = batch.loss(batch.model(batch.x), batch.y)
    return dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))


@pytest.mark.parametrize("name", ["tanh", "layer norm", "conv1d, strided"])
@pytest.mark.parametrize("size", [1e-4, 0.3])
def test_the_orders_of_a_displacement_are_those_of_plain_torch(name: str, size: float) -> None:
    batch = CASES[name].make(dtype=torch.float64)
    torch.manual_seed(3)
    way = {n: size * torch.randn_like(p) for n, p in batch.model.named_parameters()}
    after = {n: p.detach() + way[n] for n, p in batch.model.named_parameters()}
    found, g = moved_to(batch, after), gradient(batch)
    assert found["real_step_length"].item() == pytest.approx(norm(way))
    first, actual = inner(g, way), loss_at(batch, after) - loss_at(batch, {})
    assert found["real_step_first_order"].item() == pytest.approx(first, rel=1e-9)
    assert found["real_step_actual"].item() == pytest.approx(actual, rel=1e-8)
    assert found["real_step_ratio"].item() == pytest.approx(actual / first, rel=1e-7)
    cosine = -first / norm(g) / norm(way)
    assert found["real_step_cosine_total"].item() == pytest.approx(cosine, rel=1e-9)
    if "conv" not in name:
        vector = nn.utils.parameters_to_vector(way.values())
        second = float(vector @ hessian(batch)[0] @ vector) / 2
        # With kinks, the difference sees them and the Hessian does not.
        tolerance = 1e-4 if name == "tanh" else 0.3
        assert found["real_step_second_order"].item() == pytest.approx(second, rel=tolerance)
    for layer in found["layer"].values:
        own = {n: each for n, each in way.items() if n.rpartition(".")[0] == layer}
        part = {n: g[n] for n in own}
        slope = inner(part, own)
        here = found.sel(layer=layer)
        assert here["real_step_first_order_layer"].item() == pytest.approx(slope, rel=1e-9)
        assert here["real_step_descends"].item() == float(slope < 0)
        expected = -slope / norm(part) / norm(own)
        assert here["real_step_cosine"].item() == pytest.approx(expected, rel=1e-9)


def test_a_step_of_gradient_descent_on_a_quadratic_has_its_closed_form() -> None:
    rng = np.random.default_rng(0)
    model = linear_network([rng.normal(size=(3, 6))])
    x, y = torch.as_tensor(rng.normal(size=(12, 6))), torch.as_tensor(rng.normal(size=(12, 3)))
    batch, rate = Batch(model, half_squared_error, x, y), 0.05
    g = gradient(batch)["0.weight"]
    found = moved_to(batch, {"0.weight": model[0].weight.detach() - rate * g})  # type: ignore[operator]
    square, curved = float(g.square().sum()), float((g @ x.T).square().sum())
    assert found["real_step_first_order"].item() == pytest.approx(-rate * square)
    assert found["real_step_second_order"].item() == pytest.approx(rate**2 * curved / 2, rel=1e-6)
    assert found["real_step_actual"].item() == pytest.approx(
        -rate * square + rate**2 * curved / 2, rel=1e-9
    )
    assert found["real_step_cosine"].item() == pytest.approx(1.0)
    assert found["real_step_cosine_status"].item() != "at chance"


def test_weight_decay_and_momentum_show_beside_the_gradient_that_was_applied() -> None:
    batch = CASES["tanh"].make()
    model = copy.deepcopy(batch.model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=5.0)
    probe = Probe(
        *(model, batch.loss),
        rules=[Displacement(), Applied(), BP()],
        diagnostics=NAME,
        draws=64,
    )
    with probe.observe(0, batch.x, batch.y):
        batch.loss(model(batch.x), batch.y).backward()
        optimizer.step()
    found = probe.recording().isel(step=0)
    total = found["real_step_cosine_total"]
    assert total.sel(rule="applied").item() == pytest.approx(1.0)
    assert total.sel(rule="displacement").item() < 0.9
    g = gradient(batch)
    way = {n: 0.1 * (g[n] + 5.0 * p.detach()) for n, p in batch.model.named_parameters()}
    assert total.sel(rule="displacement").item() == pytest.approx(
        inner(g, way) / norm(g) / norm(way), rel=1e-4
    )
    assert np.isfinite(found["real_step_length"].sel(rule="displacement"))
    assert np.isnan(found["real_step_length"].sel(rule="applied"))
    assert "moved no weights" in found["not_defined"].sel(diagnostic="real-step").values[0]
    assert np.isnan(found["real_step_descends"].sel(rule="bp")).all()


def test_the_frequency_of_descent_is_half_for_steps_by_chance() -> None:
    batch = CASES["one hidden layer"].make(dtype=torch.float64)
    stream = torch.Generator().manual_seed(0)
    falls, inside = [], []
    for _ in range(25):
        after = {
            n: p.detach() + 0.01 * torch.randn(p.shape, generator=stream, dtype=p.dtype)
            for n, p in batch.model.named_parameters()
        }
        found = moved_to(batch, after)
        falls += found["real_step_descends"].values.tolist()
        low, high = (found[f"real_step_cosine_null_{end}"] for end in ("low", "high"))
        inside += (
            (found["real_step_cosine"] >= low) & (found["real_step_cosine"] <= high)
        ).values.tolist()
    assert np.mean(falls) == pytest.approx(0.5, abs=0.25)
    assert np.mean(inside) > 0.85


def test_a_layer_at_rest_and_one_without_gradient_say_so() -> None:
    batch = CASES["frozen"].make()
    after = {n: p.detach().clone() for n, p in batch.model.named_parameters()}
    after["4.weight"] += 0.1
    found = moved_to(batch, after)
    texts = found["not_defined"].sel(diagnostic="real-step")
    assert "it has not moved" in texts.sel(layer="0").item()
    assert "frozen" in texts.sel(layer="2").item()
    assert np.isnan(found["real_step_cosine"].sel(layer="0"))
    assert found["real_step_cosine_status"].sel(layer="0").item() == "undefined"
    assert np.isfinite(found["real_step_cosine"].sel(layer="4"))


def test_without_a_rule_that_moved_weights_nothing_is_said() -> None:
    batch = CASES["tanh"].make()
    for rules in ((), (DFA(),)):
        found = probed(batch.model, batch.loss, (batch.x, batch.y), *rules, diagnostics=NAME)
        assert all(found["not_defined"].sel(diagnostic="real-step").values)
        assert "real_step_actual" not in found

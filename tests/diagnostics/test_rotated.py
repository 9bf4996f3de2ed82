"""The chance level by turned outputs: how often it holds, and what is turned together."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from alignlab.diagnostics._rotated import of_parameters, of_weight, rotated
from alignlab.kernels.rotation import output_rows, turned_products, weight_of_rows
from alignlab.rules import ForwardGradient
from alignlab.snapshot import Snapshot
from tests.cases import CASES
from tests.diagnostics.probing import probed


@pytest.mark.parametrize(("n", "m"), [(2, 3), (4, 1), (16, 6), (33, 2), (80, 10)])
def test_turned_updates_fall_into_the_band_and_their_p_is_uniform(n: int, m: int) -> None:
    stream = torch.Generator().manual_seed(n)
    inside, p_values = [], []
    for seed in range(20):
        a, b = torch.randn(2, n, m, generator=stream, dtype=torch.float64)
        snapshot = cast("Snapshot", SimpleNamespace(seed=seed, draws=400))
        _, chance = rotated(snapshot, {"": [(a[None], b[None])]}, stream="test")[0][""][0]
        fresh = turned_products(a, b, count=500, stream=stream) / a.norm() / b.norm()
        inside.append(((fresh >= chance.low) & (fresh <= chance.high)).double().mean().item())
        # An update that is one of the turned ones, whose p-value must be uniform.
        q, _ = torch.linalg.qr(torch.randn(n, n, generator=stream, dtype=torch.float64))
        turn = q * torch.randn(n, generator=stream, dtype=torch.float64).sign()
        _, own = rotated(snapshot, {"": [((turn @ a)[None], b[None])]}, stream="test")[0][""][0]
        p_values.append(own.p)
    assert 0.93 < np.mean(inside) < 0.97
    assert np.min(inside) > 0.89
    assert stats.kstest(p_values, "uniform").pvalue > 1e-3


def test_the_standard_deviation_is_exact_also_where_the_band_is_drawn() -> None:
    stream = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 6, 4, generator=stream, dtype=torch.float64)
    snapshot = cast("Snapshot", SimpleNamespace(seed=0, draws=32))
    _, chance = rotated(snapshot, {"": [(a[None], b[None])]}, stream="test")[0][""][0]
    exact = (a @ b.T).norm() / 6**0.5 / a.norm() / b.norm()
    assert chance.method == "redraws"
    assert chance.sd == pytest.approx(exact.item(), rel=1e-12)
    many = torch.linalg.qr(torch.randn(20_000, 6, 6, generator=stream, dtype=torch.float64))
    turns = many.Q * torch.sign(torch.diagonal(many.R, dim1=1, dim2=2))[:, None]
    cosines = torch.einsum("kij,jm,im->k", turns, a, b) / a.norm() / b.norm()
    assert chance.sd == pytest.approx(cosines.square().mean().sqrt().item(), rel=0.02)


def test_matrices_of_one_key_are_turned_each_by_itself() -> None:
    stream = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 1, 40, 3, generator=stream, dtype=torch.float64)
    snapshot = cast("Snapshot", SimpleNamespace(seed=0, draws=100))
    found, all_three = rotated(snapshot, {"one": [(a, b)], "two": [(a, b), (a, b)]}, stream="test")
    (value, chance), (both, together) = found["one"][0], found["two"][0]
    assert both == pytest.approx(value)
    assert together.sd == pytest.approx(chance.sd / 2**0.5)
    assert all_three[0][0] == pytest.approx(value)
    assert all_three[0][1].sd == pytest.approx(chance.sd / 3**0.5)


def test_weights_and_biases_of_a_module_are_turned_together() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    named = {name: torch.randn(2, *p.shape) for name, p in model.named_parameters()}
    pairs = of_parameters(model, list(named), named, named)
    assert [tuple(first.shape) for first, _ in pairs] == [(2, 3, 5), (2, 3, 2)]


@pytest.mark.parametrize("groups", [1, 2])
def test_rows_are_those_of_the_outputs_of_transposed_convolutions(groups: int) -> None:
    module = nn.ConvTranspose2d(4, 6, 3, groups=groups, bias=False)
    x = torch.randn(2, 4, 5, 5)
    rows = output_rows(module, module.weight)
    assert torch.equal(weight_of_rows(module, rows), module.weight)
    scaled = rows * torch.arange(6.0).reshape(6, 1, 1, 1)
    expected = module(x) * torch.arange(6.0).reshape(1, 6, 1, 1)
    found = nn.functional.conv_transpose2d(x, weight_of_rows(module, scaled), groups=groups)
    torch.testing.assert_close(found, expected)
    update = torch.randn(3, *module.weight.shape)
    assert of_weight(module, update, update)[0].shape == (3, 6, 4 // groups * 9)


def test_updates_of_grouped_transposed_convolutions_have_a_chance_level() -> None:
    batch = CASES["conv2d, transposed"].make()
    found = probed(
        *(batch.model, batch.loss, (batch.x, batch.y), ForwardGradient()),
        diagnostics=["weight-gradient"],
    )
    assert np.isfinite(found["cosine_weight_gradient_null_sd"]).all()


def test_a_model_that_is_one_layer_has_its_own_cosine_beside_that_of_all() -> None:
    torch.manual_seed(0)
    batch = torch.randn(20, 6), torch.arange(20) % 5
    found = probed(
        *(nn.Linear(6, 5), nn.functional.cross_entropy, batch, ForwardGradient()),
        diagnostics=["weight-gradient"],
    )
    assert np.isfinite(found["cosine_weight_gradient"].sel(layer="")).all()

"""Ceilings of rank and of structure against dense matrices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from alignlab.engine.capture import Capture
from alignlab.kernels.factors import exact_factors, support_factors
from alignlab.rules import AlignedDFA
from alignlab.snapshot import MeasuredRule
from tests.cases import CASES
from tests.diagnostics.probing import probed
from tests.oracles.dense import free_entries, unrolled

NAMES = ["unrolled"]
KINDS = ("svd", "nmf", "repeated")


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 3, 3, padding=1), nn.Tanh(), nn.Conv2d(3, 4, 3, padding=1, stride=2)]
    return nn.Sequential(*layers, nn.Tanh(), nn.Flatten(), nn.Linear(36, 5)).double()


def batch(n: int = 20) -> tuple[Any, Any]:
    stream = torch.Generator().manual_seed(1)
    return torch.randn(n, 1, 6, 6, generator=stream).double(), torch.arange(n) % 5


def test_the_ceiling_is_that_of_the_best_product_of_as_many_pairs_as_errors() -> None:
    model = network()
    found = probed(model, functional.cross_entropy, batch(), diagnostics=NAMES)
    for name, shape in (("0", (1, 6, 6)), ("2", (3, 6, 6)), ("5", (36,))):
        module: Any = model.get_submodule(name)
        matrix = unrolled(module, module.weight.detach().numpy(), shape)
        values = np.linalg.svd(matrix, compute_uv=False)
        expected = np.linalg.norm(values[:5]) / np.linalg.norm(values)
        ceiling = float(found["weight_rank_ceiling"].sel(layer=name))
        assert ceiling == pytest.approx(expected, rel=1e-9)


def test_the_best_product_there_is_stays_at_the_ceiling_and_large_layers_come_near_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Ceilings that were found from below alone would be exceeded by this product.
    model = network()
    module: Any = model[2]
    matrix = unrolled(module, module.weight.detach().numpy(), (3, 6, 6))
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    best = (left[:, :5] * values[:5]) @ right[:5]
    reached = (best * matrix).sum() / np.linalg.norm(best) / np.linalg.norm(matrix)
    given = (model, functional.cross_entropy, batch())
    exact = probed(*given, diagnostics=NAMES).sel(layer="2")["weight_rank_ceiling"].item()
    assert reached <= exact + 1e-9
    monkeypatch.setattr("alignlab.diagnostics.unrolled.EXACT_UNITS", 0)
    near = probed(*given, diagnostics=NAMES).sel(layer="2")["weight_rank_ceiling"].item()
    assert 0.98 * exact <= near <= exact + 1e-9


def test_what_weights_can_follow_is_the_projection_on_all_that_they_can_be() -> None:
    model = network()
    found = probed(
        model, functional.cross_entropy, batch(), diagnostics=["unrolled", "convolution-cap"]
    ).sel(layer="2")
    module: Any = model[2]
    shape = (3, 6, 6)
    factors = {
        "svd": exact_factors(module, module.weight.detach(), shape, rank=5),
        "nmf": support_factors(module, shape, rank=5),
    }
    products = {
        kind: (each.above.flatten(1).T @ each.below.flatten(1)).double().numpy()
        for kind, each in factors.items()
    }
    stream = np.random.default_rng(0)
    values = stream.normal(size=(4, 3))
    products["repeated"] = np.kron(values, np.ones((9, 36)))
    entries = free_entries(module, shape)
    basis = np.linalg.qr(entries.T).Q
    for kind, product in products.items():
        expected = np.linalg.norm(basis.T @ product.ravel()) / np.linalg.norm(product)
        value = float(found[f"convolution_weight_attainable_{kind}"])
        assert value == pytest.approx(expected, rel=1e-5), kind
        assert value > 1.5 * float(found["convolution_weight_cap"])
    assert float(found["convolution_weight_attainable_svd"]) >= float(found["weight_rank_ceiling"])


def test_no_feedback_has_a_weight_alignment_above_the_ceiling_and_made_ones_come_near() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv1d(1, 4, 3, padding=1), nn.Conv1d(4, 4, 3, padding=1), nn.Flatten()),
        nn.Linear(32, 10),
    ).double()
    x, y = torch.randn(30, 1, 8).double(), torch.arange(30) % 10
    capture = Capture(model, functional.cross_entropy, x, y)
    rule = AlignedDFA()
    made = MeasuredRule(rule, rule.start(capture, seed=0), "checkpoint")
    found = probed(
        *(model, functional.cross_entropy, (x, y), made),
        diagnostics=["unrolled", "weight-feedback"],
    )
    ceiling = found["weight_rank_ceiling"]
    alignment = found["cosine_weight_feedback"].isel(rule=0)
    assert float(alignment.sel(layer="3")) > 0.95
    assert 0.1 < float(alignment.sel(layer="1")) <= float(ceiling.sel(layer="1"))


@pytest.mark.parametrize(
    ("name", "layer", "kind"),
    [
        ("conv2d, circular", "0", "Conv2d"),
        ("conv2d, grouped", "3", "Conv2d"),
        ("conv2d, transposed", "2", "ConvTranspose2d"),
        ("positions", "first", "Linear"),
        ("reused", "again@2", "Linear"),
    ],
)
def test_every_kind_of_layer_has_a_ceiling(name: str, layer: str, kind: str) -> None:
    made = CASES[name].make()
    found = probed(made.model, made.loss, (made.x, made.y), diagnostics=NAMES).sel(layer=layer)
    assert str(found["layer_kind"].item()) == kind
    assert 0.0 < float(found["weight_rank_ceiling"]) <= 1.0
    if kind == "Linear":
        assert "weights are all free" in str(found["not_defined"].item())
    else:
        values = [float(found[f"convolution_weight_attainable_{each}"]) for each in KINDS]
        assert all(0.0 < value <= 1.0 for value in values)

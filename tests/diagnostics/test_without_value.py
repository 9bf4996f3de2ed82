"""Alignments that are compared and have no value say why."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from alignlab.rules import BP, DFA
from tests.diagnostics.probing import probed

NAMES = ["cross-batch-gradient", "sign-agreement"]


def test_halves_that_pull_in_opposite_directions_have_no_debiased_cosine_and_a_reason() -> None:
    # Errors of the same size and both signs, the gradient of the whole batch near zero: that of
    # any half is the opposite of the other's.
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 6), nn.Linear(6, 2)).double()
    x = torch.randn(1, 3).double().expand(20, 3)
    sign = torch.tensor([1.0, -1.0]).double().repeat(10)[:, None]

    def loss(output: Tensor, sign: Tensor) -> Tensor:
        return (output * (sign + 1e-3)).mean()

    found = probed(net, loss, (x, sign), BP(), DFA(), diagnostics=NAMES)
    for layer, rule in (("0", "bp"), ("0", "dfa")):
        value = found["cosine_weight_gradient_debiased"].sel(layer=layer, rule=rule)
        assert np.isnan(value.item())
        reasons = found["not_defined"].sel(diagnostic="cross-batch-gradient", layer=layer).item()
        assert f"under {rule} because its gradients of the two halves" in reasons


def test_dead_layers_have_no_share_of_signs_and_a_reason() -> None:
    first = nn.Linear(3, 6)
    nn.init.constant_(first.bias, -100.0)
    net = nn.Sequential(first, nn.ReLU(), nn.Linear(6, 6), nn.Linear(6, 2)).double()
    batch = torch.randn(20, 3).double(), torch.arange(20) % 2
    found = probed(net, functional.cross_entropy, batch, DFA(), diagnostics=NAMES).isel(rule=0)
    assert np.isnan(found["sign_agreement_weight_gradient"].sel(layer="0").item())
    reason = found["not_defined"].sel(diagnostic="sign-agreement", layer="0").item()
    assert "every entry of its gradient is zero" in reason


def test_a_layer_with_a_value_has_no_reason() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 6), nn.Linear(6, 2)).double()
    batch = torch.ones(20, 3).double(), torch.zeros(20, dtype=torch.long)
    found = probed(net, functional.cross_entropy, batch, DFA(), diagnostics=NAMES)
    assert "not_defined" not in found or not (found["not_defined"] != "").any()

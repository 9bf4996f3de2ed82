"""Signals of shifted inputs: golden values, plain torch, and what is not defined."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from alignlab.rules import BP, DFA, FA
from tests.cases import CASES
from tests.diagnostics.probing import probed

SHIFTS = [1, 2, 4]
NAMES = ["equivariance-defect"]


def circular(channels: int, *, stride: int = 1) -> nn.Module:
    return nn.Conv2d(
        channels, 16, 3, padding=1, stride=stride, padding_mode="circular"
    ).double()  # fmt: skip


def network(*, is_pooled: bool, stride: int = 1) -> nn.Sequential:
    torch.manual_seed(0)
    body = [circular(3), nn.ReLU(), circular(16, stride=stride), nn.ReLU()]
    pool, width = (nn.AdaptiveAvgPool2d(1), 16) if is_pooled else (nn.Identity(), 1024)
    return nn.Sequential(*body, pool, nn.Flatten(), nn.Linear(width, 10)).double()


def batch(n: int = 40) -> tuple[Tensor, Tensor]:
    stream = torch.Generator().manual_seed(1)
    return torch.randn(n, 3, 8, 8, generator=stream).double(), torch.arange(n) % 10


def test_a_pooled_head_moves_with_the_input_and_dense_feedback_does_not() -> None:
    rules = BP(), DFA(), DFA(structure="channel"), FA()
    found = probed(
        network(is_pooled=True), functional.cross_entropy, batch(), *rules, diagnostics=NAMES
    ).isel(layer=0)
    defect = found["equivariance_defect"].sel(shift=SHIFTS)
    assert (found["equivariance_defect_true"].sel(shift=SHIFTS) < 1e-12).all()
    for rule in ("bp", "fa", "dfa(structure=channel)"):
        assert (defect.sel(rule=rule) < 1e-12).all()
        assert float(found["equivariant_share"].sel(rule=rule)) == pytest.approx(1.0)
    np.testing.assert_allclose(defect.sel(rule="dfa"), 2**0.5, rtol=0.05)
    chance = float(found["equivariant_share_chance"])
    assert chance == 0.25
    assert float(found["equivariant_share"].sel(rule="dfa")) == pytest.approx(chance, abs=0.03)


def test_a_flattened_head_does_not_move_under_either() -> None:
    found = probed(
        network(is_pooled=False), functional.cross_entropy, batch(), DFA(), diagnostics=NAMES
    ).isel(layer=0)
    for name in ("equivariance_defect_true", "equivariance_defect"):
        np.testing.assert_allclose(found[name].sel(shift=SHIFTS), 2**0.5, rtol=0.06)


def test_layers_of_fewer_positions_move_by_fewer_and_only_by_whole_ones() -> None:
    found = probed(
        *(network(is_pooled=True, stride=2), functional.cross_entropy, batch(), BP()),
        diagnostics=NAMES,
    ).isel(layer=1)
    defect = found["equivariance_defect_true"]
    assert defect.sel(shift=[1, 8]).isnull().all()
    assert (defect.sel(shift=[2, 4]) < 1e-12).all()
    assert float(found["equivariant_share_chance"]) == pytest.approx(1 / 3)


def test_the_numbers_are_those_of_backward_passes_by_hand() -> None:
    model, (x, y) = network(is_pooled=False), batch()

    def signal(inputs: Tensor) -> Tensor:
        middle = model[2](model[1](model[0](inputs)))
        loss = functional.cross_entropy(model[3:](middle), y)
        return torch.autograd.grad(loss, middle)[0]

    plain = signal(x)
    backs = [plain]
    found = probed(model, functional.cross_entropy, (x, y), diagnostics=NAMES).isel(layer=1)
    for shift in SHIFTS:
        moved = signal(x.roll((shift, shift), (2, 3)))
        backs.append(moved.roll((-shift, -shift), (2, 3)))
        expected = (backs[-1] - plain).norm() / plain.norm()
        assert float(found["equivariance_defect_true"].sel(shift=shift)) == pytest.approx(
            float(expected), rel=1e-6
        )
    whole = torch.stack(backs)
    share = len(backs) * whole.mean(0).square().sum() / whole.square().sum()
    assert float(found["equivariant_share_true"]) == pytest.approx(float(share), rel=1e-6)


def test_zero_padding_is_a_fault_of_the_architecture_that_both_have() -> None:
    model = network(is_pooled=True)
    model[2] = nn.Conv2d(16, 16, 3, padding=1).double()
    found = probed(
        model, functional.cross_entropy, batch(), DFA(structure="channel"), diagnostics=NAMES
    ).isel(layer=0)
    assert (found["equivariance_defect_true"].sel(shift=SHIFTS) > 0.05).all()
    assert (found["equivariance_defect"].sel(shift=SHIFTS) > 0.0).all()


@pytest.mark.parametrize(
    ("name", "layer", "because"),
    [
        ("tanh", "0", "the batch is not one tensor of maps"),
        ("conv1d, strided", "0", "its positions (5,) are no whole part or multiple of the input's"),
        ("conv3d", "0", ""),
        ("conv3d", "2", "no shift by 1, 2, 4, 8 positions of the input moves it by whole"),
        ("conv3d", "5", "it is no convolution (Linear)"),
        ("residual", "2.conv2", ""),
        ("conv2d, transposed", "0", ""),
    ],
)
def test_every_layer_has_numbers_or_a_reason(name: str, layer: str, because: str) -> None:
    made = CASES[name].make()
    found = probed(made.model, made.loss, (made.x, made.y), DFA(), diagnostics=NAMES)
    text = str(found["not_defined"].sel(diagnostic=NAMES[0], layer=layer).item())
    assert because in text
    has_numbers = "equivariance_defect_true" in found and bool(
        found["equivariance_defect_true"].sel(layer=layer).notnull().any()
    )
    assert has_numbers == (not text)

"""Where credit goes and what a unit sees, against dense matrices and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from alignlab.kernels.unrolled import unrolled
from alignlab.rules import BP, DFA
from tests.cases import CASES
from tests.diagnostics.probing import probed

NAMES = ["credit-field"]
POSITIONS = 16


def to_maps() -> nn.Sequential:
    """Return a linear network whose output has positions."""
    torch.manual_seed(0)
    options = {"padding": 1, "padding_mode": "circular", "bias": False}
    layers = [nn.Conv1d(2, 6, 3, **options), nn.Conv1d(6, 5, 3, **options)]
    return nn.Sequential(*layers, nn.Conv1d(5, 3, 3, **options)).double()


def batch(n: int = 12) -> tuple[Tensor, Tensor]:
    stream = torch.Generator().manual_seed(1)
    x, y = (torch.randn(n, c, POSITIONS, generator=stream).double() for c in (2, 3))
    return x, y


def participation(energy: np.ndarray) -> float:
    return float((energy.sum(-1) ** 2 / (energy**2).sum(-1)).mean())


def test_the_true_field_is_what_dense_matrices_carry_back() -> None:
    model, (x, y) = to_maps(), batch()
    found = probed(model, functional.mse_loss, (x, y), BP(), diagnostics=NAMES)
    output = model(x)
    output.retain_grad()
    functional.mse_loss(output, y).backward()
    assert output.grad is not None
    error = torch.zeros_like(output)
    error[..., POSITIONS // 2] = output.grad[..., POSITIONS // 2]
    carried = error.flatten(1).numpy()
    for name, channels in (("1", 5), ("0", 6)):
        above = model.get_submodule(str(int(name) + 1))
        matrix = unrolled(above, above.weight.detach(), (channels, POSITIONS)).numpy()
        carried = carried @ matrix
        energy = (carried.reshape(-1, channels, POSITIONS) ** 2).sum(1)
        at = found.sel(layer=name)
        assert float(at["credit_field_true"]) == pytest.approx(participation(energy))
        assert float(at["credit_field"].sel(rule="bp")) == pytest.approx(participation(energy))
        reached = 3 if name == "1" else 5
        assert np.count_nonzero(energy.sum(0) > 1e-20) == reached
        assert float(at["credit_field_true"]) <= reached


def test_dense_feedback_reaches_everything_and_that_of_positions_one() -> None:
    rules = DFA(), DFA(structure="position")
    found = probed(to_maps(), functional.mse_loss, batch(400), *rules, diagnostics=NAMES)
    for layer, channels in (("0", 6), ("1", 5)):
        at = found.sel(layer=layer)
        assert float(at["credit_field"].sel(rule="dfa(structure=position)")) == pytest.approx(1.0)
        radius = at["credit_radius"]
        assert float(radius.sel(rule="dfa(structure=position)")) == pytest.approx(0.0, abs=1e-6)
        expected = POSITIONS * channels / (channels + 2)
        assert float(at["credit_field"].sel(rule="dfa")) == pytest.approx(expected, rel=0.15)
        assert float(radius.sel(rule="dfa")) == pytest.approx(1.0, abs=0.15)
        assert float(at["credit_field_true"]) < 5.0
    assert float(found["credit_radius_true"].sel(layer="0")) > float(
        found["credit_radius_true"].sel(layer="1")
    )


def test_behind_a_pooled_head_without_gates_all_positions_have_the_same_credit() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4)
    )
    made = torch.randn(8, 1, 6, 6), torch.arange(8) % 4
    found = probed(model, functional.cross_entropy, made, diagnostics=NAMES).isel(layer=0)
    assert float(found["credit_field_true"]) == pytest.approx(16.0)
    assert float(found["credit_radius_true"]) == pytest.approx(1.0)


def test_a_maximum_over_the_map_credits_one_position() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 1, 3), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(1, 4)
    )
    made = torch.randn(8, 1, 6, 6), torch.arange(8) % 4
    found = probed(model, functional.cross_entropy, made, DFA(), diagnostics=NAMES).isel(layer=0)
    assert float(found["credit_field_true"]) == pytest.approx(1.0)
    assert float(found["credit_field"].sel(rule="dfa")) == pytest.approx(1.0)


def test_the_middle_position_sees_what_its_rows_of_the_dense_matrix_hold() -> None:
    model = to_maps()
    found = probed(model, functional.mse_loss, batch(), diagnostics=NAMES)
    stream = torch.Generator().manual_seed(0)
    matrix = np.eye(2 * POSITIONS)
    for name, channels in (("0", 2), ("1", 6)):
        layer = model.get_submodule(name)
        matrix = unrolled(layer, layer.weight.detach(), (channels, POSITIONS)).numpy() @ matrix
        out = layer.out_channels
        stream.manual_seed(0)
        signs = 2.0 * torch.randint(0, 2, (out,), generator=stream).numpy() - 1.0
        rows = matrix.reshape(out, POSITIONS, 2, POSITIONS)[:, POSITIONS // 2]
        energy = (np.tensordot(signs, rows, 1) ** 2).sum(0)
        value = float(found["receptive_field"].sel(layer=name))
        assert value == pytest.approx(participation(energy))
        assert value <= {"0": 3, "1": 5}[name]


@pytest.mark.parametrize(
    ("name", "layer", "because"),
    [
        ("tanh", "0", "it has one position"),
        ("conv2d, grouped", "3", ""),
        ("overlapping pools", "7", "it is the output layer, whose error is exact"),
        ("positions", "first", ""),
        ("two heads", "first", "it has one position"),
    ],
)
def test_every_layer_has_numbers_or_a_reason(name: str, layer: str, because: str) -> None:
    made = CASES[name].make()
    layer = layer if name != "two heads" else next(iter(CASES[name].consumers))
    found = probed(made.model, made.loss, (made.x, made.y), DFA(), diagnostics=NAMES)
    text = ""
    if "not_defined" in found:
        text = str(found["not_defined"].sel(diagnostic=NAMES[0], layer=layer).item())
    assert because in text
    has_numbers = "credit_field" in found and bool(
        found["credit_field"].sel(layer=layer).notnull().all()
    )
    assert has_numbers == (not text)


def test_a_model_that_changes_its_input_in_place_has_receptive_fields_too() -> None:
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Conv1d(2, 3, 3), nn.Flatten(), nn.Linear(18, 3))
    x = torch.randn(6, 2, 8)
    found = probed(
        model, functional.cross_entropy, (x.clone(), torch.arange(6) % 3), diagnostics=NAMES
    )
    assert 1.0 <= float(found["receptive_field"].sel(layer="1")) <= 3.0

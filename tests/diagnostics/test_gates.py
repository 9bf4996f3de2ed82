"""Gates of networks, against derivatives written by hand; saturated and dead layers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor, nn
from torch.nn import functional

from tests.cases import CASES
from tests.diagnostics.probing import probed

LOSS = functional.cross_entropy
TABLE = ["gate_participation", "gate_size", "gate_closed", "units_dead", "units_always_on"]


class Swish(nn.Module):
    """An activation that is no operation of its own."""

    def forward(self, a: Tensor) -> Tensor:
        return a * torch.sigmoid(a)


def measured(*modules: nn.Module, n_samples: int = 30, shape: tuple[int, ...] = (6,)) -> xr.Dataset:
    stream = torch.Generator().manual_seed(1)
    x = torch.randn(n_samples, *shape, generator=stream, dtype=torch.float64)
    model = nn.Sequential(*modules).double()
    return probed(model, LOSS, (x, torch.arange(n_samples) % 3), diagnostics=["gates"])


def expected(gates: Tensor, largest: Tensor | float) -> list[float]:
    gates = gates.flatten(1)
    u = gates.square().mean(0)
    is_open = (gates.abs() >= 0.19 * largest) & (gates != 0)
    share = is_open.double().mean(0)
    return [
        float(u.sum() ** 2 / (len(u) * u.square().sum())),
        float(u.mean().sqrt()),
        float(1.0 - share.mean()),
        float((share < 0.05).double().mean()),
        float((share > 0.95).double().mean()),
    ]


def hidden(n_in: int = 6, n_out: int = 9) -> nn.Linear:
    torch.manual_seed(0)
    layer = nn.Linear(n_in, n_out).double()
    with torch.no_grad():
        layer.weight.mul_(3.0)
    return layer


def batch(n_samples: int = 30, shape: tuple[int, ...] = (6,)) -> Tensor:
    stream = torch.Generator().manual_seed(1)
    return torch.randn(n_samples, *shape, generator=stream, dtype=torch.float64)


def derivative(function: Callable[[Tensor], Tensor], a: Tensor) -> Tensor:
    a = a.detach().requires_grad_()
    return torch.autograd.grad(function(a).sum(), a)[0]


@pytest.mark.parametrize(
    ("activation", "largest"),
    [
        (nn.ReLU(), 1.0),
        (nn.Tanh(), 1.0),
        (nn.Sigmoid(), 0.25),
        (nn.Hardtanh(), 1.0),
        (nn.Hardsigmoid(), 1 / 6),
        (nn.LeakyReLU(0.01), 1.0),
        (nn.LeakyReLU(3.0), 3.0),
        (nn.ELU(2.0), 2.0),
        (nn.SELU(), 1.0507 * 1.6733),
        (nn.GELU(), 1.1289),
        (nn.SiLU(), 1.0998),
        (nn.Softplus(), 1.0),
        (nn.Mish(), 1.0885),
        (nn.Hardswish(), 1.5),
        (nn.ReLU6(), 1.0),
        (nn.LogSigmoid(), 1.0),
    ],
    ids=lambda given: type(given).__name__ if isinstance(given, nn.Module) else str(given),
)
def test_gates_are_derivatives_of_the_activation(activation: nn.Module, largest: float) -> None:
    layer = hidden()
    found = measured(layer, activation, nn.Linear(9, 3)).sel(layer="0")
    gates = derivative(activation, layer(batch()))
    np.testing.assert_allclose([found[name].item() for name in TABLE], expected(gates, largest))
    assert found["gate_largest"].item() == pytest.approx(largest, rel=1e-3)
    grid = torch.linspace(-12.0, 12.0, 200_000, dtype=torch.float64)
    bound = derivative(activation, grid).abs().max().item()
    assert found["gate_largest"].item() == pytest.approx(bound, rel=1e-3)


def test_what_is_no_operation_of_its_own_is_held_against_the_unit_itself() -> None:
    layer, activation = hidden(), Swish()
    found = measured(layer, activation, nn.Linear(9, 3)).sel(layer="0")
    gates = derivative(activation, layer(batch()))
    largest = gates.abs().amax(0, keepdim=True)
    np.testing.assert_allclose([found[name].item() for name in TABLE], expected(gates, largest))
    assert "gate_largest" not in found


def test_normalisation_pooling_and_dropout_leave_the_gates_of_the_activation() -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.MaxPool2d(2), nn.Dropout(0.4)]
    rest = [nn.Flatten(), nn.Linear(16, 3)]
    found = measured(*layers, *rest, shape=(1, 6, 6)).sel(layer="0")
    a = layers[1](layers[0](batch(shape=(1, 6, 6))))
    gates = 1.0 - torch.tanh(a.detach()).square()
    np.testing.assert_allclose([found[name].item() for name in TABLE], expected(gates, 1.0))


def test_units_that_mix_have_no_gates() -> None:
    # Half of the units open the others: each hands on to one, by a gain.
    layer = hidden(6, 8)
    found = measured(layer, nn.GLU(), nn.Linear(4, 3)).sel(layer="0")
    first, second = layer(batch()).detach().chunk(2, 1)
    opening = torch.sigmoid(second)
    gates = torch.cat([opening, first * opening * (1.0 - opening)], 1)
    largest = gates.abs().amax(0, keepdim=True)
    np.testing.assert_allclose([found[name].item() for name in TABLE], expected(gates, largest))
    mixed = measured(hidden(), nn.Softmax(1), nn.Linear(9, 3))
    assert "no gain per unit" in str(mixed["not_defined"].sel(layer="0").item())


def test_layers_without_an_activation_pass_everything() -> None:
    found = measured(hidden(), nn.Linear(9, 5), nn.Linear(5, 3)).isel(layer=slice(0, 2))
    assert found["gate_participation"].values == pytest.approx([1.0, 1.0])
    assert found["gate_closed"].values.tolist() == [0.0, 0.0]
    assert found["units_always_on"].values.tolist() == [1.0, 1.0]


def test_units_that_open_at_random_participate_by_the_number_of_samples() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(6, 4000, bias=False)
    found = measured(layer, nn.ReLU(), nn.Linear(4000, 3), n_samples=15).sel(layer="0")
    assert found["gate_participation"].item() == pytest.approx(15 / 16, abs=0.02)
    assert found["gate_closed"].item() == pytest.approx(0.5, abs=0.05)


def test_saturation_closes_gates_that_were_open() -> None:
    def with_scale(scale: float) -> xr.Dataset:
        layer = hidden()
        with torch.no_grad():
            layer.weight.mul_(scale)
        return measured(layer, nn.Tanh(), nn.Linear(9, 3)).sel(layer="0")

    healthy, saturated = with_scale(0.1), with_scale(300.0)
    assert healthy["gate_closed"].item() < 0.05
    assert healthy["gate_participation"].item() > 0.9
    assert saturated["gate_closed"].item() > 0.95
    assert saturated["units_dead"].item() > 0.5
    assert saturated["gate_size"].item() < 0.2


def test_all_units_saturated_alike_are_not_open_against_each_other() -> None:
    layer = hidden()
    with torch.no_grad():
        layer.weight.mul_(0.01)
        layer.bias.fill_(4.0)
    found = measured(layer, nn.Tanh(), nn.Linear(9, 3)).sel(layer="0")
    assert found["gate_closed"].item() == 1.0
    assert found["units_dead"].item() == 1.0
    # Participation alone cannot tell: all units pass as little.
    assert found["gate_participation"].item() > 0.5
    assert found["gate_size"].item() < 0.01


def test_a_layer_that_passes_nothing_has_no_participation_and_says_why() -> None:
    layer = hidden()
    with torch.no_grad():
        layer.bias.fill_(-1000.0)
    found = measured(layer, nn.ReLU(), nn.Linear(9, 3)).sel(layer="0")
    assert np.isnan(found["gate_participation"].item())
    assert (found["units_dead"].item(), found["gate_size"].item()) == (1.0, 0.0)
    assert "none of its units passes anything" in str(found["not_defined"].item())


@pytest.mark.parametrize("name", ["residual", "attention", "lstm", "overlapping pools", "mixer"])
def test_every_layer_of_any_network_has_gates_or_a_reason(name: str) -> None:
    made = CASES[name].make()
    found = probed(made.model, made.loss, (made.x, made.y), diagnostics=["gates"])
    for layer in found["layer"].values:
        here = found.sel(layer=layer)
        reason = str(here["not_defined"].sel(diagnostic="gates").item())
        assert np.isfinite(here["gate_size"].item()) == (reason == ""), layer

"""Signals that vanish have the chance level of signals that do not, or no direction at all."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor, nn
from torch.nn import functional as F

from alignlab import Probe
from alignlab.diagnostics._presets import PRESETS
from alignlab.rules import DFA, FA
from tests.cases import CASES

ALIGNMENTS = ("cosine_error_signal", "cosine_error_signal_flat", "cosine_weight_gradient")


class Gated(nn.Module):
    """A network in which a factor of each sample scales what comes back to its lower layers."""

    def __init__(self, *, early: bool) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(6, 40), nn.Linear(40, 30), nn.Linear(30, 5)
        self.early = early

    def forward(self, x: Tensor) -> Tensor:
        x, gate = x[:, :6], x[:, 6:]
        h = torch.tanh(self.first(x)) * (gate if self.early else 1.0)
        result: Tensor = self.last(torch.tanh(self.second(h)) * (1.0 if self.early else gate))
        return result


def measured(model: nn.Module, x: Tensor, y: Tensor) -> xr.Dataset:
    chosen = ["error-signal", "weight-gradient"]
    with Probe(model, F.cross_entropy, rules=[DFA()], draws=32, diagnostics=chosen) as probe:
        return probe.measure(x, y).isel(step=0, rule=0)


def batch(gates: Tensor) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    x = torch.randn(len(gates), 6)
    return torch.cat([x, gates[:, None]], 1), torch.arange(len(gates)) % 5


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("powers", [(0, 0), (0, 20), (10, 30), (25, 33), (33, 33)])
def test_chance_levels_are_those_of_double_precision(
    powers: tuple[int, int], *, early: bool
) -> None:
    torch.manual_seed(0)
    model = Gated(early=early)
    least, most = powers
    x, y = batch(10.0 ** -(least + (most - least) * torch.rand(150)))
    single, double = measured(model, x, y), measured(copy.deepcopy(model).double(), x.double(), y)
    for name in ALIGNMENTS:
        for suffix in ("", "_null_sd", "_null_low", "_n_undefined"):
            found, wanted = single[name + suffix].values, double[name + suffix].values
            np.testing.assert_allclose(found, wanted, rtol=2e-3, atol=1e-5, err_msg=name + suffix)
        np.testing.assert_array_equal(
            single[f"{name}_null_method"].values, double[f"{name}_null_method"].values
        )


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("gone", [0.0, 1e-40, 1e-43])
def test_samples_whose_signal_lost_its_digits_are_counted_as_undefined(
    gone: float, *, early: bool
) -> None:
    torch.manual_seed(0)
    model = Gated(early=early)
    gates = 10.0 ** -(10.0 * torch.rand(120))
    is_gone = torch.arange(120) % 6 == 5
    x, y = batch(torch.where(is_gone, gone, gates))
    found, wanted = measured(model, x, y), measured(model, x[~is_gone], y[~is_gone])
    site = "preactivation"
    for ds, number in ((found, 20), (wanted, 0)):
        there = ds.sel(layer="first", site=site)
        assert there["cosine_error_signal_n_undefined"].item() == number
        assert there["cosine_error_signal_null_sd"].item() == pytest.approx(
            wanted["cosine_error_signal_null_sd"].sel(layer="first", site=site).item(), rel=0.02
        )


@dataclass(frozen=True)
class Silent(DFA):
    """Direct feedback that sends nothing of every other sample."""

    name: ClassVar[str] = "silent"

    def sent(self, error: Tensor, target: Any) -> Tensor:
        del target
        return error * (torch.arange(len(error)) % 2)[:, None]


def test_samples_of_which_nothing_is_sent_do_not_narrow_the_chance_level() -> None:
    torch.manual_seed(0)
    model, (x, y) = Gated(early=True), batch(torch.ones(120))
    with Probe(
        model, F.cross_entropy, rules=[Silent()], draws=32, diagnostics=["error-signal"]
    ) as probe:
        found = probe.measure(x, y).isel(step=0, rule=0).sel(layer="first")
    sent = measured(model, x[1::2], y[1::2]).sel(layer="first")
    assert (found["cosine_error_signal_n_undefined"] == 60).all()
    for name in ("cosine_error_signal_null_method", "cosine_error_signal_null_sd"):
        alone, beside = sent[name].values, found[name].values
        if alone.dtype.kind == "f":
            np.testing.assert_allclose(beside, alone, rtol=0.02)
        else:
            assert alone.tolist() == beside.tolist() == ["closed form", "closed form"]


def everything(name: str, scale: float, preset: str) -> xr.Dataset:
    batch = CASES[name].make(n_samples=24)
    with Probe(
        batch.model.eval(),
        lambda output, target: batch.loss(output, target) * scale,
        rules=[DFA(), FA()],
        draws=32,
        diagnostics=PRESETS.get(preset),
    ) as probe:
        return probe.measure(batch.x, batch.y)


@pytest.mark.parametrize("scale", [2.0**-83, 2.0**40])
@pytest.mark.parametrize(
    ("name", "preset"),
    [
        ("tanh", "core"),
        ("residual", "core"),
        pytest.param("tanh", "full", marks=pytest.mark.slow),
        pytest.param("conv2d, grouped", "full", marks=pytest.mark.slow),
        pytest.param("residual", "full", marks=pytest.mark.slow),
    ],
)
def test_a_loss_in_other_units_changes_no_number_but_those_in_its_units(
    name: str, preset: str, scale: float
) -> None:
    plain, scaled = everything(name, 1.0, preset), everything(name, scale, preset)
    assert set(plain.data_vars) == set(scaled.data_vars)
    for variable in plain.data_vars:
        wanted, found = plain[variable].values, scaled[variable].values
        if wanted.dtype.kind != "f":
            np.testing.assert_array_equal(found, wanted, err_msg=str(variable))
        else:
            powers = (0.0, 1.0, 2.0, -1.0, -2.0, 0.5, -0.5)
            agree = [
                np.allclose(found / scale**power, wanted, rtol=1e-5, atol=0.0, equal_nan=True)
                for power in powers
            ]
            assert any(agree), variable

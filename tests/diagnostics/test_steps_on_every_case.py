"""Diagnostics that take steps or look back: on every kind of network, and nothing left behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from alignlab.probe import Probe
from alignlab.recording import validate
from alignlab.rules import BP, DFA, Displacement, ForwardGradient
from alignlab.snapshot import MeasuredRule
from tests.case import Batch
from tests.cases import CASES
from tests.oracles.state import state_of

BY_LAYER = {
    "loss-change-parts": "loss_change_alone_true",
    "real-step": "real_step_cosine",
    "nudging": "nudge_weight_true",
    "oracle-substitution": "oracle_gain",
    "momentum-averaging": "momentum_cosine",
    "staleness": "staleness_cosine",
}


def measured(batch: Batch, *, around: Callable[[], Any] | None = None) -> xr.Dataset:
    before = {n: p.detach().clone() for n, p in batch.model.named_parameters()}
    stream = torch.Generator().manual_seed(1)
    after = {n: p + 0.01 * torch.randn(p.shape, generator=stream) for n, p in before.items()}
    way = MeasuredRule(Displacement(), Displacement.between(before, after), "observed")
    probe = Probe(
        *(batch.model, batch.loss),
        rules=[DFA(), BP(), ForwardGradient(), way],
        diagnostics=["loss-change", *BY_LAYER],
        draws=32,
        earlier={"before": {**batch.model.state_dict(), **after}},
    )
    if around is None:
        return probe.measure(batch.x, batch.y)
    with around():
        return probe.measure(batch.x, batch.y)


OFTEN = (
    *("tanh", "residual", "dropout", "reused", "tied", "counting", "frozen", "positions"),
    *("conv2d, transposed", "attention", "lstm", "weight norm", "recomputed, reentrant"),
)
"""Cases that are tried every time; all are where there is time."""


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in OFTEN else pytest.mark.slow) for name in CASES],
)
def test_every_layer_has_a_number_or_a_reason(name: str) -> None:
    batch = CASES[name].make()
    before = state_of(batch)
    found = measured(batch)
    assert state_of(batch) == before
    validate(found)
    found = found.isel(step=0)
    texts = found.get("not_defined")
    for diagnostic, variable in BY_LAYER.items():
        rest = [dim for dim in found[variable].dims if dim != "layer"]
        has_number = np.isfinite(found[variable]).any(rest)
        for layer in found["layer"].values:
            is_told = (
                texts is not None
                and diagnostic in texts["diagnostic"]
                and bool(texts.sel(diagnostic=diagnostic, layer=layer).item())
            )
            assert bool(has_number.sel(layer=layer)) or is_told, (diagnostic, layer)
    for variable in ("loss_change_actual", "loss_change_second_order", "oracle_direction"):
        assert np.isfinite(found[variable].sel(rule=["dfa", "bp"])).all(), variable
    assert np.isfinite(found["real_step_actual"].sel(rule="displacement"))


class Syncs(TorchDispatchMode):
    """Counts how often a value is waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += "_local_scalar_dense" in str(func)
        return func(*args, **(kwargs or {}))


def deep(n_layers: int) -> Batch:
    torch.manual_seed(0)
    body = [each for _ in range(n_layers) for each in (nn.Linear(6, 6), nn.Tanh())]
    model = nn.Sequential(*body, nn.Linear(6, 3))
    return Batch(model, functional.cross_entropy, torch.randn(8, 6), torch.arange(8) % 3)


def test_the_host_waits_as_often_for_deep_networks_as_for_shallow_ones() -> None:
    counts = []
    for n_layers in (2, 7):
        mode = Syncs()
        measured(deep(n_layers), around=lambda mode=mode: mode)
        counts.append(mode.count)
    assert counts[0] == counts[1]


@pytest.mark.parametrize("name", ["tanh", "residual", "dropout"])
def test_models_in_less_than_float32_are_measured_in_it(name: str) -> None:
    batch = CASES[name].make(dtype=torch.bfloat16)
    batch.model.eval()
    found = measured(batch).isel(step=0)
    for variable in ("loss_change_second_order_true", "oracle_direction"):
        assert np.isfinite(found[variable]).any()
    assert found["loss_change_actual_true"].item() < 0

"""Every diagnostic where there is next to nothing to measure: no crash, no infinity, no excess."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn
from torch.nn import functional

from alignlab.plugins import load, names
from alignlab.probe import Probe
from alignlab.recording.schema import Variable, companions
from alignlab.rules import DFA, FA, ForwardGradient
from tests.case import Batch

MAY_BE_INFINITE = ("_condition", "_condition_chance")
"""Ends of the names of condition numbers: those of singular matrices are infinite."""


def declared() -> dict[str, Variable]:
    found = {}
    for name in names("alignlab.diagnostics"):
        diagnostic = load("alignlab.diagnostics", name)
        assert isinstance(diagnostic, type)
        for variable in diagnostic.variables:
            found |= {each.name: each for each in (variable, *companions(variable))}
    return found


def perceptron(dead: int | None = None) -> nn.Sequential:
    torch.manual_seed(1)
    layers = [nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 3)]
    if dead is not None:
        layers[dead].bias.data -= 100.0  # type: ignore[operator, union-attr]
    return nn.Sequential(*layers).double()


def batch(model: nn.Module, *, n_samples: int = 24) -> Batch:
    x = torch.randn(n_samples, 5, generator=torch.Generator().manual_seed(0)).double()
    return Batch(model, functional.cross_entropy, x, torch.arange(n_samples) % 3)


def alike() -> Batch:
    found = batch(perceptron())
    return Batch(found.model, found.loss, found.x[:1].expand(24, 5).contiguous(), 0 * found.y)


def fitted() -> Batch:
    found = batch(perceptron())
    return Batch(found.model, functional.mse_loss, found.x, found.model(found.x).detach())


CASES: dict[str, Callable[[], Batch]] = {
    "one sample": lambda: batch(perceptron(), n_samples=1),
    "samples that are all the same": alike,
    "first layer dead": lambda: batch(perceptron(dead=0)),
    "second layer dead": lambda: batch(perceptron(dead=2)),
    "no error": fitted,
}


def everything(given: Batch) -> xr.Dataset:
    earlier = copy.deepcopy(given.model)
    with torch.no_grad():
        for parameter in earlier.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    with Probe(
        *(given.model, given.loss),
        rules=[DFA(seed=0), FA(seed=0), ForwardGradient(seed=0)],
        draws=32,
        earlier={"initial": earlier.state_dict()},
        twin=earlier,
    ) as probe:
        return probe.measure(given.x, given.y).isel(step=0)


@pytest.mark.parametrize("case", CASES)
def test_every_number_is_finite_and_within_its_range(case: str) -> None:
    recording, known = everything(CASES[case]()), declared()
    for name, found in recording.data_vars.items():
        if str(name) not in known or found.dtype == object:
            continue
        values = found.values[~np.isnan(found.values)]
        if not str(name).endswith(MAY_BE_INFINITE):
            assert np.isfinite(values).all(), name
        low, high = known[str(name)].valid
        assert low is None or (values >= low).all(), name
        assert high is None or (values <= high).all(), name

"""What holds of all diagnostics of weights and Jacobians: words for gaps, no waits by layer."""

from __future__ import annotations

import copy
from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from alignlab.plugins import load
from alignlab.probe import Probe
from alignlab.recording import validate
from alignlab.rules import DFA, FA
from tests.benchmarks._counting import counted
from tests.cases import CASES

READ_ALONE = (
    *("weight-feedback", "alignment-matrix", "conserved-quantity", "feedback-readout"),
    *("jacobian-alignment", "jacobian-rank"),
)
NAMES = (*READ_ALONE, "gauss-newton")


@pytest.mark.parametrize(
    "name",
    [
        *("conv2d, circular", "conv1d, transposed", "batch norm, training", "residual"),
        *("positions", "reused", "two heads", "fields", "attention", "recomputed"),
    ],
)
def test_every_layer_has_a_number_or_a_reason(name: str) -> None:
    case = CASES[name]
    made = case.make()
    rules = [DFA(), FA()] if case.is_replaceable else [DFA()]
    initial = copy.deepcopy(made.model.state_dict())
    with Probe(
        made.model, made.loss, rules=rules, diagnostics=NAMES, draws=32,
        earlier={"initial": initial},
    ) as probe:  # fmt: skip
        recording = probe.measure(made.x, made.y)
    validate(recording)
    found = recording.isel(step=0)
    texts = found["not_defined"]
    for diagnostic in NAMES:
        variables = [
            found[v.name]
            for v in load("alignlab.diagnostics", diagnostic).variables
            if v.name in found and "layer" in v.dims
        ]
        for layer in found["layer"].values:
            said = [v.sel(layer=layer) for v in variables]
            has = any(bool(np.any(v.notnull() & (v != ""))) for v in said)
            because = diagnostic in texts["diagnostic"] and str(
                texts.sel(diagnostic=diagnostic, layer=layer).values
            )
            assert has or because, (diagnostic, layer)


def waits(depth: int, names: tuple[str, ...]) -> Counter[str]:
    torch.manual_seed(0)
    hidden = [each for _ in range(depth) for each in (nn.Linear(6, 6), nn.ReLU())]
    model = nn.Sequential(*hidden, nn.Linear(6, 3))
    probe = Probe(
        model, functional.cross_entropy, rules=[DFA(), FA()], diagnostics=names, draws=32,
        earlier={"initial": copy.deepcopy(model.state_dict())},
    )  # fmt: skip
    with counted() as counts:
        probe.measure(torch.randn(12, 6), torch.arange(12) % 3)
    return counts.waits


@pytest.mark.parametrize("name", READ_ALONE)
def test_the_host_waits_as_often_for_a_deep_network_as_for_a_shallow_one(name: str) -> None:
    added = [waits(depth, (name,)) - waits(depth, ()) for depth in (2, 5)]
    assert added[0] == added[1]

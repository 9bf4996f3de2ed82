"""Reach, ranks and bottlenecks wait for the device as often for many layers as for few."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from alignlab.diagnostics._base import SnapshotDiagnostic
from alignlab.diagnostics._run import diagnostics_of
from alignlab.engine.capture import Capture
from alignlab.probe import Probe
from alignlab.rules import DFA, FA
from tests.benchmarks._counting import counted

NAMES = (
    "reach", "weight-gradient-reach", "recalibration-headroom", "effective-rank", "bottleneck"
)  # fmt: skip


def network(kind: str, depth: int) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for k in range(depth):
        if kind == "maps":
            layers += [nn.Conv2d(3 if k else 2, 3, 3, padding=1), nn.ReLU()]
        else:
            layers += [nn.Linear(5 if k else 6, 5), nn.ReLU()]
    if kind == "maps":
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(48, 3)), torch.randn(60, 2, 4, 4)
    return nn.Sequential(*layers, nn.Linear(5, 3)), torch.randn(60, 6)


def waits(name: str, kind: str, depth: int) -> dict[str, int]:
    model, x = network(kind, depth)
    y, loss, rules = torch.arange(60) % 3, functional.cross_entropy, [DFA(seed=0), FA(seed=0)]
    earlier = {"initial": copy.deepcopy(model.state_dict())}
    probe = Probe(model, loss, rules=rules, diagnostics=[name], draws=32, earlier=earlier)
    capture = Capture(model, loss, x, y)
    snapshot = probe._snapshot(capture, x, y, rules)
    diagnostic = diagnostics_of([name])[name]
    assert isinstance(diagnostic, SnapshotDiagnostic)
    with counted() as counts:
        list(diagnostic.measure(snapshot))
    capture.close()
    return dict(counts.waits)


@pytest.mark.parametrize("kind", ["units", "maps"])
@pytest.mark.parametrize("name", NAMES)
def test_no_layer_costs_a_wait_of_its_own(name: str, kind: str) -> None:
    assert waits(name, kind, 2) == waits(name, kind, 5)

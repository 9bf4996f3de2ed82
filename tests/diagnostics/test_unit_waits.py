"""Diagnostics of units and representations wait for the device as often whatever the depth."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from alignlab.probe import Probe
from alignlab.rules import DFA

WAITING = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)


class Counted(TorchDispatchMode):
    """Counts how often values are asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func in WAITING
        return func(*args, **(kwargs or {}))


def network(depth: int, *, shift: float = 0.0) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()]
    for _ in range(depth):
        layers += [nn.Conv2d(4, 4, 3, padding=1), nn.Tanh()]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, 3))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(shift)
    return model


def waits(name: str, depth: int) -> int:
    x: Tensor = torch.randn(12, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    probe = Probe(
        network(depth), functional.cross_entropy, rules=[DFA(seed=0)], diagnostics=[name],
        draws=32, earlier={"initial": network(depth, shift=0.1).state_dict()},
        twin=network(depth),
    )  # fmt: skip
    with probe, Counted() as counted:
        probe.measure(x, torch.arange(12) % 3)
    return counted.count


@pytest.mark.parametrize(
    "name",
    [
        *("common-mode", "gates", "drift", "residual-growth", "label-decodability"),
        *("representation-similarity", "input-weight-alignment", "unit-activity"),
    ],
)
def test_depth_makes_no_diagnostic_wait_more_often(name: str) -> None:
    assert waits(name, 2) == waits(name, 6)

"""Gradients of all layers' weights from signals: the sums of products over calls, in one walk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from alignlab.engine.capture import Capture
from alignlab.engine.graph import walk
from alignlab.models._parametrisation import parametrised

FEATURES, SAMPLES = 6, 5


class Repeated(nn.Module):
    """One layer that is called many times, read out in every step."""

    def __init__(self, steps: int, *, act: Callable[[Tensor], Tensor] = torch.tanh) -> None:
        super().__init__()
        self.again, self.out = nn.Linear(FEATURES, FEATURES), nn.Linear(FEATURES, 2)
        self.steps, self.act = steps, act

    def forward(self, x: Tensor) -> Tensor:
        outputs = []
        for _ in range(self.steps):
            x = self.act(self.again(x))
            outputs.append(self.out(x))
        return torch.stack(outputs, 1)


class Tied(nn.Module):
    """Two modules of one weight with biases of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(FEATURES, FEATURES), nn.Linear(FEATURES, FEATURES)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.second(torch.tanh(self.first(x)))
        return result


class Cached(nn.Module):
    """A computed weight that acts in all steps."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Repeated(3)
        parametrised(self.body, "ntk")

    def forward(self, x: Tensor) -> Tensor:
        with parametrize.cached():
            result: Tensor = self.body(x)
        return result


def frozen() -> nn.Module:
    model = Repeated(3)
    model.again.weight.requires_grad_(requires_grad=False)
    return model


def captured(model: nn.Module) -> Capture:
    x = torch.randn(SAMPLES, FEATURES, dtype=torch.float64)
    return Capture(model.double(), lambda output, _: output.square().mean(), x, None)


def straight() -> nn.Module:
    """A layer that reads itself at once: where a signal enters, another one comes down."""
    return Repeated(3, act=lambda x: x)


@pytest.mark.parametrize(
    "build", [lambda: Repeated(4), straight, Tied, Cached, frozen, lambda: Repeated(1)]
)
def test_they_are_products_of_signals_and_inputs_summed_over_calls(
    build: Callable[[], nn.Module],
) -> None:
    torch.manual_seed(0)
    capture = captured(build())
    signals = {
        layer.name: torch.randn(SAMPLES, *layer.shape, dtype=torch.float64)
        for layer in capture.layers
    }
    expected: dict[int, Tensor] = {}
    for layer in capture.layers:
        module, x, signal = capture.module_of(layer), capture.input_of(layer), signals[layer.name]
        weight, factor = module._parameters.get("weight"), 1.0
        if weight is None:
            weight, factor = module.parametrizations["weight"].original, FEATURES**-0.5
        for p, product in ((weight, factor * signal.T @ x), (module.bias, signal.sum(0))):
            expected[id(p)] = expected.get(id(p), 0.0) + product
    found = capture.local(signals).parameters
    learned = {n: p for n, p in capture.model.named_parameters() if p.requires_grad}
    assert set(found) == set(learned)
    for name, p in learned.items():
        torch.testing.assert_close(found[name], expected[id(p)], rtol=1e-12, atol=1e-12)


def test_no_part_of_a_recurrence_is_walked_through_twice() -> None:
    torch.manual_seed(0)
    capture = captured(Repeated(30))
    signals = {layer.name: torch.randn(SAMPLES, *layer.shape).double() for layer in capture.layers}
    runs: Counter[object] = Counter()
    nodes = [node for node in walk(capture.loss.grad_fn, set()) if "Tanh" in node.name()]
    for node in nodes:
        node.register_hook(lambda *_, node=node: runs.update([node]))
    capture.local(signals)
    assert len(nodes) == 30
    assert max(runs.values()) == 1

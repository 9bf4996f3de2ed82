"""Probing leaves model, batch, randomness and memory as they were, whatever happens."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from alignlab.diagnostics.loss_change import LossChange
from alignlab.diagnostics.weight_gradient import WeightGradient
from alignlab.engine.capture import Capture
from alignlab.errors import MeasurementError
from alignlab.probe import Probe
from alignlab.recording import validate
from alignlab.rules import BP, DFA, FA, USF
from tests.cases import CASES, Batch, Case, each_case
from tests.oracles.exact import assert_exact
from tests.oracles.signals import same_randomness, signals
from tests.oracles.state import state_of, touch

RULES = (BP(), DFA(), FA(), USF())


def touched(batch: Batch) -> Batch:
    touch(batch)
    return batch


def probe(batch: Batch, case: Case | None = None, **options: Any) -> Probe:
    rules = RULES if case is None or case.is_replaceable else RULES[:2]
    return Probe(batch.model, batch.loss, rules=rules, draws=32, **options)


QUICK = {
    *("functional relu", "relu in place", "frozen", "counting", "noisy", "two heads", "lstm"),
    *("own attention", "parallel", "recomputed", "spectral norm", "weight norm"),
    "leaky recurrence",
}
"""Cases of the quick run; it takes others in test_every_diagnostic, and the slow one takes all."""


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=name, marks=() if name in QUICK else pytest.mark.slow)
        for name, case in CASES.items()
    ],
)
def test_every_diagnostic_measures_every_case_and_leaves_it_as_it_was(case: Case) -> None:
    batch = touched(case.make())
    before = state_of(batch)
    with probe(batch, case) as each:
        recording = each.measure(batch.x, batch.y)
        assert state_of(batch) == before
    assert state_of(batch) == before
    validate(recording)
    assert_exact(recording)


class Failing(nn.Module):
    """Raises at its n-th call."""

    def __init__(self, model: nn.Module, call: int) -> None:
        super().__init__()
        self.model, self.left = model, [call]

    def forward(self, x: Tensor) -> Tensor:
        self.left[0] -= 1
        if self.left[0] == 0:
            self.model(x)
            msg = "out of order"
            raise ValueError(msg)
        return self.model(x)


@pytest.mark.parametrize("call", [1, 2, 3])
@pytest.mark.parametrize("name", ["noisy", "counting", "batch norm, training", "residual"])
def test_a_forward_pass_that_raises_leaves_everything_as_it_was(name: str, call: int) -> None:
    batch = touched(CASES[name].make())
    model = Failing(batch.model, call).train(batch.model.training)
    before = state_of(batch)
    with (
        Probe(model, batch.loss, rules=[DFA()], draws=32, diagnostics=["validity"]) as each,
        pytest.raises(ValueError, match="out of order"),
    ):
        each.measure(batch.x, batch.y)
    assert state_of(batch) == before


class Raising(nn.Module):
    """A layer's child that raises, so that the layer's hooks are open."""

    def forward(self, x: Tensor) -> Tensor:
        msg = "inside"
        raise ValueError(msg)


def test_a_layer_that_raises_between_its_hooks_keeps_none_of_them() -> None:
    batch = touched(CASES["tanh"].make())
    batch.model[2].forward = Raising().forward  # type: ignore[index]
    before = state_of(batch)
    for _ in range(2):
        with probe(batch) as each, pytest.raises(ValueError, match="inside"):
            each.measure(batch.x, batch.y)
        assert state_of(batch) == before


def test_a_loss_that_raises_leaves_everything_as_it_was() -> None:
    batch = touched(CASES["noisy"].make())
    before = state_of(batch)

    def loss(_: Tensor, __: Tensor) -> Tensor:
        msg = "no loss"
        raise ValueError(msg)

    with (
        Probe(batch.model, loss, rules=RULES, draws=32) as each,
        pytest.raises(ValueError, match="no loss"),
    ):
        each.measure(batch.x, batch.y)
    assert state_of(batch) == before


@pytest.mark.parametrize(("kind", "method"), [(LossChange, "measure"), (WeightGradient, "compare")])
def test_a_diagnostic_that_raises_leaves_everything_as_it_was(
    kind: type, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = touched(CASES["counting"].make())
    before = state_of(batch)

    def fail(*_: Any) -> Iterator[Any]:
        torch.rand(1)
        batch.model.seen += 1  # type: ignore[operator]
        msg = "no number"
        raise ValueError(msg)

    monkeypatch.setattr(kind, method, fail)
    with probe(batch) as each, pytest.raises(ValueError, match="no number"):
        each.measure(batch.x, batch.y)
    assert state_of(batch) == before


def test_what_the_loss_draws_is_drawn_again_alike_and_given_back() -> None:
    batch = touched(CASES["tanh"].make())
    seen: list[float] = []

    def noisy(output: Tensor, target: Tensor) -> Tensor:
        seen.append(float(torch.rand(())))
        return batch.loss(output, target) * (1.0 + seen[-1])

    before = state_of(batch)
    with Probe(batch.model, noisy, rules=[DFA()], draws=32, diagnostics=["validity"]) as each:
        recording = each.measure(batch.x, batch.y)
    assert state_of(batch) == before
    assert len(seen) > 2
    assert len(set(seen)) == 1
    assert recording["reference_check"].item() == "agrees"


def test_measuring_twice_gives_the_same_recording() -> None:
    batch = CASES["dropout"].make()
    with probe(batch, diagnostics=["error-signal"]) as each:
        first, second = (each.measure(batch.x, batch.y) for _ in range(2))
    assert first.identical(second)


@each_case
def test_probing_between_forward_and_backward_changes_no_gradient(case: Case) -> None:
    batch = case.make()
    expected = signals(batch).parameters
    with same_randomness():
        loss = batch.loss(batch.model(batch.x), batch.y)
    probe(batch, case, diagnostics=["validity"]).measure(batch.x, batch.y)
    loss.backward()
    for name, parameter in batch.model.named_parameters():
        if name in expected:
            assert parameter.grad is not None
            torch.testing.assert_close(parameter.grad, expected[name], atol=1e-6, rtol=1e-4)


def test_a_training_run_with_probing_is_the_run_without_it() -> None:
    def weights(probing: Callable[[Batch], object]) -> list[Tensor]:
        batch = CASES["batch norm of maps"].make()
        optimizer = torch.optim.SGD(batch.model.parameters(), lr=0.1, momentum=0.9)
        for _ in range(3):
            optimizer.zero_grad()
            batch.loss(batch.model(batch.x), batch.y).backward()
            probing(batch)
            optimizer.step()
            probing(batch)
        return [*batch.model.parameters(), *batch.model.buffers()]

    def probing(batch: Batch) -> None:
        probe(batch, diagnostics=["validity", "loss-change"]).measure(batch.x, batch.y)

    with_probe, without = weights(probing), weights(lambda _: None)
    assert all(torch.equal(a, b) for a, b in zip(with_probe, without, strict=True))


class Mark:
    """Something in a graph whose end can be seen."""


def living() -> int:
    """Return how many tensors there are."""
    gc.collect()
    return sum(issubclass(type(each), Tensor) for each in gc.get_objects())


def test_no_tensor_outlives_a_probing() -> None:
    batch = CASES["batch norm of maps"].make()
    counts = []
    for _ in range(3):
        probe(batch, diagnostics=["error-signal", "validity", "loss-change"]).measure(
            batch.x, batch.y
        )
        counts.append(living())
    assert counts[1] == counts[2]


@pytest.mark.parametrize("name", ["tanh", "relu in place", "positions", "counting", "residual"])
def test_the_graph_is_freed_when_a_capture_is_closed(name: str) -> None:
    batch = CASES[name].make()
    gc.collect()
    gc.disable()
    try:
        capture = Capture(batch.model, batch.loss, batch.x, batch.y)
        capture.reference(parameters=True)
        output = weakref.ref(capture.output)
        mark = Mark()
        node = capture.loss.grad_fn
        assert node is not None
        node.metadata["mark"] = mark
        marked = weakref.ref(mark)
        del mark, node
        capture.close()
        assert output() is None
        assert marked() is None
    finally:
        gc.enable()


def test_a_capture_that_is_refused_is_freed() -> None:
    batch = CASES["tanh"].make()
    seen: list[Any] = []

    def unreduced(output: Tensor, _: Tensor) -> Tensor:
        seen.append(weakref.ref(output))
        return output.square()

    with pytest.raises(MeasurementError, match="reduce it over the batch"):
        Capture(batch.model, unreduced, batch.x, batch.y)
    gc.collect()
    assert seen[0]() is None

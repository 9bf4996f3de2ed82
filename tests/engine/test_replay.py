"""Forward passes that are run again from where they differ give what whole ones give."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from alignlab.engine.capture import Capture
from alignlab.engine.replay import Replay, loss_of
from tests.cases import CASES, Case, each_case
from tests.oracles.state import state_of


def changed(parameter: Tensor, *, seed: int) -> Tensor:
    stream = torch.Generator().manual_seed(seed)
    noise = torch.randn(parameter.shape, generator=stream, dtype=torch.float64)
    return parameter.detach().double() + 0.1 * noise


@each_case
def test_a_run_with_one_parameter_changed_is_a_whole_forward_pass_with_it(case: Case) -> None:
    batch = case.make()
    capture = Capture(batch.model, batch.loss, batch.x, batch.y)
    precision = batch.x.dtype if batch.x.is_floating_point() else torch.float32
    replay = Replay(capture, precision=precision)
    assert torch.equal(replay.loss, capture.evaluate({}, precision=precision))
    for number, (name, parameter) in enumerate(batch.model.named_parameters()):
        values = {name: changed(parameter, seed=number)}
        expected = capture.evaluate(values, precision=precision)
        torch.testing.assert_close(replay.changed(values), expected, rtol=0, atol=0, msg=name)
    capture.close()


@pytest.mark.parametrize("name", ["tied", "reused", "residual", "dropout", "counting"])
def test_changes_begin_at_other_parameters_where_those_are_given(name: str) -> None:
    batch = CASES[name].make()
    capture = Capture(batch.model, batch.loss, batch.x, batch.y)
    base = {n: changed(p, seed=k) for k, (n, p) in enumerate(batch.model.named_parameters())}
    replay = Replay(capture, precision=torch.float32, parameters=base)
    assert torch.equal(replay.loss, capture.evaluate(base, precision=torch.float32))
    for number, (n, parameter) in enumerate(batch.model.named_parameters()):
        values = {n: changed(parameter, seed=100 + number)}
        expected = capture.evaluate(base | values, precision=torch.float32)
        assert torch.equal(replay.changed(values), expected), n
    capture.close()


@each_case
def test_nothing_remains_of_the_runs(case: Case) -> None:
    batch = case.make()
    before = state_of(batch)
    forwards = {name: vars(module).get("forward") for name, module in batch.model.named_modules()}
    capture = Capture(batch.model, batch.loss, batch.x, batch.y)
    replay = Replay(capture, precision=torch.float32)
    replay.changed({n: p.detach() * 1.1 for n, p in batch.model.named_parameters()})
    capture.close()
    assert state_of(batch) == before
    after = {name: vars(module).get("forward") for name, module in batch.model.named_modules()}
    assert after == forwards


def test_a_pre_activation_is_moved_by_what_is_added_to_it() -> None:
    batch = CASES["reused"].make(dtype=torch.float64)
    capture = Capture(batch.model, batch.loss, batch.x, batch.y)
    replay = Replay(capture, precision=torch.float64)
    by = torch.randn(8, 7, dtype=torch.float64)
    model = copy.deepcopy(batch.model)
    h = torch.tanh(model.again(torch.tanh(model.first(batch.x))))  # type: ignore[operator]
    h = torch.tanh(model.again(h) + by)  # type: ignore[operator]
    expected = batch.loss(model.last(h), batch.y)  # type: ignore[operator]
    torch.testing.assert_close(replay.changed(moved={"again@2": by}), expected.detach())
    capture.close()


@each_case
def test_moving_a_layer_has_the_slope_of_its_true_signal(case: Case) -> None:
    batch = case.make(dtype=torch.float64)
    capture = Capture(batch.model, batch.loss, batch.x, batch.y)
    true = capture.reference().preactivation
    replay = Replay(capture, precision=torch.float64)
    for layer in capture.layers:
        assert replay.can_move(layer)
        signal = true[layer.name]
        step = 1e-6 / float(signal.norm())
        ends = [replay.changed(moved={layer.name: sign * step * signal}) for sign in (1.0, -1.0)]
        slope = float(ends[0] - ends[1]) / (2 * step)
        assert slope == pytest.approx(float(signal.square().sum()), rel=2e-4), layer.name
    capture.close()


def test_layers_before_a_change_are_not_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = CASES["functional relu"].make()
    capture = Capture(batch.model, batch.loss, batch.x, batch.y)
    replay = Replay(capture, precision=torch.float32)
    computed = []
    plain = nn.Linear.forward

    def counted(module: nn.Linear, x: Tensor) -> Tensor:
        computed.append(module.out_features)
        return plain(module, x)

    monkeypatch.setattr(nn.Linear, "forward", counted)
    replay.changed({"second.bias": torch.zeros(5)})
    assert computed == [5, 3]
    capture.close()


class Functional(nn.Module):
    """Uses the weight of its last layer before that layer is called."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(nn.functional.linear(x, self.last.weight))
        return self.head(torch.tanh(self.last(torch.tanh(self.first(h)))))


def test_a_weight_that_acts_before_its_layer_changes_all_from_there_on() -> None:
    torch.manual_seed(0)
    model, x, y = Functional(), torch.randn(5, 6), torch.arange(5) % 3
    capture = Capture(model, nn.functional.cross_entropy, x, y)
    replay = Replay(capture, precision=torch.float32)
    values = {"last.weight": changed(model.last.weight, seed=0)}
    expected = capture.evaluate(values, precision=torch.float32)
    assert torch.equal(replay.changed(values), expected)
    assert not torch.equal(replay.loss, expected)
    capture.close()


class Peeking(nn.Module):
    """Runs itself once without a gradient, and again with what came out of that."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(6, 6), nn.LayerNorm(6), nn.Linear(6, 6)
        self.head = nn.Linear(6, 3)

    def body(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.norm(self.first(x))))

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            before = self.body(x)
        return self.head(torch.tanh(self.body(x) - before.mean(0)))


def test_calls_without_a_gradient_see_changed_parameters_too() -> None:
    torch.manual_seed(0)
    model, x, y = Peeking(), torch.randn(5, 6), torch.arange(5) % 3
    capture = Capture(model, nn.functional.cross_entropy, x, y)
    replay = Replay(capture, precision=torch.float32)
    for name, parameter in model.named_parameters():
        values = {name: changed(parameter, seed=0)}
        expected = capture.evaluate(values, precision=torch.float32)
        assert torch.equal(replay.changed(values), expected), name
    assert [replay.can_move(layer) for layer in capture.layers] == [False, False, True]
    capture.close()


class Branching(nn.Module):
    """A norm that acts first and is read last, blocks, and numbers that one module leaves."""

    def __init__(self) -> None:
        super().__init__()
        self.side = nn.LayerNorm(6)
        self.low, self.high = nn.Sequential(nn.Linear(6, 6), nn.Tanh()), nn.Linear(6, 6)
        self.noisy = nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.5))
        self.top, self.head = nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.5)), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        side = self.side(x)
        h = self.top(self.noisy(self.high(self.low(x))))
        return self.head(torch.tanh(h + side))


class Leaving(nn.Module):
    """Leaves a number for the loss of the whole."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 6)
        self.penalty: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.inner(x))
        self.penalty[:] = [h.square().mean()]
        return h


class Collecting(nn.Module):
    """Adds what its block has left."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.mid, self.head = Leaving(), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.mid(self.block(x))
        penalty = self.block.penalty.pop()
        return self.head(torch.tanh(h)) + penalty


class Elsewhere(Leaving):
    """Leaves it where no module is."""

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.inner(x))
        LEFT.append(h.square().mean())
        return h


LEFT: list[Tensor] = []


class CollectingElsewhere(Collecting):
    """Adds what was left there."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Elsewhere()

    def forward(self, x: Tensor) -> Tensor:
        h = self.mid(self.block(x))
        return self.head(torch.tanh(h)) + LEFT.pop()


@pytest.mark.parametrize("kind", [Branching, Collecting, CollectingElsewhere])
def test_blocks_are_given_again_only_where_that_is_all_they_do(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model, x, y = kind(), torch.randn(5, 6), torch.arange(5) % 3
    capture = Capture(model, nn.functional.cross_entropy, x, y)
    replay = Replay(capture, precision=torch.float32)
    for name, parameter in model.named_parameters():
        values = {name: changed(parameter, seed=0)}
        expected = capture.evaluate(values, precision=torch.float32)
        assert torch.equal(replay.changed(values), expected), name
    capture.close()


def test_blocks_before_a_change_do_not_run() -> None:
    torch.manual_seed(0)
    model, x, y = Branching(), torch.randn(5, 6), torch.arange(5) % 3
    capture = Capture(model, nn.functional.cross_entropy, x, y)
    replay = Replay(capture, precision=torch.float32)
    ran = []
    for name, module in model.named_modules():
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
    replay.changed({"head.bias": torch.zeros(3)})
    # Hooks of blocks run around what they return; those of what is inside do not.
    assert "low.0" not in ran
    assert "noisy.0" in ran
    capture.close()


@pytest.mark.parametrize("name", ["tanh", "two heads", "dictionary", "contrastive", "positions"])
def test_a_loss_in_float64_of_an_output_in_float32_resolves_smaller_changes(name: str) -> None:
    batch = CASES[name].make()
    capture = Capture(batch.model, batch.loss, batch.x, batch.y)
    plain = loss_of(capture, {}, precision=torch.float32)
    wide = loss_of(capture, {}, precision=torch.float32, loss_precision=torch.float64)
    exact = loss_of(capture, {}, precision=torch.float64)
    assert plain.dtype == torch.float32
    assert wide.dtype == torch.float64
    assert torch.equal(plain, capture.evaluate({}, precision=torch.float32))
    assert float(wide) == pytest.approx(float(exact), rel=1e-6)
    replay = Replay(capture, precision=torch.float32, loss_precision=torch.float64)
    assert torch.equal(replay.loss, wide)
    capture.close()

"""Steps of direct feedback in one backward pass: what an open graph yields, bit for bit."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alignlab.engine import one_pass
from alignlab.engine.attach import Call
from alignlab.engine.capture import Capture
from alignlab.errors import MeasurementError
from alignlab.feedback import as_tensor
from alignlab.learner import Learner
from alignlab.rules import BRSF, DFA, DRTP, FA, IFA, KP, USF, AlignAda, AlignZero, Stale, Task
from alignlab.rules._base import Rule, State


def chain() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8, bias=False), nn.LayerNorm(8)),
        *(nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 4)),
    )


def images() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3)),
        *(nn.ReLU(inplace=True), nn.Conv2d(3, 4, 2), nn.PReLU(4), nn.Flatten(), nn.Linear(8, 4)),
    )


def straight() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 4))


class Joined(nn.Module):
    """Two layers of which the entries are read twice: no tree."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 4)
        self.gain = nn.Parameter(torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x))
        result: Tensor = self.last(h + self.gain * torch.tanh(self.second(h)))
        return result


def batch(n_samples: int = 5) -> tuple[Tensor, Tensor]:
    return torch.randn(n_samples, 6), torch.arange(n_samples) % 4


def open_graph(model: nn.Module, rule: Rule, state: Any, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Return the rule's updates on a graph that is held open for it alone."""
    capture = Capture(model, F.cross_entropy, x, y)
    found = rule.updates(Task(capture, capture.reference()), state).parameters
    capture.close()
    return dict(found)


def stepped(learner: Learner, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    learner.model.zero_grad()
    learner.backward(x, y)
    named = learner.model.named_parameters()
    return {name: p.grad for name, p in named if p.grad is not None}


def require_equal(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    assert set(found) == set(wanted)
    for name, one in wanted.items():
        assert torch.equal(found[name], one), name


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return what is longer by one for every step that was one pass."""
    calls: list[int] = []
    inner = one_pass._gradients

    def gradients(*given: Any, **named: Any) -> dict[str, Tensor]:
        calls.append(1)
        return inner(*given, **named)

    monkeypatch.setattr(one_pass, "_gradients", gradients)
    return calls


@pytest.mark.parametrize(
    "rule", [DFA(), DFA(granularity="macro"), DFA(error="sign"), DFA(storage="seeded")]
)
@pytest.mark.parametrize(("build", "is_tree"), [(chain, True), (images, True), (Joined, False)])
def test_a_step_yields_what_an_open_graph_does(
    build: Callable[[], nn.Module], rule: DFA, counted: list[int], *, is_tree: bool
) -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"a": nn.Linear(6, 6), "b": build()})
    model.forward = lambda x: model["b"](torch.relu(model["a"](x)))  # type: ignore[assignment]
    learner = Learner(model, F.cross_entropy, rule)
    for n_samples in (5, 5, 3, 5):
        x, y = batch(n_samples)
        torch.manual_seed(n_samples)
        wanted = open_graph(model, rule, learner.state, x, y) if learner.state else None
        torch.manual_seed(n_samples)
        found = stepped(learner, x, y)
        if wanted is not None:
            require_equal(found, wanted)
        with torch.no_grad():
            for p in model.parameters():
                p.sub_(0.1 * p.grad)
    assert len(counted) == (3 if is_tree else 0)


@pytest.mark.parametrize("rule", [FA(), FA(distribution="sign"), USF(), BRSF(), KP()])
@pytest.mark.parametrize("build", [chain, images, Joined])
def test_a_step_by_other_weights_yields_what_an_open_graph_does(
    build: Callable[[], nn.Module], rule: Rule, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = build()
    learner = Learner(model, F.cross_entropy, rule)
    for number in range(3):
        x, y = batch()
        torch.manual_seed(number)
        capture = Capture(model, F.cross_entropy, x, y)
        true, state = capture.reference(), learner.state
        if not number or rule.is_derived:
            state = rule.at_step(number).start(capture, seed=0)
        wanted = rule.updates(Task(capture, true), state).parameters
        capture.close()
        torch.manual_seed(number)
        with monkeypatch.context() as patch:
            patch.setattr(Task, "__init__", _never)
            require_equal(stepped(learner, x, y), wanted)


@pytest.mark.parametrize(
    "rule",
    [AlignZero(), AlignAda(), AlignAda(derivative="current"), IFA(), Stale(rule=AlignZero())],
)
@pytest.mark.parametrize("build", [chain, images, Joined, straight])
def test_a_step_by_what_earlier_steps_found_yields_what_an_open_graph_does(
    build: Callable[[], nn.Module], rule: Rule
) -> None:
    torch.manual_seed(0)
    model = build()
    learner = Learner(model, F.cross_entropy, rule)
    for number in range(4):
        x, y = batch()
        before = copy.deepcopy(model.state_dict())
        try:
            torch.manual_seed(number)
            capture = Capture(model, F.cross_entropy, x, y)
            state = rule.start(capture, seed=0) if not number else learner.state
            wanted = rule.updates(Task(capture, capture.reference()), state).parameters
            capture.close()
        except MeasurementError:
            with pytest.raises(MeasurementError, match=rule.name):
                stepped(learner, x, y)
            return
        assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())
        torch.manual_seed(number)
        require_equal(stepped(learner, x, y), wanted)
        with torch.no_grad():
            for p in model.parameters():
                p.sub_(0.1 * p.grad)


def _never(*_: Any, **__: Any) -> None:
    pytest.fail("the true gradients were computed")


def _frozen(model: nn.Sequential) -> None:
    model[0].requires_grad_(requires_grad=False)


def _replaced(model: nn.Sequential) -> None:
    model[1] = nn.Sequential(nn.LayerNorm(8), nn.GELU())


def _new_weight(model: nn.Sequential) -> None:
    model[2].weight = nn.Parameter(torch.randn(8, 8))


def _evaluated(model: nn.Sequential) -> None:
    model.eval()


def _normalised(model: nn.Sequential) -> None:
    torch.nn.utils.parametrizations.weight_norm(model[2])


@pytest.mark.parametrize("change", [_frozen, _replaced, _new_weight, _evaluated, _normalised])
def test_a_model_that_changes_between_steps_is_looked_at_anew(
    change: Callable[[nn.Sequential], None],
) -> None:
    torch.manual_seed(1)
    model, (x, y) = chain(), batch()
    learner = Learner(model, F.cross_entropy, DFA())
    for _ in range(2):
        stepped(learner, x, y)
    change(model)
    for _ in range(2):
        torch.manual_seed(4)
        wanted = open_graph(model, learner.rule, learner.state, x, y)
        torch.manual_seed(4)
        require_equal(stepped(learner, x, y), wanted)


class _Exact(torch.autograd.Function):
    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient


class Turned(nn.Module):
    """A model that comes to do what no rule can be measured on."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 4)
        self.top = nn.Parameter(torch.eye(4))
        self.turn = ""

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x))
        if self.turn == "custom":
            h = _Exact.apply(h)  # type: ignore[no-untyped-call]
        a = self.last(h)
        if self.turn == "in place":
            h.data.zero_() if not h.requires_grad else h.mul_(2.0)
        return a @ self.top if self.turn == "behind" else a


@pytest.mark.parametrize(
    ("turn", "says"),
    [("custom", "custom autograd"), ("behind", "behind the last"), ("in place", "in place")],
)
def test_what_is_refused_at_first_is_refused_later(turn: str, says: str) -> None:
    torch.manual_seed(2)
    model, (x, y) = Turned(), batch()
    learner = Learner(model, F.cross_entropy, DFA())
    stepped(learner, x, y), stepped(learner, x, y)
    model.turn = turn
    for _ in range(2):
        with pytest.raises(MeasurementError, match=says):
            learner.backward(x, y)
    model.turn = ""
    require_equal(stepped(learner, x, y), open_graph(model, learner.rule, learner.state, x, y))


class Watched(nn.Module):
    """A model that looks at what arrives at an entry, and changes it."""

    def __init__(self, *, late: bool) -> None:
        super().__init__()
        self.late = late
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 4)
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x))
        if not self.late:
            h.register_hook(self.look)
        result: Tensor = self.last(h)
        if self.late:
            h.register_hook(self.look)
        return result

    def look(self, gradient: Tensor) -> Tensor:
        self.seen.append(gradient)
        return 2 * gradient


@pytest.mark.parametrize("late", [False, True])
def test_hooks_at_an_entry_see_what_is_sent(counted: list[int], *, late: bool) -> None:
    torch.manual_seed(3)
    model, (x, y) = Watched(late=late), batch()
    learner = Learner(model, F.cross_entropy, DFA())
    for _ in range(2):
        found = stepped(learner, x, y)
    require_equal(found, open_graph(model, learner.rule, learner.state, x, y))
    assert not counted


def test_a_buffer_that_changes_while_it_is_needed_is_kept() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 4)
            self.register_buffer("gain", torch.ones(8))

        def forward(self, x: Tensor) -> Tensor:
            h = torch.tanh(self.first(x)) * self.gain
            with torch.no_grad():
                self.gain.add_(0.5)
            result: Tensor = self.last(h)
            return result

    torch.manual_seed(4)
    model, (x, y) = Counting(), batch()
    learner = Learner(model, F.cross_entropy, DFA())
    stepped(learner, x, y)
    wanted = open_graph(model, learner.rule, learner.state, x, y)
    require_equal(stepped(learner, x, y), wanted)
    assert torch.equal(model.gain, torch.full((8,), 2.0))


class Faded(DFA):
    """Feedback that halves whenever the weights have moved."""

    def followed(
        self, state: State, before: Mapping[str, Tensor], after: Mapping[str, Tensor]
    ) -> State:
        del before, after
        return {name: 0.5 * as_tensor(each) for name, each in state.items()}


def test_feedback_that_follows_the_weights_follows_steps_of_one_pass(counted: list[int]) -> None:
    torch.manual_seed(8)
    model, (x, y) = chain().eval(), batch()
    learner = Learner(model, F.cross_entropy, Faded())
    sizes = []
    for _ in range(3):
        stepped(learner, x, y)
        assert learner.state is not None
        sizes.append(float(sum(as_tensor(each).norm() for each in learner.state.values())))
        with torch.no_grad():
            for p in model.parameters():
                p.sub_(0.1 * p.grad)
    assert len(counted) == 2
    assert sizes == pytest.approx([sizes[0], sizes[0] / 2, sizes[0] / 4])


def test_a_copy_of_a_learner_trains_its_own_model() -> None:
    torch.manual_seed(5)
    (x, y), learner = batch(), Learner(chain().eval(), F.cross_entropy, DFA())
    wanted = [stepped(learner, x, y) for _ in range(2)][-1]
    wanted = {name: one.clone() for name, one in wanted.items()}
    twin = copy.deepcopy(learner)
    learner.model.zero_grad()
    require_equal(stepped(twin, x, y), wanted)
    assert all(p.grad is None for p in learner.model.parameters())


@pytest.mark.parametrize("rule", [DFA(), FA(), DRTP()])
def test_gradients_lie_in_memory_of_their_own(rule: Rule) -> None:
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(6, 4), nn.Linear(4, 4, bias=False)
            self.one, self.two = nn.Parameter(torch.ones(1, 4)), nn.Parameter(torch.ones(1, 4))

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.last(torch.tanh(self.first(x)) + self.one + self.two)
            return result

    torch.manual_seed(6)
    learner, (x, y) = Learner(Shifted(), F.cross_entropy, rule), batch(1)
    for _ in range(2):
        found = stepped(learner, x, y)
        places = {one.untyped_storage().data_ptr() for one in found.values()}
        assert len(places) == len(found)
        assert all(not one.requires_grad for one in found.values())


@pytest.mark.parametrize("rule", [DFA(), FA()])
def test_the_graph_of_a_step_is_gone_after_it(rule: Rule) -> None:
    torch.manual_seed(7)
    learner, (x, y) = Learner(chain(), F.cross_entropy, rule), batch()
    stepped(learner, x, y)
    gc.collect()
    gc.disable()
    try:
        before = sum(type(each) is Call for each in gc.get_objects())
        stepped(learner, x, y)
        assert sum(type(each) is Call for each in gc.get_objects()) == before
    finally:
        gc.enable()

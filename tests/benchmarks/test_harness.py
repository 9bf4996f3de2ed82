"""The harness itself: orders, quartiles, checks, and counters of a step whose cost is known."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alignlab.models.mlp import MLP
from tests.benchmarks._counting import counted
from tests.benchmarks._harness import (
    Comparison,
    Quartiles,
    Timing,
    Variant,
    interleaved,
    quartiles,
    timed,
)
from tests.benchmarks._memory import LiveBytes, footprint, growth


@pytest.fixture(autouse=True, scope="module")
def _little_garbage_to_look_through() -> Iterator[None]:
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def nothing() -> None:
    """Spend no time."""


def replayed(seconds: dict[str, list[float]], played: list[str]):
    """Return steps that say their names, and a clock that reads times from a list."""
    left = {name: iter(values) for name, values in seconds.items()}
    steps = {name: (lambda name=name: played.append(name)) for name in seconds}

    def clock(step) -> float:
        step()
        return next(left[played[-1]])

    return steps, clock


def test_quartiles_are_those_of_the_sorted_values() -> None:
    assert quartiles([5.0, 1.0, 4.0, 2.0, 3.0]) == Quartiles(2.0, 3.0, 4.0)
    assert quartiles([1.0, 2.0]) == Quartiles(1.25, 1.5, 1.75)


def test_every_round_plays_every_step_once_in_an_order_of_its_own() -> None:
    names, played = ("a", "b", "c"), []
    seconds = {name: [float(n) for n in range(40)] for name in names}
    steps, clock = replayed(seconds, played)
    found = interleaved(steps, rounds=30, warmup=10, seed=1, clock=clock)
    orders = [tuple(played[start : start + 3]) for start in range(0, 120, 3)]
    assert all(sorted(order) == list(names) for order in orders)
    assert len(set(orders)) == 6
    assert found == {name: [float(n) for n in range(10, 40)] for name in names}
    again: list[str] = []
    steps, clock = replayed(seconds, again)
    interleaved(steps, rounds=30, warmup=10, seed=1, clock=clock)
    assert again == played


def test_ratios_are_paired_within_a_round() -> None:
    seconds = {"reference": [9.0, 1.0, 10.0, 100.0], "work": [9.0, 2.0, 30.0, 400.0]}
    steps, clock = replayed(seconds, [])
    comparison = Comparison(Variant(steps["reference"], nothing), Variant(steps["work"], nothing))
    found = timed(comparison, rounds=3, warmup=1, seed=0, clock=clock)
    assert found == Timing(Quartiles(2.5, 3.0, 3.5), reference=10.0, work=30.0, rounds=3)


@pytest.mark.parametrize("side", ["reference", "work"])
def test_what_computes_wrong_values_is_never_timed(side: str) -> None:
    def wrong() -> None:
        message = "The value is wrong."
        raise AssertionError(message)

    ran: list[str] = []
    variants = {
        name: Variant(lambda: ran.append("step"), wrong if name == side else nothing)
        for name in ("reference", "work")
    }
    with pytest.raises(AssertionError, match="The value is wrong"):
        timed(Comparison(**variants), rounds=1, warmup=0, seed=0)
    assert ran == []


def test_no_step_pays_for_the_garbage_of_another() -> None:
    enabled: list[bool] = []
    steps = {"a": lambda: enabled.append(gc.isenabled())}
    interleaved(steps, rounds=2, warmup=1, seed=0)
    assert enabled == [False] * 3
    assert gc.isenabled()


def training_step(model: nn.Module, n: int = 3):
    x, y = torch.randn(n, 5), torch.arange(n) % 2

    def step() -> None:
        model.zero_grad()
        F.cross_entropy(model(x), y).backward()

    return step


def test_a_training_step_of_a_multilayer_perceptron_launches_what_its_formulas_need() -> None:
    step = training_step(MLP(in_features=5, widths=(4, 6), classes=2))
    step()
    with counted() as counts:
        step()
    forward = Counter({"addmm": 3, "relu": 2, "_log_softmax": 1, "nll_loss_forward": 1})
    backward = {"ones_like": 1, "nll_loss_backward": 1, "_log_softmax_backward_data": 1}
    # A weight gradient and a bias gradient a layer; a signal below all layers but the first.
    backward |= {"mm": 3 + 2, "sum": 3, "threshold_backward": 2}
    expected = {f"aten.{name}": n for name, n in (forward + Counter(backward)).items()}
    assert dict(counts.launches) == expected
    assert counts.waits == Counter()


def test_views_and_allocations_launch_nothing() -> None:
    x = torch.randn(4, 6)
    with counted() as counts:
        x.view(24).reshape(2, 12).T[0].unsqueeze(0).expand(3, -1).detach()
        torch.empty(3).new_empty(2).resize_(5)
    assert counts.launches == Counter()


@pytest.mark.parametrize(
    ("wait", "name"),
    [
        (lambda x: x.sum().item(), "aten._local_scalar_dense"),
        (lambda x: bool((x > 0).any()), "aten._local_scalar_dense"),
        (lambda x: x[x > 0], "aten.index"),
        (lambda x: x.nonzero(), "aten.nonzero"),
        (lambda x: torch.equal(x, x), "aten.equal"),
        (lambda x: x.cpu(), "Tensor.cpu"),
        (lambda x: x.to("cpu"), "Tensor.to"),
        (lambda x: x.numpy(), "Tensor.numpy"),
        (lambda x: x.tolist(), "Tensor.tolist"),
    ],
)
def test_a_wait_of_the_host_is_found_in_forward_and_in_hooks_of_the_backward_pass(
    wait, name: str
) -> None:
    def notice(gradient: Tensor) -> None:
        wait(gradient)

    x = torch.randn(3, requires_grad=True)
    with counted() as counts:
        wait(x.detach())
        doubled = x * 2
        doubled.register_hook(notice)
        doubled.sum().backward()
    assert counts.waits == Counter({name: 2})


def test_what_does_not_wait_is_not_counted_as_a_wait() -> None:
    x = torch.randn(3)
    with counted() as counts:
        x.to(torch.float64)
        x.to(x.device)
        x.to(torch.ones(1, dtype=torch.float64))
        x.to("cpu", non_blocking=True)
        x[torch.tensor([0, 2])]
        torch.where(x > 0, x, 0.0)
    assert counts.waits == Counter()


def test_methods_of_tensors_are_put_back_after_counting() -> None:
    before = {name: getattr(Tensor, name) for name in ("cpu", "numpy", "tolist", "to")}
    with pytest.raises(ZeroDivisionError), counted():
        raise ZeroDivisionError
    assert {name: getattr(Tensor, name) for name in before} == before


def test_live_bytes_are_those_of_storages_that_are_still_held() -> None:
    outside = torch.ones(50)
    with LiveBytes() as found:
        a = torch.zeros(100)
        b = a * 2
        outside.add_(1)
        torch.empty_like(a, device="meta")
        assert (found.live, found.peak, found.count) == (800, 800, 2)
        view = b.view(10, 10)
        del b
        assert found.live == 800
        del view
        assert (found.live, found.peak, found.count) == (400, 800, 1)
        torch.add(outside[:10], 1, out=a.resize_(200)[:10])
        assert found.live == 800


def test_live_bytes_count_what_only_the_graph_holds() -> None:
    w = torch.ones(100, requires_grad=True)
    with LiveBytes() as found:
        y = w.exp().sin().sum()
        assert found.live == 400 + 4  # exp keeps its result, which sin needs too
        y.backward()
        assert found.live == 4 + 400  # the gradient


def test_the_footprint_of_a_step_is_its_peak_over_what_it_keeps() -> None:
    weight = nn.Parameter(torch.ones(1000))
    model = nn.Module()
    model.weight = weight
    held: list[Tensor] = []

    def step() -> None:
        model.zero_grad()
        if not held:
            held.append(torch.zeros(250))
        (weight * 2).sum().backward()

    found = footprint(step, model)
    assert found.kept == 1000
    # The gradient, and what the backward pass makes it from: the expanded one of the sum.
    assert 4000 <= found.peak <= 8008


def test_growth_is_what_every_step_leaves_behind() -> None:
    held: list[Tensor] = []
    found = growth(lambda: held.append(torch.zeros(10)), steps=100)
    assert (found.live, found.storages) == (90 * 40, 90)
    flat = growth(lambda: torch.zeros(10), steps=100)
    assert (flat.live, flat.storages) == (0, 0)

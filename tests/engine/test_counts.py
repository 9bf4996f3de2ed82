"""What observing a step costs a device: launches a site, and no wait of the host."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from alignlab.models.mlp import MLP
from alignlab.probe import Probe
from alignlab.rules import DFA, FA
from alignlab.rules._base import Rule
from alignlab.schedules import every
from tests.benchmarks._counting import Counts, counted

HIDDEN = 3
LEVELS = ("entry", "preactivation", "weight-gradient")


def network() -> nn.Module:
    """Return the multilayer perceptron of the benchmarks, thinner: it launches the same."""
    torch.manual_seed(0)
    return MLP(in_features=12, widths=(16,) * HIDDEN, classes=10)


def third(step: Callable[[], None]) -> Counts:
    """Return the counts of the third step, when all that is made once is made."""
    step()
    step()
    with counted() as counts:
        step()
    return counts


def plain(model: nn.Module) -> Callable[[], None]:
    x, y = torch.randn(8, 12), torch.arange(8)

    def step() -> None:
        model.zero_grad()
        F.cross_entropy(model(x), y).backward()

    return step


def observed(rules: Sequence[Rule], levels: Sequence[str], draws: int = 0) -> Callable[[], None]:
    model = network()
    training, steps = plain(model), iter(range(10))
    schedule: Any = {level: every(1) for level in levels}
    probe = Probe(model, F.cross_entropy, rules=rules, schedule=schedule, feedback_draws=draws)

    def step() -> None:
        with probe.observe(next(steps)):
            training()

    return step


@pytest.mark.parametrize("level", ["entry", "preactivation"])
def test_observing_direct_feedback_adds_at_most_six_launches_a_site(level: str) -> None:
    before = third(plain(network())).launches
    after = third(observed([DFA()], [level])).launches
    assert after - before, "Nothing was measured."
    assert after.total() - before.total() <= 6 * HIDDEN


@pytest.mark.parametrize("rules", [[DFA()], [FA()], [DFA(), FA()]], ids=["dfa", "fa", "both"])
@pytest.mark.parametrize("levels", [[level] for level in LEVELS] + [LEVELS], ids="+".join)
def test_the_host_waits_for_nothing(rules: list[Rule], levels: list[str]) -> None:
    assert third(observed(rules, levels)).waits == Counter()


def test_the_host_waits_for_nothing_when_feedback_is_drawn_again() -> None:
    assert third(observed([DFA()], ["entry"], draws=8)).waits == Counter()


def test_a_step_off_schedule_costs_what_a_plain_one_costs() -> None:
    model = network()
    training, steps = plain(model), iter(range(1, 10))
    schedule = {"entry": every(100), "preactivation": every(100)}
    probe = Probe(model, F.cross_entropy, rules=[DFA()], schedule=schedule)

    def step() -> None:
        with probe.observe(next(steps)):
            training()

    assert third(step).launches == third(plain(network())).launches

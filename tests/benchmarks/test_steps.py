"""What is timed is right before it is timed: checks that fail on wrong values."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional as F

from alignlab.models.mlp import MLP
from alignlab.rules import DFA, FA
from tests.benchmarks._expected import WEIGHTS, expected
from tests.benchmarks._steps import Observed, Plain
from tests.benchmarks.costs import count
from tests.cases import Batch

LEVELS = ("entry", "preactivation", "weight-gradient")


@pytest.fixture
def batch() -> Batch:
    torch.manual_seed(0)
    model = MLP(in_features=5, widths=(7, 6), classes=3)
    return Batch(model, F.cross_entropy, torch.randn(9, 5), torch.arange(9) % 3)


@pytest.fixture
def observed(batch: Batch) -> Observed:
    return Observed(batch, [DFA(), FA()], levels=LEVELS)


def test_what_is_expected_names_every_hidden_layer_at_every_level(batch: Batch) -> None:
    found = expected(batch, [DFA(), FA()], levels=LEVELS)
    assert {key[1:] for key in found} == {
        (rule, layer, site)
        for rule in ("dfa", "fa")
        for layer in ("fc1", "fc2")
        for site in ("entry", "preactivation", WEIGHTS)
    }
    # FA replaces W by another matrix, and the last hidden layer is the first to see it.
    assert abs(found["cosine_error_signal", "fa", "fc2", "entry"]) < 0.99


def test_a_probe_that_measures_rightly_passes(observed: Observed) -> None:
    observed.check()
    assert observed.steps == 1


@pytest.mark.parametrize(
    ("variable", "site"),
    [
        ("cosine_error_signal", "preactivation"),
        ("norm_ratio_error_signal", "entry"),
        ("cosine_weight_gradient", WEIGHTS),
    ],
)
@pytest.mark.parametrize("wrong", [lambda v: v + 1e-3, lambda _: float("nan")], ids=["off", "nan"])
def test_a_probe_that_measures_wrongly_is_never_timed(
    monkeypatch: pytest.MonkeyPatch,
    observed: Observed,
    variable: str,
    site: str,
    wrong: Callable[[float], float],
) -> None:
    right = Observed.alignments
    key = (variable, "dfa", "fc1", site)

    def changed(step: Observed) -> dict:
        values = right(step)
        return {**values, key: wrong(values[key])}

    monkeypatch.setattr(Observed, "alignments", changed)
    with pytest.raises(AssertionError, match=f"{variable}.*differ|differ.*{variable}"):
        observed.check()


def test_a_probe_that_leaves_a_site_out_is_never_timed(
    monkeypatch: pytest.MonkeyPatch, observed: Observed
) -> None:
    monkeypatch.setattr(Observed, "alignments", lambda _: {})
    with pytest.raises(AssertionError, match="Not measured"):
        observed.check()


def test_a_probe_that_changes_a_gradient_is_never_timed(
    monkeypatch: pytest.MonkeyPatch, batch: Batch, observed: Observed
) -> None:
    right = Observed.__call__

    def changing(step: Observed) -> None:
        right(step)
        batch.model.fc1.bias.grad[0] += 1e-6

    monkeypatch.setattr(Observed, "__call__", changing)
    with pytest.raises(AssertionError, match=r"changes the gradients of fc1\.bias"):
        observed.check()


def test_launches_and_waits_of_a_step_are_those_that_it_adds(batch: Batch) -> None:
    class Heavier(Plain):
        def __call__(self) -> None:
            super().__call__()
            self.batch.model.fc1.weight.grad.norm().mul(2.0).item()

    found = count("", Plain(batch), Heavier(batch), target=None)
    assert (found.observed - found.plain, found.sites, found.waits) == (2, 2, 1)

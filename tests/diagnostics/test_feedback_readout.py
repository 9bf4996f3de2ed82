"""Feedback as a classifier, against the same in plain numpy, and what a planted one shows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional

from alignlab.engine.capture import Capture
from alignlab.rules import DFA, FA
from alignlab.snapshot import MeasuredRule
from tests.diagnostics.probing import given_feedback, half_squared_error, probed

NAME = "feedback-readout"


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 2, 3), nn.Tanh()),
        *(nn.Flatten(), nn.Linear(8, 4)),
    ).double()


def batch() -> tuple[Tensor, Tensor]:
    stream = torch.Generator().manual_seed(1)
    return torch.randn(30, 1, 4, 4, generator=stream).double(), torch.arange(30) % 4


def test_accuracy_and_loss_are_those_of_the_activations_at_the_entries() -> None:
    rng = np.random.default_rng(0)
    given = {"0": rng.normal(size=(48, 4)), "2": rng.normal(size=(8, 4))}
    model, (x, y) = network(), batch()
    found = probed(
        *(model, functional.cross_entropy, (x, y), given_feedback(given)), diagnostics=[NAME]
    ).sel(rule="dfa")
    for layer, reader in (("0", 2), ("2", 5)):
        h = model[:reader](x).detach().numpy().reshape(30, -1)
        logits = h @ given[layer]
        right = (logits.argmax(1) == y.numpy()).mean()
        here = found.sel(layer=layer)
        assert float(here["feedback_readout_accuracy"]) == pytest.approx(right)
        shares = np.exp(logits - logits.max(1, keepdims=True))
        shares /= shares.sum(1, keepdims=True)
        loss = -np.log(shares[np.arange(30), y.numpy()]).mean()
        assert float(here["feedback_readout_loss"]) == pytest.approx(loss)
        for name in ("accuracy", "loss"):
            low, chance, high = (
                float(here[f"feedback_readout_{name}_{e}"]) for e in ("low", "chance", "high")
            )
            assert low <= chance <= high
    assert found["feedback_readout_accuracy"].sel(layer="5").isnull()
    assert "it is an output" in str(found["not_defined"].sel(layer="5").values[0])


def test_a_layer_that_holds_the_classes_is_read_out_by_feedback_of_the_right_sign_alone() -> None:
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.ReLU(), nn.Linear(3, 3)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(3))
    y = torch.arange(60) % 3
    noise = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    x = functional.one_hot(y, 3).double() + 0.05 * noise.double()
    found = {}
    for sign in (1.0, -1.0):
        rule = given_feedback({"0": sign * 5.0 * np.eye(3)})
        found[sign] = probed(
            *(model, functional.cross_entropy, (x, y), rule), diagnostics=[NAME], draws=99
        ).isel(rule=0, layer=0)
    right, wrong = found[1.0], found[-1.0]
    assert float(right["feedback_readout_accuracy"]) == 1.0
    assert float(right["feedback_readout_accuracy_p"]) < 0.25
    assert float(wrong["feedback_readout_accuracy"]) == 0.0
    assert float(wrong["feedback_readout_accuracy_p"]) == 1.0
    assert float(right["feedback_readout_loss"]) < 0.1 < float(wrong["feedback_readout_loss"])
    # The update takes the layer towards what its feedback reads out.
    assert float(right["feedback_readout_loss_p"]) <= 0.02


def test_training_by_direct_feedback_teaches_its_own_readout() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 20), nn.Tanh(), nn.Linear(20, 3)).double()
    y = torch.arange(90) % 3
    x = torch.randn(90, 8).double() + 2.0 * functional.one_hot(y, 8).double()
    feedback = torch.randn(20, 3).double()
    rule = given_feedback({"0": feedback.numpy()})

    def readout() -> tuple[float, float]:
        found = probed(model, functional.cross_entropy, (x, y), rule, diagnostics=[NAME], draws=99)
        here = found.isel(rule=0, layer=0)
        return float(here["feedback_readout_accuracy"]), float(here["feedback_readout_accuracy_p"])

    before = readout()
    with torch.no_grad():
        for _ in range(150):
            h = torch.tanh(model[0](x))
            error = (torch.softmax(model[2](h), 1) - functional.one_hot(y, 3)) / len(y)
            signal = error @ feedback.T * (1 - h**2)
            model[2].weight -= error.T @ h
            model[0].weight -= signal.T @ x
    after = readout()
    assert before[0] < 0.7
    assert after[0] > 0.8
    assert after[1] < 0.05


def test_fresh_feedback_has_uniform_p() -> None:
    model, data = network(), batch()
    capture = Capture(model, functional.cross_entropy, *data)
    layers = capture.injection_layers("micro")
    drawn = {seed: DFA().draw(layers, 4, seed=1000 + seed) for seed in range(100)}
    capture.close()
    rules = [MeasuredRule(DFA(), b, "checkpoint", f"dfa {seed}") for seed, b in drawn.items()]
    found = probed(model, functional.cross_entropy, data, *rules, diagnostics=[NAME], draws=60)
    # All rules are held against the same 60 redraws: a test of two samples of 100 and 60.
    bound = 1.63 * ((100 + 60) / (100 * 60)) ** 0.5
    for layer in ("0", "2"):
        here = found.sel(layer=layer)
        p = here["feedback_readout_loss_p"].values
        assert stats.kstest(p, "uniform").statistic < bound
        # Accuracies tie, which makes p larger.
        p = here["feedback_readout_accuracy_p"].values
        assert stats.kstest(p, "uniform", alternative="greater").statistic < bound
        low, high = (here[f"feedback_readout_loss_{edge}"].values for edge in ("low", "high"))
        values = here["feedback_readout_loss"].values
        assert ((low <= values) & (values <= high)).mean() >= 0.8


def test_drawn_feedback_has_chance_alone() -> None:
    drawn = MeasuredRule(
        DFA(), {"0": torch.zeros(4, 3, 4, 4).double(), "2": torch.zeros(4, 2, 2, 2).double()},
        "drawn",
    )  # fmt: skip
    found = probed(network(), functional.cross_entropy, batch(), drawn, diagnostics=[NAME])
    assert "feedback_readout_accuracy" not in found
    chance = found["feedback_readout_accuracy_chance"].isel(rule=0).sel(layer="0")
    assert 0.05 < float(chance) < 0.5


def test_targets_without_classes_and_rules_without_direct_feedback_say_so() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    data = torch.randn(9, 4).double(), torch.randn(9, 3).double()
    found = probed(model, half_squared_error, data, DFA(), FA(), diagnostics=[NAME])
    assert "feedback_readout_accuracy" not in found
    assert found["feedback_readout_loss"].sel(rule="dfa", layer="0").notnull()
    text = str(found["not_defined"].sel(layer="0").values[0])
    assert "targets are not classes" in text
    assert "under fa because the rule has no direct feedback" in text


def test_a_loss_behind_the_output_layer_is_not_taken_for_that_of_a_readout() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3), nn.LogSoftmax(1))
    data = torch.randn(9, 4), torch.arange(9) % 3
    found = probed(model, functional.nll_loss, data, DFA(), diagnostics=[NAME])
    assert "feedback_readout_loss" not in found
    assert found["feedback_readout_accuracy"].sel(rule="dfa", layer="0").notnull()
    assert "does not return the pre-activation" in str(found["not_defined"].values)


class Turned(nn.Module):
    """Returns its outputs in another order than its last layer has them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(x))).flip(1)


def test_outputs_in_another_order_are_not_read_as_classes() -> None:
    data = torch.randn(9, 4), torch.arange(9) % 3
    found = probed(Turned(), functional.cross_entropy, data, DFA(), diagnostics=[NAME])
    assert "feedback_readout_accuracy" not in found
    assert "targets are not classes" in str(found["not_defined"].values)

"""Architectures on which other packages crash or mislead: right numbers or a refusal."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alignlab.errors import MeasurementError
from alignlab.rules import BP, DFA, FA
from tests.peers.measuring import (
    CLASSES,
    cosines,
    error,
    gradients,
    measured,
    network,
    same,
    vectors,
    with_feedback,
)


class Residual(nn.Module):
    """Two blocks with identity paths."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.fc0 = nn.Linear(6, 9)
        self.fc1 = nn.Linear(9, 9)
        self.fc2 = nn.Linear(9, 9)
        self.head = nn.Linear(9, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.fc0(x))
        x = x + torch.relu(self.fc1(x))
        x = x + torch.relu(self.fc2(x))
        logits: Tensor = self.head(x)
        return logits


def test_direct_feedback_past_identity_paths_is_each_layers_own() -> None:
    model, x = Residual(), vectors()
    rule = with_feedback(model, x)
    found = gradients(model, x, rule)
    e = error(model(x))
    hidden = torch.tanh(model.fc0(x)).detach()
    inner = model.fc1(hidden).detach()
    middle = hidden + inner.relu()
    signal0 = (e @ rule.feedback["fc0"]) * (1 - hidden.square())
    signal1 = (e @ rule.feedback["fc1"]) * (inner > 0)
    signal2 = (e @ rule.feedback["fc2"]) * (model.fc2(middle).detach() > 0)
    for name, signal, below in (
        *(("fc0", signal0, x), ("fc1", signal1, hidden), ("fc2", signal2, middle)),
    ):
        assert same(found.parameters[f"{name}.weight"], signal.T @ below, 1e-5)
    summed = e @ (rule.feedback["fc0"] + rule.feedback["fc1"] + rule.feedback["fc2"])
    assert not same(found.preactivation["fc0"], summed * (1 - hidden.square()), 0.1)


def test_a_grouped_convolution_takes_direct_feedback() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(4, 8, 3, groups=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 6, 3, groups=2, stride=2),
        nn.Flatten(),
        nn.Linear(24, CLASSES),
    )
    x = vectors(16, 4, 5, 5)
    rule = with_feedback(model, x)
    found = gradients(model, x, rule)
    first = model[0](x)
    signal = (error(model(x)) @ rule.feedback["0"].reshape(CLASSES, -1)).reshape(16, 8, 5, 5)
    expected = torch.autograd.grad(model[1](first), model[0].weight, signal)[0]
    assert same(found.parameters["0.weight"], expected, 1e-5)
    assert set(cosines(measured(model, x, rules=[rule]))) == {"0", "2", "4"}


class Tokens(nn.Module):
    """Linear layers on inputs of three axes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.embed = nn.Linear(6, 10)
        self.mix = nn.Linear(10, 10)
        self.head = nn.Linear(10, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.gelu(self.mix(torch.tanh(self.embed(x))))
        logits: Tensor = self.head(hidden.mean(1))
        return logits


def test_linear_layers_on_three_axes_take_direct_feedback() -> None:
    model, x = Tokens(), vectors(16, 5, 6)
    rule = with_feedback(model, x)
    assert rule.feedback["embed"].shape == (CLASSES, 5, 10)
    found = gradients(model, x, rule)
    hidden = torch.tanh(model.embed(x)).detach()
    signal = torch.einsum("nc,ctk->ntk", error(model(x)), rule.feedback["embed"])
    expected = torch.einsum("ntk,nti->ki", signal * (1 - hidden.square()), x)
    assert same(found.parameters["embed.weight"], expected, 1e-5)
    assert cosines(measured(model, x, rules=[rule]))["head"] == pytest.approx(1.0)


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(6, 2, batch_first=True)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.attend(x, x, x)[0].mean(1))
        return logits


def test_attention_below_the_only_layer_leaves_its_signal_exact() -> None:
    found = measured(Attending(), vectors(8, 5, 6))
    assert cosines(found)["head"] == pytest.approx(1.0)


class Reusing(nn.Module):
    """One activation for all layers, and one layer called twice."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.act = nn.ReLU(inplace=True)
        self.fc1 = nn.Linear(6, 12)
        self.fc2 = nn.Linear(12, 12)
        self.head = nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.act(self.fc1(x))
        hidden = self.act(self.fc2(hidden))
        logits: Tensor = self.head(self.act(self.fc2(hidden)))
        return logits


def test_each_call_of_a_layer_has_its_own_signal() -> None:
    model, x = Reusing(), vectors()
    rule = with_feedback(model, x)
    found = gradients(model, x, rule)
    assert set(found.preactivation) == {"fc1", "fc2", "fc2@2", "head"}
    e, hidden, signals, below = error(model(x)), x, {}, {}
    for name in ("fc1", "fc2", "fc2@2"):
        below[name] = hidden
        inside = getattr(model, name.partition("@")[0])(hidden).detach()
        signals[name] = (e @ rule.feedback[name]) * (inside > 0)
        hidden = inside.relu()
        assert same(found.preactivation[name], signals[name], 1e-5)
    shared = signals["fc2"].T @ below["fc2"] + signals["fc2@2"].T @ below["fc2@2"]
    assert same(found.parameters["fc2.weight"], shared, 1e-5)
    against_itself = cosines(measured(model, x, rules=[BP()]))
    assert list(against_itself.values()) == pytest.approx([1.0] * 4, abs=1e-9)


def test_a_compiled_model_is_measured_as_the_plain_one() -> None:
    model, x = network(), vectors()
    compiled = torch.compile(model, backend="eager")
    found = cosines(measured(compiled, x))
    rule = with_feedback(compiled, x)
    assert found == pytest.approx(cosines(measured(model, x, rules=[rule])), abs=1e-6)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("rule", [DFA(), FA()], ids=lambda r: r.name)
def test_mixed_precision_measures_what_full_precision_does(rule: Any) -> None:
    model, x = network(), vectors()
    expected = cosines(measured(model, x, rules=[rule]))
    with torch.autocast("cpu", torch.bfloat16):
        found = cosines(measured(model, x, rules=[rule]))
    assert found == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("rule", [DFA(), FA()], ids=lambda r: r.name)
def test_activation_checkpointing_gives_right_numbers_or_a_refusal(rule: Any) -> None:
    from torch.utils.checkpoint import checkpoint

    class Recomputing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = network()

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.body[:2](x)
            hidden = checkpoint(self.body[2:4], hidden, use_reentrant=False)
            logits: Tensor = self.body[4](hidden)
            return logits

    model, x = Recomputing(), vectors()
    plain = nn.Sequential()
    plain.add_module("body", network())
    expected = list(cosines(measured(plain, x, rules=[rule])).values())
    try:
        found = list(cosines(measured(model, x, rules=[rule])).values())
    except MeasurementError as refusal:
        assert "checkpointing" in str(refusal)  # noqa: PT017 - either outcome is right
    else:
        assert found == pytest.approx(expected, abs=1e-6)

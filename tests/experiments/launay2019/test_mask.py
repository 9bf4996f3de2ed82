"""The published bottleneck as rules, against autograd through a masked layer."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alignlab.engine.capture import Capture
from alignlab.experiments.launay2019._mask import MaskedDFA, PublishedBottleneck, mask
from alignlab.experiments.launay2019._networks import dense, drawn
from alignlab.experiments.launay2019._points import PublishedHead
from alignlab.experiments.launay2019._training import mean_cosine
from alignlab.rules import BP, DFA, Rule, Task, Updates

N, IN, WIDTH = 20, 12, 24
X = torch.randn(N, IN, generator=torch.Generator().manual_seed(5))
Y = torch.arange(N) % 10


def network() -> nn.Sequential:
    made = drawn(lambda: dense(IN, (WIDTH,) * 3), seed=3)
    assert isinstance(made, nn.Sequential)
    return made


def yielded(rule: Rule) -> tuple[Updates, Mapping[str, Tensor], Mapping[str, Tensor]]:
    """Return what a rule yields, its feedback, and the true signals at the entries."""
    capture = Capture(network(), F.cross_entropy, X, Y)
    try:
        true = capture.reference(parameters=True)
        state = rule.start(capture, seed=getattr(rule, "seed", 0))
        found = rule.updates(Task(capture, true), state)
        return found, {name: torch.as_tensor(one) for name, one in state.items()}, true.entry
    finally:
        capture.close()


def masked(kind: type[MaskedDFA], keep: float) -> MaskedDFA:
    return kind(seed=1, shared=True, scale=float(N), keep=keep, mask_seed=7)


def test_a_mask_that_keeps_all_is_plain_direct_feedback() -> None:
    found, _, _ = yielded(masked(MaskedDFA, 1.0))
    plain, _, _ = yielded(DFA(seed=1, shared=True, scale=float(N)))
    for name, update in plain.parameters.items():
        assert torch.equal(found.parameters[name], update), name


def test_only_the_masked_layer_loses_updates_and_it_keeps_its_share() -> None:
    found, _, _ = yielded(masked(MaskedDFA, 0.25))
    plain, _, _ = yielded(DFA(seed=1, shared=True, scale=float(N)))
    for name, update in plain.parameters.items():
        one = found.parameters[name]
        if not name.startswith("fc2"):
            assert torch.equal(one, update), name
            continue
        kept = one != 0
        assert torch.equal(one[kept], update[kept])
    share = float((found.parameters["fc2.weight"] != 0).float().mean())
    assert share == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / WIDTH**2) ** 0.5)
    for name in plain.entry:
        assert torch.equal(found.entry[name], plain.entry[name])


@pytest.mark.parametrize("keep", [0.3, 1.0])
def test_the_published_layer_below_learns_by_backpropagation_through_the_mask(keep: float) -> None:
    rule = masked(PublishedBottleneck, keep)
    found, state, _ = yielded(rule)
    net = network()
    h1 = net.act1(net.fc1(X))
    noise = mask(7, "signal", (N, WIDTH), keep)
    h1.register_hook(lambda gradient: gradient * noise)
    h2 = net.act2(net.fc2(h1))
    error = (net(X).softmax(1) - F.one_hot(Y, 10)).detach() / N
    (h2 * (error @ state["fc2"])).sum().backward()
    for name in ("fc1.weight", "fc1.bias"):
        torch.testing.assert_close(found.parameters[name], net.get_parameter(name).grad)
    for name in ("fc2.weight", "fc2.bias"):
        expected = net.get_parameter(name).grad
        assert expected is not None
        kept = mask(7, name, tuple(expected.shape), keep)
        torch.testing.assert_close(found.parameters[name], expected * kept)


def test_two_masks_take_the_cosine_to_their_share() -> None:
    rng = np.random.default_rng(0)
    signal = torch.tensor(rng.standard_normal((128, 4000)), dtype=torch.float32)
    other = signal + torch.tensor(rng.standard_normal((128, 4000)), dtype=torch.float32)
    whole = mean_cosine(signal, other)
    for keep in (0.5, 0.125):
        ours = PublishedBottleneck(keep=keep, mask_seed=1)
        first = signal * ours.of_shape("signal", signal)
        second = ours.twin_signals({"fc1": other}, seed=2)["fc1"]
        assert mean_cosine(first, second) / whole == pytest.approx(keep, abs=0.01)


def test_without_its_point_the_top_layer_learns_by_backpropagation_and_the_others_do_not() -> None:
    found, _, true = yielded(PublishedHead(seed=1, shared=True, missing="fc3"))
    plain, _, _ = yielded(DFA(seed=1, shared=True))
    exact, _, _ = yielded(BP())
    torch.testing.assert_close(found.parameters["fc3.weight"], exact.parameters["fc3.weight"])
    assert torch.equal(found.entry["fc3"], true["fc3"])
    for name in ("fc1.weight", "fc2.bias", "out.weight"):
        assert torch.equal(found.parameters[name], plain.parameters[name]), name

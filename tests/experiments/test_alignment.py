"""Alignment of deep networks against the definition, written out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from alignlab.experiments._alignment import (
    drawn,
    feedback_matrices,
    gradient_alignment,
    network,
    summed_cross_entropy,
    weight_alignment,
    weights_of,
)
from alignlab.experiments._deep_digits import feedback_rule
from alignlab.models.mlp import MLP
from alignlab.rules import DFA
from alignlab.snapshot import MeasuredRule

N = 7


def setup(activation: str = "tanh") -> tuple[MLP, MeasuredRule, Tensor, Tensor]:
    model = network((6, 9, 8, 4), activation=activation, seed=3).double()
    stream = torch.Generator().manual_seed(1)
    x = torch.randn(N, 6, generator=stream, dtype=torch.float64)
    y = torch.randint(4, (N,), generator=stream)
    return model, drawn(DFA(seed=5), model, x, y, seed=5), x, y


def by_hand(
    model: MLP, measured: MeasuredRule, x: Tensor, y: Tensor
) -> tuple[list[tuple[Tensor, Tensor]], Tensor, list[Tensor]]:
    """Return true and direct signals of both hidden layers of a tanh network, error, inputs."""
    w1, w2, w3 = (w.double() for w in weights_of(model))
    f1, f2 = (f.double() for f in feedback_matrices(measured))
    h1 = torch.tanh(x @ w1.T)
    h2 = torch.tanh(h1 @ w2.T)
    error = torch.softmax(h2 @ w3.T, 1) - F.one_hot(y, 4)
    true2 = error @ w3 * (1 - h2**2)
    true1 = true2 @ w2 * (1 - h1**2)
    pairs = [(true1, error @ f1.T * (1 - h1**2)), (true2, error @ f2.T * (1 - h2**2))]
    return pairs, error, [x, h1, h2]


def test_gradient_alignment_is_the_mean_cosine_of_samples_without_the_output() -> None:
    model, measured, x, y = setup()
    (found,) = gradient_alignment(model, summed_cross_entropy, x, y, measured)
    pairs, _, _ = by_hand(model, measured, x, y)
    expected = [float(F.cosine_similarity(a, b, dim=1).mean()) for a, b in pairs]
    np.testing.assert_allclose(found.layers, expected, atol=1e-12)
    one, other = (torch.cat(each, 1) for each in zip(*pairs, strict=True))
    total = float(F.cosine_similarity(one, other, dim=1).mean())
    assert found.total == pytest.approx(total, abs=1e-12)
    assert found.undefined == 0


def test_share_of_hidden_layers_and_norms_are_those_of_weight_gradients() -> None:
    model, measured, x, y = setup()
    (found,) = gradient_alignment(model, summed_cross_entropy, x, y, measured)
    pairs, error, inputs = by_hand(model, measured, x, y)
    gradients = [a.T @ h for (a, _), h in zip(pairs, inputs, strict=False)]
    updates = [b.T @ h for (_, b), h in zip(pairs, inputs, strict=False)]
    output = error.T @ inputs[2]
    inside = sum(float((g * u).sum()) for g, u in zip(gradients, updates, strict=True))
    every = inside + float(output.square().sum())
    assert found.share == pytest.approx(inside / every, abs=1e-12)
    size = [
        sum(float(m.square().sum()) for m in [*each, output]) ** 0.5
        for each in (gradients, updates)
    ]
    np.testing.assert_allclose(found.norms, size, rtol=1e-12)
    assert found.gradient == pytest.approx(every / (size[0] * size[1]), abs=1e-12)


def test_samples_of_dead_units_are_counted_and_left_out() -> None:
    model, measured, x, y = setup("relu")
    with torch.no_grad():
        weights_of(model)[0].copy_(-weights_of(model)[0].abs())
    x = torch.cat([x[:4].abs(), -x[4:].abs()])
    (found,) = gradient_alignment(model, summed_cross_entropy, x, y, measured)
    assert found.undefined >= 4
    assert np.isfinite(found.layers).all()


def test_weights_of_strong_alignment_have_weight_alignment_one() -> None:
    model, measured, *_ = setup()
    f1, f2 = feedback_matrices(measured)
    held = [f1 * 9**0.5, f2 * 8**0.5]
    weights = [weights_of(model)[0], 2 * held[1] @ held[0].T, 2 * held[1].T]
    found = weight_alignment(weights, [f1, f2])
    np.testing.assert_allclose(found.layers, [1, 1], atol=1e-6)
    assert found.total == pytest.approx(1, abs=1e-6)


def test_feedback_is_uniform_over_the_root_of_the_width() -> None:
    model = network((6, 64, 64, 10), activation="tanh", seed=0)
    measured = drawn(feedback_rule(2), model, torch.zeros(1, 6), torch.zeros(1).long(), seed=2)
    entries = torch.cat([f.flatten() for f in feedback_matrices(measured)])
    assert 0.12 < float(entries.abs().max()) <= 1 / 8
    assert float(entries.std()) == pytest.approx(1 / (8 * 3**0.5), rel=0.05)


def test_what_is_drawn_is_what_a_training_with_that_seed_uses() -> None:
    model, measured, x, y = setup()
    from alignlab.learner import Learner

    learner = Learner(model, summed_cross_entropy, DFA(seed=5))
    learner.backward(x, y)
    for name, one in learner.state.items():
        assert isinstance(one, Tensor)
        assert torch.equal(one, measured.feedback[name])  # type: ignore[arg-type]

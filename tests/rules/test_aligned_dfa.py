"""Feedback made from factors: what it is made of, how it is turned, and that it trains."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from alignlab import Probe
from alignlab.engine.capture import Capture
from alignlab.errors import InputError, MeasurementError
from alignlab.kernels.factors import singular_factors
from alignlab.kernels.unrolled import unrolled
from alignlab.learner import Learner
from alignlab.rules import AlignedDFA
from alignlab.rules.aligned_dfa import _best_rotation
from alignlab.snapshot import MeasuredRule


def convolutional() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AvgPool2d(2), nn.Flatten(), nn.Linear(36, 5)).double()


def batch(n: int = 20) -> tuple[Tensor, Tensor]:
    stream = torch.Generator().manual_seed(1)
    return torch.randn(n, 1, 6, 6, generator=stream).double(), torch.arange(n) % 5


def started(model: nn.Module, rule: AlignedDFA, *, seed: int = 0) -> dict[str, np.ndarray]:
    x, y = batch()
    capture = Capture(model, functional.cross_entropy, x, y)
    state = rule.start(capture, seed=seed)
    capture.close()
    return {
        name: each.flatten(1).double().numpy()
        for name, each in state.items()
        if isinstance(each, Tensor)
    }


def unit_rows(matrix: np.ndarray) -> np.ndarray:
    return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)


def test_below_the_readout_it_is_the_transposed_readout_row_by_row() -> None:
    found = started(convolutional(), AlignedDFA())
    weight = convolutional()[6].weight.detach().numpy()
    np.testing.assert_allclose(found["2"], unit_rows(weight) / 5**0.5, atol=1e-6)


def test_below_a_convolution_it_lies_in_what_that_reads_strongest() -> None:
    model = convolutional()
    found = started(model, AlignedDFA())["0"]
    matrix = unrolled(model[2], model[2].weight.detach(), (4, 6, 6)).numpy()
    values, right = np.linalg.svd(matrix)[1:]
    kept = np.linalg.norm(found @ right.T[:, :15]) ** 2 / np.linalg.norm(found) ** 2
    assert kept > 0.97
    read = np.linalg.norm(matrix @ found.T) / np.linalg.norm(found)
    assert read > 0.9 * values[4]
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 5**-0.5, rtol=1e-6)


def test_the_rotation_gives_the_largest_alignment_of_all_rotations() -> None:
    stream = np.random.default_rng(0)
    layer = nn.Linear(9, 8, bias=False).double()
    weight, above = layer.weight.detach(), torch.as_tensor(stream.normal(size=(4, 8)))
    factors = singular_factors(layer, weight, (9,), rank=4)

    def alignment(turn: np.ndarray) -> float:
        product = above.numpy().T @ turn.T @ factors.below.double().numpy()
        return float((weight.numpy() * product).sum())

    best = alignment(_best_rotation(factors, above).numpy())
    others = [alignment(np.linalg.qr(stream.normal(size=(4, 4)))[0]) for _ in range(2000)]
    assert 0.0 < max(others) <= best
    small = np.linalg.qr(np.eye(4) + 0.01 * stream.normal(size=(4, 4)))[0]
    near = _best_rotation(factors, above).numpy() @ (small * np.sign(np.diag(small)))
    assert alignment(near) < best


def test_without_signs_no_entry_is_negative_and_parts_are_dealt_by_the_seed() -> None:
    model = convolutional()
    rule = AlignedDFA(factors="nmf")
    found, other = started(model, rule)["0"], started(model, rule, seed=3)["0"]
    assert (found >= 0.0).all()
    assert sorted(found.sum(1)) == pytest.approx(sorted(other.sum(1)))
    assert not np.allclose(found, other)
    by_channel = found.reshape(5, 4, 36)
    np.testing.assert_allclose(by_channel, by_channel[:, :1].repeat(4, 1))
    assert (started(model, rule)["2"] < 0.0).any()


def test_weights_do_not_matter_for_the_support_and_do_for_the_svd() -> None:
    one, other = convolutional(), convolutional()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.copy_(torch.randn_like(parameter))
    support = AlignedDFA(factors="nmf")
    for name, each in started(one, support).items():
        np.testing.assert_array_equal(each, started(other, support)[name])
    assert not np.allclose(started(one, AlignedDFA())["0"], started(other, AlignedDFA())["0"])
    assert AlignedDFA().keeps_initial
    assert not support.keeps_initial


@pytest.mark.parametrize("factors", ["svd", "nmf"])
def test_a_network_learns_with_it_and_keeps_it(factors: str) -> None:
    model = convolutional()
    x, y = batch(100)
    learner = Learner(model, functional.cross_entropy, AlignedDFA(factors=factors))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses, states = [], []
    for _ in range(40):
        optimizer.zero_grad()
        losses.append(float(learner.backward(x, y)))
        optimizer.step()
        states.append({n: each.clone() for n, each in learner.state.items()})  # type: ignore[union-attr]
    assert losses[-1] < 0.7 * losses[0]
    for name, each in states[0].items():
        assert torch.equal(each, states[-1][name])


def test_its_chance_level_is_that_of_normal_feedback_of_the_same_size() -> None:
    model, (x, y) = convolutional(), batch()
    rule = AlignedDFA()
    capture = Capture(model, functional.cross_entropy, x, y)
    drawn = rule.redraw(capture, seed=1)
    sizes = {name: float(each.norm()) for name, each in drawn.items() if isinstance(each, Tensor)}
    assert list(sizes.values()) == pytest.approx([1.0] * 2, rel=0.15)
    made = MeasuredRule(rule, rule.start(capture, seed=0), "checkpoint")
    capture.close()
    with Probe(
        model, functional.cross_entropy, rules=[made], diagnostics=["error-signal"], draws=32
    ) as probe:
        found = probe.measure(x, y)
    kinds = found["cosine_error_signal_null_kind"].sel(layer=["0", "2"])
    assert set(kinds.values.ravel().tolist()) == {"rule_draw"}


def test_what_cannot_be_made_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="factors='qr'"):
        AlignedDFA(factors="qr")
    monkeypatch.setattr("alignlab.rules.aligned_dfa.LARGEST", 10)
    with pytest.raises(MeasurementError, match="aligned-dfa makes 900 entries"):
        started(convolutional(), AlignedDFA())

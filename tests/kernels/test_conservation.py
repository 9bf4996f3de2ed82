"""Laws of feedback alignment against its differential equations, solved by scipy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from alignlab.kernels.conservation import drift, drift_of_change, matrix_terms, unit_terms

Array = np.ndarray
SIZES = (5, 7, 6, 3)


def softmax_error(output: Array, y: Array) -> Array:
    shares = np.exp(output - output.max(1, keepdims=True))
    return (shares / shares.sum(1, keepdims=True) - y) / len(y)


def squared_error(output: Array, y: Array) -> Array:
    return (output - y) / len(y)


class Flow:
    """Gradient flow of a small network under fixed feedback, with biases in the last column."""

    def __init__(self, *, relu: bool, direct: bool, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.relu, self.direct = relu, direct
        self.x = rng.normal(size=(11, SIZES[0]))
        self.y = np.eye(SIZES[-1])[rng.integers(0, SIZES[-1], 11)]
        self.shapes = [(n, m + 1) for m, n in pairwise(SIZES)]
        self.start = [rng.normal(size=shape) * 0.4 for shape in self.shapes]
        above = [SIZES[-1]] * (len(SIZES) - 2) if direct else SIZES[2:]
        self.feedback = [rng.normal(size=pair) for pair in zip(SIZES[1:-1], above, strict=True)]

    def apart(self, line: Array) -> list[Array]:
        ends = np.cumsum([n * m for n, m in self.shapes])[:-1]
        return [w.reshape(s) for w, s in zip(np.split(line, ends), self.shapes, strict=True)]

    def updates(self, weights: Sequence[Array], error: Callable[[Array, Array], Array]) -> Array:
        h, a = [self.x], []
        for number, weight in enumerate(weights):
            a.append(np.c_[h[-1], np.ones(len(self.x))] @ weight.T)
            last = number == len(weights) - 1
            h.append(np.maximum(a[-1], 0.0) if self.relu and not last else a[-1])
        e = error(h.pop(), self.y)
        signals = [e]
        for number in reversed(range(len(weights) - 1)):
            sent = e if self.direct else signals[0]
            signal = sent @ self.feedback[number].T
            signals.insert(0, signal * (a[number] > 0) if self.relu else signal)
        steps = [
            -signal.T @ np.c_[below, np.ones(len(below))]
            for signal, below in zip(signals, h, strict=True)
        ]
        return np.concatenate([step.ravel() for step in steps])

    def solved(self, error: Callable[[Array, Array], Array], until: float = 6.0) -> list[Array]:
        def slope(_: float, line: Array) -> Array:
            return self.updates(self.apart(line), error)

        line = np.concatenate([weight.ravel() for weight in self.start])
        if not self.relu:
            line = solve_ivp(slope, (0.0, until), line, rtol=1e-9, atol=1e-11).y[:, -1]
            return self.apart(line)
        # A flow that slides along the edge of a gate stops every choice of steps by itself.
        step = 0.01
        for _ in range(round(until / step)):
            k1 = slope(0.0, line)
            k2 = slope(0.0, line + step / 2 * k1)
            k3 = slope(0.0, line + step / 2 * k2)
            k4 = slope(0.0, line + step * k3)
            line = line + step / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return self.apart(line)

    def between(self, layer: int) -> Array:
        """Return R, by which the signal of a layer is that of the next one."""
        own = self.feedback[layer]
        if not self.direct or layer == len(self.feedback) - 1:
            return own
        return own @ np.linalg.pinv(self.feedback[layer + 1])

    def terms(self, weights: Sequence[Array], layer: int, law: str) -> tuple[torch.Tensor, ...]:
        columns = self.between(layer), weights[layer + 1][:, :-1].T
        function = matrix_terms if law == "matrix" else unit_terms
        both = tuple(torch.as_tensor(each.copy()) for each in columns)
        return function((both[0], both[1]), torch.as_tensor(weights[layer].copy()))


errors = pytest.mark.parametrize("error", [softmax_error, squared_error])


@errors
@pytest.mark.parametrize("direct", [False, True])
def test_the_matrix_law_holds_at_every_layer_of_a_linear_network(
    error: Callable[[Array, Array], Array], direct: bool
) -> None:
    flow = Flow(relu=False, direct=direct)
    weights = flow.solved(error)
    for layer in range(len(flow.feedback)):
        now, then = (flow.terms(each, layer, "matrix") for each in (weights, flow.start))
        assert float(torch.linalg.norm(now[0] - then[0])) > 0.1
        assert float(drift(now, then)) < 1e-6
        assert float(drift_of_change(now, then)) < 1e-6
        one, other = (flow.terms(each, layer, "units") for each in (weights, flow.start))
        assert float(drift_of_change(one, other)) < 1e-6


@errors
@pytest.mark.parametrize("direct", [False, True])
def test_with_relu_the_law_of_units_holds_and_that_of_the_matrix_does_not(
    error: Callable[[Array, Array], Array], direct: bool
) -> None:
    flow = Flow(relu=True, direct=direct)
    weights = flow.solved(error)
    found = {
        law: [
            float(drift_of_change(flow.terms(weights, k, law), flow.terms(flow.start, k, law)))
            for k in range(len(flow.feedback))
        ]
        for law in ("units", "matrix")
    }
    top = len(flow.feedback) - 1
    # What is left comes from steps across the edges of gates.
    assert found["units"][top] < 3e-3
    assert min(found["matrix"]) > 0.02
    if direct:
        # Below, gates act on what the feedback above has brought, and nothing is conserved.
        assert found["units"][0] > 0.02
    else:
        assert found["units"][0] < 3e-3


def test_from_zero_weights_the_product_with_feedback_is_positive_semidefinite() -> None:
    flow = Flow(relu=False, direct=False)
    flow.start = [np.zeros(shape) for shape in flow.shapes]
    flow.start[0][:, 0] = 1e-3
    weights = flow.solved(squared_error, 12.0)
    for layer, tolerance in ((0, 1e-5), (1, 1e-9)):
        product, below = flow.terms(weights, layer, "matrix")
        assert float(torch.linalg.eigvalsh(product).min()) > -tolerance
        torch.testing.assert_close(product, below, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rate", [0.02, 0.01])
def test_steps_of_finite_size_drift_in_proportion_to_their_size(rate: float) -> None:
    def after(rate: float) -> float:
        flow = Flow(relu=False, direct=False)
        line = np.concatenate([weight.ravel() for weight in flow.start])
        for _ in range(round(4.0 / rate)):
            line = line + rate * flow.updates(flow.apart(line), squared_error)
        now, then = (flow.terms(each, 1, "matrix") for each in (flow.apart(line), flow.start))
        return float(drift_of_change(now, then))

    assert after(rate) / after(rate / 2) == pytest.approx(2.0, rel=0.1)


@given(seed=st.integers(0, 1000), scale=st.floats(0.1, 10.0))
def test_drifts_are_bounded_and_know_no_scale(seed: int, scale: float) -> None:
    stream = torch.Generator().manual_seed(seed)
    four = [torch.randn(3, 3, dtype=torch.float64, generator=stream) for _ in range(4)]
    now, then = (four[0], four[1]), (four[2], four[3])
    plain = float(drift_of_change(now, then))
    assert 0.0 <= plain <= 1.0 + 1e-12
    larger = tuple((scale * a, scale * b) for a, b in (now, then))
    assert float(drift_of_change(*larger)) == pytest.approx(plain)
    assert float(drift(*larger)) == pytest.approx(float(drift(now, then)))
    assert torch.isnan(drift_of_change(now, now))
    zero = torch.zeros(3, 3), torch.zeros(3, 3)
    assert torch.isnan(drift(zero, zero))

"""Trajectories of modes against the exact dynamics of linear networks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor, nn
from torch.nn import functional

from alignlab.rules import BP, DFA, FA
from alignlab.snapshot import MeasuredRule
from tests.cases import Case, each_case
from tests.diagnostics.probing import given_feedback, linear_network, probed

STRENGTHS = np.array([3.0, 1.5, 0.5])
SMALL = 0.05


def half_mean_square(output: Tensor, target: Tensor) -> Tensor:
    return 0.5 * (output - target).square().sum() / len(output)


def task() -> tuple[Tensor, Tensor]:
    """Return white inputs and targets whose correlation has the strengths as its modes."""
    stream = torch.Generator().manual_seed(0)
    draw = torch.randn(40, 3, dtype=torch.float64, generator=stream)
    x = torch.linalg.qr(draw)[0] * 40**0.5
    turns = torch.linalg.qr(torch.randn(2, 3, 3, dtype=torch.float64, generator=stream))[0]
    correlation = turns[0] @ torch.diag(torch.as_tensor(STRENGTHS)) @ turns[1].T
    return x, x @ correlation.T


def aligned(task_: tuple[Tensor, Tensor], first: Any, second: Any) -> list[np.ndarray]:
    """Return weights whose modes are those of the task, with these sizes."""
    x, y = task_
    left, _, right = np.linalg.svd((y.T @ x / len(x)).numpy())
    return [np.diag(first) @ right, left @ np.diag(second)]


def measured(model: nn.Module, *rules: Any, loss: Any = half_mean_square, data: Any = None) -> Any:
    return probed(model, loss, data or task(), *rules, diagnostics=["modes"])


def test_backpropagation_moves_modes_along_their_exact_sigmoids() -> None:
    data = task()
    sizes = np.full(3, SMALL**0.5)
    model = linear_network(aligned(data, sizes, sizes))
    step, times = 1e-3, (0, 600, 1200)
    weights = [p.detach() for p in model.parameters()]
    learned, rates = [], []
    for time in range(times[-1] + 1):
        if time in times:
            found = measured(model, BP())
            learned.append(found["mode_learned"].values)
            rates.append(found["mode_rate"].sel(rule="bp").values)
            np.testing.assert_allclose(found["mode_strength"].values, STRENGTHS)
            np.testing.assert_allclose(found["mode_rate_true"].values, rates[-1])
        error = (data[0] @ weights[0].T @ weights[1].T - data[1]) / len(data[0])
        updates = (weights[1].T @ error.T @ data[0], error.T @ data[0] @ weights[0].T)
        for weight, update in zip(weights, updates, strict=True):
            weight.sub_(step * update)
    for time, values, rate in zip(times, learned, rates, strict=True):
        # da/dt = 2 a (s - a), solved by Saxe et al. 2014.
        growth = np.exp(2 * STRENGTHS * step * time)
        expected = STRENGTHS * growth / (growth - 1 + STRENGTHS / SMALL)
        np.testing.assert_allclose(values * STRENGTHS, expected, rtol=0.02)
        a = values * STRENGTHS
        np.testing.assert_allclose(rate, 2 * a * (STRENGTHS - a), rtol=1e-8)
    assert learned[-1][0] > 0.9
    assert learned[-1][2] < 0.4


def test_fixed_feedback_moves_modes_along_its_exact_dynamics() -> None:
    data = task()
    first, second, feedback = np.array([[0.2, 0.3, 0.1], [0.1, -0.2, 0.3], [0.5, 1.0, -0.4]])
    x, y = data
    left = np.linalg.svd((y.T @ x / len(x)).numpy())[0]
    model = linear_network(aligned(data, first, second))
    rule = given_feedback({"0": np.diag(feedback) @ left.T})

    def flow(_: float, state: np.ndarray) -> np.ndarray:
        w1, w2 = state.reshape(2, 3)
        error = STRENGTHS - w1 * w2
        return np.concatenate([feedback * error, w1 * error])

    found = measured(model, rule).sel(rule="dfa")
    w1, w2 = first, second
    error = STRENGTHS - w1 * w2
    np.testing.assert_allclose(found["mode_coefficient"].values, w1 * w2, atol=1e-12)
    np.testing.assert_allclose(
        found["mode_rate"].values, w2 * feedback * error + w1**2 * error, atol=1e-10
    )
    parts = found["mode_rate_part"]
    np.testing.assert_allclose(parts.sel(layer="0").values, w2 * feedback * error, atol=1e-10)
    np.testing.assert_allclose(parts.sel(layer="1").values, w1**2 * error, atol=1e-10)
    end = solve_ivp(flow, (0, 1e-3), np.concatenate([first, second]), rtol=1e-10).y[:, -1]
    moved = np.prod(end.reshape(2, 3), axis=0) - w1 * w2
    np.testing.assert_allclose(found["mode_rate"].values * 1e-3, moved, rtol=1e-2)
    # The third mode meets feedback of the wrong sign, and its hidden layer unlearns it.
    assert parts.sel(layer="0").values[2] < 0


@pytest.mark.parametrize("rule", [BP(), DFA(seed=1), FA(seed=1)])
def test_a_rate_is_how_the_coefficient_moves(rule: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    x, _ = task()
    labels = torch.arange(40) % 3
    data, loss = (x, labels), functional.cross_entropy
    found = measured(model, rule, data=data, loss=loss).isel(rule=0)
    with torch.no_grad():
        before = {name: p.clone() for name, p in model.named_parameters()}
    from alignlab.engine.capture import Capture
    from alignlab.rules._task import Task

    capture = Capture(model, loss, *data)
    held = MeasuredRule(rule, rule.start(capture, seed=1), "checkpoint")
    update = held.updates(Task(capture, capture.reference(parameters=True))).parameters
    ends, step = [], 1e-5
    for side in (1.0, -1.0):
        with torch.no_grad():
            for name, p in model.named_parameters():
                p.copy_(before[name] - side * step * update[name])
        ends.append(measured(model, data=data, loss=loss)["mode_coefficient"].values)
    slope = (ends[0] - ends[1]) / (2 * step)
    np.testing.assert_allclose(found["mode_rate"].values, slope, rtol=1e-5)
    total = found["mode_rate_part"].sum("layer").values
    np.testing.assert_allclose(total, found["mode_rate"].values)


def test_a_network_that_meets_its_targets_exactly_has_learned_every_mode() -> None:
    x, _ = task()
    weight = np.diag([1.0, 0.5, 0.25])
    model = linear_network([weight])
    with torch.no_grad():
        y = model(x)
    found = measured(model, BP(), data=(x, y), loss=half_mean_square)
    np.testing.assert_allclose(found["mode_learned"], 1.0, rtol=1e-9)


def test_other_losses_have_coefficients_without_an_optimum() -> None:
    model = linear_network([np.eye(3)])
    data = (task()[0], torch.arange(40) % 3)
    found = measured(model, BP(), data=data, loss=functional.cross_entropy)
    assert "mode_learned" not in found
    assert np.isfinite(found["mode_coefficient"]).all()
    assert "squared error alone" in str(found["not_defined"].values)


def test_nothing_is_said_of_rates_under_drawn_feedback() -> None:
    model = linear_network(aligned(task(), np.ones(3), np.ones(3)))
    drawn = given_feedback({"0": np.eye(3)}, origin="drawn")
    found = measured(model, drawn)
    assert "mode_rate" not in found
    assert "mode_rate_true" in found
    assert "drawn for this analysis" in str(found["not_defined"].values)


@each_case
def test_every_case_has_modes_or_a_reason(case: Case) -> None:
    made = case.make()
    found = measured(made.model, DFA(seed=0), data=(made.x, made.y), loss=made.loss)
    for layer in found["layer"].values:
        text = ""
        if "not_defined" in found:
            text = str(found["not_defined"].sel(layer=layer).values)
        has_rate = "mode_rate_part" in found and bool(
            np.isfinite(found["mode_rate_part"].sel(layer=layer)).any()
        )
        assert has_rate or "because" in text

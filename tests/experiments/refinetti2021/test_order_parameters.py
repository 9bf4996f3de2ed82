"""Averages, equations and simulation of shallow students against independent calculations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import integrate, special

from alignlab.experiments.refinetti2021._order_parameters import (
    Dynamics,
    State,
    averages,
    generalisation_error,
    output_overlap,
)
from alignlab.experiments.refinetti2021._students import drawn_feedback
from alignlab.experiments.refinetti2021._teacher_student import (
    Runs,
    recorded_times,
    simulated,
    weight_alignment,
)
from alignlab.experiments.refinetti2021.align_first import AlignFirst
from alignlab.experiments.refinetti2021.closed_forms import ClosedForms
from alignlab.experiments.refinetti2021.degeneracy import Degeneracy
from alignlab.experiments.refinetti2021.finite_size import FiniteSize
from alignlab.experiments.refinetti2021.ode_equals_simulation import OdeEqualsSimulation
from alignlab.experiments.refinetti2021.permutation_degeneracy import PermutationDegeneracy
from alignlab.experiments.refinetti2021.relu_counting import ReluCounting
from tests.experiments.refinetti2021.running import checked

COVARIANCE = np.array([[1.3, -0.4], [-0.4, 0.7]])


def g(x: np.ndarray) -> np.ndarray:
    return special.erf(x / 2.0**0.5)


def slope(x: np.ndarray) -> np.ndarray:
    return (2.0 / np.pi) ** 0.5 * np.exp(-0.5 * x**2)


def expectation(of: object) -> float:
    """Return the mean of a function of two correlated normal numbers, by quadrature."""
    inverse, scale = np.linalg.inv(COVARIANCE), np.linalg.det(COVARIANCE) ** 0.5 * 2 * np.pi

    def weighed(b: float, a: float) -> float:
        z = np.array([a, b])
        return float(of(a, b) * np.exp(-0.5 * z @ inverse @ z) / scale)  # type: ignore[operator]

    return float(integrate.dblquad(weighed, -9, 9, -9, 9, epsabs=1e-8)[0])


def test_averages_of_two_numbers_are_those_of_quadrature() -> None:
    found = averages(COVARIANCE, "erf")
    assert found.i2[0, 1] == pytest.approx(expectation(lambda a, b: g(a) * g(b)), abs=1e-6)
    assert found.j2[0, 1] == pytest.approx(expectation(lambda a, b: slope(a) * slope(b)), abs=1e-6)
    own = expectation(lambda a, b: slope(a) * b * g(b))
    assert found.i3[0, 1, 1] == pytest.approx(own, abs=1e-6)
    other = expectation(lambda a, b: slope(a) * b * g(a))
    assert found.i3[0, 1, 0] == pytest.approx(other, abs=1e-6)
    four = expectation(lambda a, b: slope(a) * slope(b) * g(a) * g(b))
    assert found.i4[0, 1, 0, 1] == pytest.approx(four, abs=1e-6)
    square = expectation(lambda a, b: slope(a) ** 2 * g(b) ** 2)
    assert found.i4[0, 0, 1, 1] == pytest.approx(square, abs=1e-6)


def test_the_overlap_of_relu_units_is_that_of_quadrature() -> None:
    found = output_overlap(COVARIANCE, "relu")
    both = expectation(lambda a, b: max(a, 0.0) * max(b, 0.0))
    assert found[0, 1] == pytest.approx(both, abs=1e-6)
    assert found[0, 0] == pytest.approx(COVARIANCE[0, 0] / 2.0)


@pytest.mark.parametrize("activation", ["erf", "linear", "relu"])
def test_the_error_is_half_the_mean_squared_difference(activation: str) -> None:
    source = np.random.default_rng(0)
    w, b = source.standard_normal((2, 50)), source.standard_normal((3, 50))
    v, teacher = source.standard_normal(2), source.standard_normal(3)
    state = State(w @ w.T / 50, w @ b.T / 50, v)
    error = generalisation_error(state, t=b @ b.T / 50, teacher=teacher, activation=activation)
    x = source.standard_normal((200_000, 50)) / 50**0.5
    act = {"erf": g, "linear": lambda z: z, "relu": lambda z: np.maximum(z, 0.0)}[activation]
    half = 0.5 * (act(x @ b.T) @ teacher - act(x @ w.T) @ v) ** 2
    assert float(error) == pytest.approx(half.mean(), abs=4 * half.std() / len(x) ** 0.5)


def test_slow_linear_learning_from_zero_follows_its_exact_solution() -> None:
    # One unit, rate to zero: v = R^2 / (2 F T) and R' = F (A T - R^3 / (2 F T)).
    f, a, t, rate = 0.8, 1.3, 1.1, 1e-4
    dynamics = Dynamics(np.array([[t]]), np.array([a]), rate, np.array([f]), "linear")
    zero = State(np.zeros((1, 1)), np.zeros((1, 1)), np.zeros(1))
    found = dynamics.solved(zero, np.array([0.0, 0.5, 1.0]) / rate)
    for number, time in ((1, 0.5), (2, 1.0)):
        r = float(found.r[number, 0, 0])
        needed = integrate.quad(lambda u: 1.0 / (f * a * t - u**3 / (2.0 * t)), 0.0, r)[0]
        assert needed == pytest.approx(time, rel=1e-3)
        assert float(found.v[number, 0]) == pytest.approx(r**2 / (2 * f * t), rel=1e-3)
        assert float(found.q[number, 0, 0]) == pytest.approx(r**2 / t, rel=1e-3)


@pytest.mark.parametrize("rule", ["dfa", "bp"])
def test_one_step_of_the_simulation_has_the_mean_that_the_equations_give(rule: str) -> None:
    feedback = np.array([[1.0, -0.7]]) if rule == "dfa" else None
    n, count, rate = 400, 60, 0.5
    held = None if feedback is None else np.tile(feedback, (count, 1))
    times = np.array([0.0, 1.0])
    runs = Runs(range(count), np.ones(2), held, 2, n, rate)
    found = simulated(runs, times)
    apart = []
    for run in range(count):
        fixed = None if feedback is None else feedback[0]
        start = State(*(x[0, run] for x in (found.state.q, found.state.r, found.state.v)))
        solved = Dynamics(found.t[run], np.ones(2), rate, fixed).solved(start, times)
        apart.append(found.state.r[1, run] - solved.r[1])
    mean, error = np.mean(apart, axis=0), np.std(apart, axis=0) / count**0.5
    # The equations leave out terms of order 1/N.
    assert (np.abs(mean) <= 4 * error + 2.0 / n).all()


def test_runs_do_not_depend_on_those_beside_them() -> None:
    feedback = np.array([[1.0, -1.0], [0.5, 2.0]])
    times = recorded_times(2.0, 5, 50)
    both = simulated(Runs([3, 7], np.ones(2), feedback, 2, 50, 0.5), times)
    alone = simulated(Runs([7], np.ones(2), feedback[1:], 2, 50, 0.5), times)
    np.testing.assert_allclose(both.state.v[:, 1], alone.state.v[:, 0], rtol=1e-12)


def test_students_do_not_start_at_their_teachers() -> None:
    found = simulated(Runs(range(20), np.ones(2), None, 2, 1000, 0.5), np.array([0.0]))
    assert np.abs(found.state.r).max() < 5.0 / 1000


def test_a_linear_student_from_zero_is_aligned_at_once() -> None:
    dynamics = Dynamics(np.eye(2), np.ones(2), 0.1, np.array([0.6, -1.2]), "linear")
    zero = State(np.zeros((2, 2)), np.zeros((2, 2)), np.zeros(2))
    found = dynamics.solved(zero, np.array([0.0, 0.1, 5.0]))
    aligned = weight_alignment(found.v[1:], np.array([0.6, -1.2]))
    np.testing.assert_allclose(aligned, 1.0, atol=1e-9)


def test_drawn_feedback_keeps_away_from_zero() -> None:
    assert np.abs(drawn_feedback(3, 100, least=0.5)).min() >= 0.5


def test_closed_forms_hold_with_few_samples(tmp_path: Path) -> None:
    found = checked(ClosedForms(), tmp_path, samples=400_000, seeds=2)
    assert all(check.passed for check in found)


def test_alignment_comes_first(tmp_path: Path) -> None:
    found = checked(AlignFirst(), tmp_path, last=30.0, n_inputs=100)
    assert [check.passed for check in found] == [True] * 4


def test_feedback_chooses_the_signs(tmp_path: Path) -> None:
    found = checked(Degeneracy(), tmp_path, n_inputs=50, last=150.0, inits=6)
    by_name = {check.what: check for check in found}
    first = by_name["converged runs with the signs of the feedback, DFA with F = (1,-1)"]
    assert first.measured == 1.0


def test_the_other_simulations_run(tmp_path: Path) -> None:
    small = {"inits": 2, "n_inputs": 50}
    assert checked(ReluCounting(), tmp_path, last=5.0, students=[2], **small)
    assert checked(PermutationDegeneracy(), tmp_path, last=5.0, **small)
    assert checked(FiniteSize(), tmp_path, last=5.0, inits=2, n_inputs=[50, 100])
    last = {"2": 5.0, "4": 5.0}
    assert checked(OdeEqualsSimulation(), tmp_path, last=last, early=2.0, points=10, **small)

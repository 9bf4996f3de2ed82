"""The built networks, and the mixed kernel against finite differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from alignlab.experiments._alignment import gradient_alignment, network
from alignlab.experiments.chu2024._counter_case import rests_under_feedback, rests_under_gradient
from alignlab.experiments.chu2024._interpolation import (
    feedback_rule,
    interpolated,
    kernel_spectrum,
    samples,
    squared_error,
)
from alignlab.experiments.chu2024._mixed_kernel import jacobian_cosine, mixed_kernel, redrawn
from alignlab.learner import Learner
from alignlab.rules import DFA
from alignlab.snapshot import MeasuredRule

SETTING: dict[str, Any] = {
    "sizes": (4, 12, 12, 2),
    "samples": 3,
    "target": 0.7,
    "lr": 0.02,
    "steps": 1500,
    "stop_loss": 1e-9,
}


@pytest.mark.parametrize("rests", ["update", "gradient"])
def test_in_a_built_network_one_rests_while_errors_remain_and_the_other_does_not(
    rests: str,
) -> None:
    built = rests_under_feedback() if rests == "update" else rests_under_gradient()
    measured = MeasuredRule(DFA(), {"fc1": built.feedback}, "training")
    (found,) = gradient_alignment(built.model, squared_error, built.x, built.y, measured)
    gradient, update = found.norms
    assert (update if rests == "update" else gradient) <= 1e-12
    assert (gradient if rests == "update" else update) > 0.5
    assert float(squared_error(built.model(built.x), built.y).detach()) > 0.5


def test_the_least_eigenvalue_is_that_of_outputs_moved_by_updates() -> None:
    """Columns of K are changes of all outputs by the update that a unit error causes."""
    model = network(SETTING["sizes"], activation="tanh", seed=1).double()
    x, _ = samples(SETTING, 1)
    fed = feedback_rule(SETTING, 1)
    with torch.no_grad():
        y = model(x).clone()
    learner = Learner(model, squared_error, fed)
    columns = [moved(model, learner, x, y, unit) for unit in torch.eye(y.numel()).double()]
    kernel = np.array([column.numpy() for column in columns]).T
    measured = learner.measured()
    smallest, symmetric = kernel_spectrum(model, measured, x, y)
    assert smallest == pytest.approx(np.linalg.eigvals(kernel).real.min(), abs=1e-5)
    assert mixed_kernel(model, measured, x).numpy() == pytest.approx(kernel, abs=1e-6)
    half = (kernel + kernel.T) / 2
    assert symmetric == pytest.approx(np.linalg.eigvalsh(half).min(), abs=1e-5)


def moved(model: nn.Module, learner: Learner, x: Tensor, y: Tensor, error: Tensor) -> Tensor:
    """Return the derivative of all outputs along the update of an error, times this error."""
    model.zero_grad()
    # Half of it, for the squared error has a gradient of twice the error.
    learner.backward(x, model(x).detach() - error.reshape(y.shape) / 2)
    step = 1e-6
    updates = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    outputs = []
    with torch.no_grad():
        for sign in (1, -2):
            for p, u in zip(model.parameters(), updates, strict=True):
                p.add_(sign * step * u)
            outputs.append(model(x).flatten())
        for p, u in zip(model.parameters(), updates, strict=True):
            p.add_(step * u)
    slope: Tensor = (outputs[0] - outputs[1]) / (2 * step)
    return slope


def test_both_jacobians_are_one_where_feedback_is_the_transposed_weight() -> None:
    model = network((4, 12, 2), activation="tanh", seed=0).double()
    x, _ = samples(SETTING, 0)
    transposed = list(model.parameters())[-1].detach()
    own = MeasuredRule(DFA(), {"fc1": transposed}, "training")
    assert jacobian_cosine(model, own, x) == pytest.approx(1.0)
    kernel = mixed_kernel(model, own, x)
    assert torch.allclose(kernel, kernel.T)


def test_redrawn_feedback_is_that_of_no_training() -> None:
    setting = {**SETTING, "redraws": 3}
    model = network(SETTING["sizes"], activation="tanh", seed=0).double()
    x, y = samples(SETTING, 0)
    cosines = [jacobian_cosine(model, each, x) for each in redrawn(setting, model, x, y, seed=0)]
    assert len(set(cosines)) == 3


def test_feedback_interpolates_and_arrives_where_it_is_stable() -> None:
    model, measured, training = interpolated("dfa", SETTING, seed=0)
    x, y = samples(SETTING, 0)
    assert training.losses[-1] <= 1e-9
    smallest, symmetric = kernel_spectrum(model, measured, x, y)
    assert smallest > 0
    assert symmetric <= smallest


def test_draws_are_independent_streams_that_follow_from_the_seed() -> None:
    first, again, other = (samples(SETTING, seed) for seed in (0, 0, 1))
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], other[0])
    assert set(first[1].flatten().tolist()) == {-0.7, 0.7}

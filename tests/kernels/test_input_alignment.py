"""The alignment score: its estimator by noise, rotations, noise, limits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from alignlab.kernels.input_alignment import alignment_score, rotated_scores, score_of_noise

SHAPES = [(4, 7), (7, 4), (5, 5), (1, 6), (6, 2)]


def noise(*shape: int, seed: int = 0) -> Tensor:
    stream = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=stream, dtype=torch.float64)


def rotations(count: int, n: int, *, seed: int = 0) -> Tensor:
    q, r = torch.linalg.qr(noise(count, n, n, seed=seed))
    return q * torch.sign(torch.diagonal(r, dim1=-2, dim2=-1))[:, None, :]


@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_what_normal_inputs_estimate(shape: tuple[int, int]) -> None:
    first = noise(*shape)
    second = 0.5 * first + noise(*shape, seed=1)
    inputs = noise(100_000, shape[1], seed=2)
    p, q = inputs @ first.T @ first, inputs @ second.T @ second
    estimate = (p * q).sum() / (p.square().sum() * q.square().sum()).sqrt()
    assert alignment_score(first, second).item() == pytest.approx(float(estimate), abs=0.01)


@given(seed=st.integers(0, 2**31), exponent=st.integers(-70, 70), shape=st.sampled_from(SHAPES))
@settings(deadline=None)
def test_no_scale_and_no_rotation_of_outputs_or_common_one_of_inputs_changes_it(
    seed: int, exponent: int, shape: tuple[int, int]
) -> None:
    first, second = noise(*shape, seed=seed), noise(*shape, seed=seed + 1)
    outputs, inputs = rotations(1, shape[0], seed=seed)[0], rotations(1, shape[1], seed=seed)[0]
    expected = alignment_score(first, second).item()
    same = [(outputs @ first, second), (first @ inputs, second @ inputs)]
    for pair in [*same, (10.0**exponent * first, -second), (second, first)]:
        assert alignment_score(*pair).item() == pytest.approx(expected, abs=1e-9)
        for one, other in zip(rotated_scores(*pair), rotated_scores(first, second), strict=True):
            assert one.item() == pytest.approx(other.item(), abs=1e-9)
    assert 0.0 <= expected <= 1.0
    assert alignment_score(first, outputs @ first).item() == pytest.approx(1.0)


@pytest.mark.parametrize("shape", SHAPES)
def test_rotated_inputs_have_the_stated_mean_and_deviation(shape: tuple[int, int]) -> None:
    first = noise(*shape) * torch.linspace(0.1, 2.0, shape[1])
    second = noise(*shape, seed=1)
    found = alignment_score(first @ rotations(20_000, shape[1], seed=2), second)
    mean, sd = rotated_scores(first, second)
    assert found.mean().item() == pytest.approx(mean.item(), abs=4.0 * sd.item() / 20_000**0.5)
    assert found.std().item() == pytest.approx(sd.item(), rel=0.03)


@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (50, 50), (10, 200)])
def test_noise_scores_by_its_shape(shape: tuple[int, int]) -> None:
    first, second = noise(50, *shape), noise(50, *shape, seed=1)
    found = alignment_score(first, second)
    assert found.mean().item() == pytest.approx(score_of_noise(*shape), abs=0.01)
    mean, _ = rotated_scores(first, second)
    assert mean.mean().item() == pytest.approx(score_of_noise(*shape), abs=0.01)


def test_the_sum_over_samples_of_products_of_errors_and_inputs_is_its_own_form() -> None:
    # The weight is a sum of outer products, its correlation that of inputs weighted by errors.
    errors, inputs = noise(9, 3), noise(9, 5, seed=1)
    weight = errors.T @ inputs
    correlation = np.zeros((5, 5))
    for i in range(9):
        for j in range(9):
            product = float(errors[i] @ errors[j])
            correlation += product * np.outer(inputs[i].numpy(), inputs[j].numpy())
    other = noise(3, 5, seed=2)
    a = (other.T @ other).numpy()
    expected = (a * correlation).sum() / np.sqrt((a**2).sum() * (correlation**2).sum())
    assert alignment_score(weight, other).item() == pytest.approx(expected)


def test_zero_is_undefined_and_one_input_always_agrees() -> None:
    assert torch.isnan(alignment_score(torch.zeros(2, 3), noise(2, 3)))
    assert torch.isnan(rotated_scores(torch.zeros(2, 3), noise(2, 3))[0])
    mean, sd = rotated_scores(noise(3, 1), noise(3, 1, seed=1))
    assert (mean.item(), sd.item()) == (pytest.approx(1.0), 0.0)


def test_layers_are_scored_one_by_one() -> None:
    first, second = noise(3, 4, 5), noise(3, 4, 5, seed=1)
    each = torch.stack([alignment_score(a, b) for a, b in zip(first, second, strict=True)])
    torch.testing.assert_close(alignment_score(first, second), each)
    mean, sd = rotated_scores(first, second)
    for k in range(3):
        torch.testing.assert_close(rotated_scores(first[k], second[k]), (mean[k], sd[k]))

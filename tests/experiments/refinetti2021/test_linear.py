"""Deep linear networks: exact identities, and the claims that rest on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from alignlab.experiments.refinetti2021._linear import (
    alignment_matrices,
    by_double_sum,
    by_recursion,
    cosine_to_identity,
    gaussian_feedback,
    linear_task,
    trained_linear,
    weight_alignments,
)
from alignlab.experiments.refinetti2021.alignment_matrices import AlignmentMatrices
from alignlab.experiments.refinetti2021.bottleneck import Bottleneck
from alignlab.experiments.refinetti2021.conventions import Conventions
from alignlab.experiments.refinetti2021.convolution_bound import ConvolutionBound
from alignlab.experiments.refinetti2021.scalar_output import ScalarOutput
from alignlab.experiments.refinetti2021.target_covariance import TargetCovariance
from alignlab.experiments.refinetti2021.weak_alignment import WeakAlignment
from alignlab.kernels.convolution import structured_share
from alignlab.kernels.unrolled import unrolled
from alignlab.training import Recipe
from tests.experiments.refinetti2021.running import checked


def all_pass(checks: list) -> bool:
    assert [check.what for check in checks if not check.passed] == []
    return bool(checks)


def test_alignment_matrices_are_found_again_in_the_weights() -> None:
    x, y = linear_task(0, samples=60, inputs=7, outputs=3)
    recipe = Recipe(epochs=1, batch_size=1, optimizer_options={"lr": 0.004}, order_seed=0)
    found = trained_linear([7, 20, 15, 3], x=x, y=y, rule=gaussian_feedback(0), recipe=recipe)
    own = {"x": found.x, "y": found.y, "rate": 0.004}
    stepped = by_recursion(found.feedback, **own)
    recovered = alignment_matrices(found.weights, found.feedback)
    summed = by_double_sum(found.feedback, **own)
    for first, second, third in zip(stepped[1:], recovered, summed, strict=True):
        np.testing.assert_allclose(second, first, rtol=1e-9, atol=1e-14)
        np.testing.assert_allclose(third, first, rtol=1e-9, atol=1e-14)


def test_strong_alignment_is_a_weight_alignment_of_one_and_keeps_its_sign() -> None:
    source = np.random.default_rng(0)
    feedback = [source.standard_normal((n, 3)) for n in (8, 9)]
    weights = [np.zeros((8, 4)), 2.0 * feedback[1] @ feedback[0].T, -feedback[1].T]
    np.testing.assert_allclose(weight_alignments(weights, feedback), [1.0, -1.0])
    matrices = alignment_matrices(weights, feedback)
    np.testing.assert_allclose(matrices[0], 2.0 * np.eye(3), atol=1e-12)
    assert cosine_to_identity(matrices[1]) == pytest.approx(-1.0)


def test_the_attainable_alignment_is_that_of_averages_over_tied_positions() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 3, 3).double()
    below, above = torch.randn(5, 2, 6, 6).double(), torch.randn(5, 3, 4, 4).double()
    target = (above.flatten(1).T @ below.flatten(1)).flatten()
    columns = []
    for number in range(layer.weight.numel()):
        one = torch.zeros(layer.weight.numel(), dtype=torch.float64)
        one[number] = 1.0
        columns.append(unrolled(layer, one.reshape(layer.weight.shape), (2, 6, 6)).flatten())
    basis = torch.stack(columns, 1)
    nearest = basis @ torch.linalg.lstsq(basis, target.unsqueeze(1)).solution.squeeze(1)
    share = structured_share(layer, below, above)
    assert float(share) == pytest.approx(float(nearest.norm() / target.norm()))


@pytest.mark.parametrize("claim", [WeakAlignment(), ScalarOutput()])
def test_theory_holds(claim: WeakAlignment, tmp_path: Path) -> None:
    assert all_pass(checked(claim, tmp_path, seeds=2))


def test_weights_align_as_their_matrices_where_the_teacher_is_learned(tmp_path: Path) -> None:
    found = {check.what: check.passed for check in checked(AlignmentMatrices(), tmp_path, seeds=3)}
    assert found["batch 30: largest difference of WA_l and cos(A_l, I)"]


def test_orthonormal_feedback_aligns_exactly_unless_there_is_a_bottleneck(tmp_path: Path) -> None:
    widths = ["2-2-2", "10-10-10", "20-20-20", "5-20-20", "20-5-20"]
    assert all_pass(checked(Bottleneck(), tmp_path, draws=5, widths=widths))


def test_convolutions_are_bound(tmp_path: Path) -> None:
    assert all_pass(checked(ConvolutionBound(), tmp_path, seeds=3))


def test_conventions_agree_for_one_sample(tmp_path: Path) -> None:
    found = checked(
        Conventions(), tmp_path, seeds=2, epochs=1, samples=64, redraws=4, batches=[1, 32, 64]
    )
    assert [check.passed for check in found[:2]] == [True, True]


def test_covariance_of_targets_runs(tmp_path: Path) -> None:
    found = checked(
        TargetCovariance(), tmp_path, seeds=2, epochs=1, points=[[0.2, 0.2], [1.0, 1.0]]
    )
    assert len(found) == 3

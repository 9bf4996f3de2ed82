"""Networks of windows with and without shared weights, and what their weights can be."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from alignlab.experiments._alignment import drawn, feedback_matrices
from alignlab.experiments._deep_digits import feedback_rule
from alignlab.experiments.refinetti2021._structured import (
    KINDS,
    attainable_alignment,
    structured_network,
    unrolled_alignment,
)
from alignlab.kernels.convolution import structured_share
from alignlab.kernels.unrolled import unrolled
from alignlab.snapshot import MeasuredRule


def made(kind: str) -> tuple[nn.Sequential, MeasuredRule]:
    model = structured_network(kind, seed=2)
    x = torch.zeros(1, 1, 8, 8)
    return model, drawn(feedback_rule(3), model, x, torch.zeros(1).long(), seed=3)


def test_local_weights_stand_where_those_of_the_convolution_do() -> None:
    (convolution, _), (local, _) = made("convolution"), made("local")
    second = convolution[2]
    dense = unrolled(second, torch.ones(8, 8, 3, 3), (8, 6, 6))
    weight = local[3].weight
    assert isinstance(weight, torch.Tensor)
    assert torch.equal(weight != 0, dense != 0)
    assert float(weight.detach().abs().max()) <= (8 * 9) ** -0.5
    x = torch.randn(2, 1, 8, 8)
    assert convolution(x).shape == local(x).shape == (2, 10)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("dense", 1.0), ("local", (72 / 288) ** 0.5), ("convolution", (576 / (288 * 128)) ** 0.5)],
)
def test_attainable_alignment_is_the_root_of_the_free_share(kind: str, expected: float) -> None:
    model, measured = made(kind)
    found = attainable_alignment(model, measured)
    assert found == pytest.approx(expected, rel=0.1)
    assert abs(float(unrolled_alignment(model, measured).layers[0])) <= found


def test_of_a_convolution_it_is_what_the_diagnostic_has() -> None:
    model, measured = made("convolution")
    below, above = (
        f.T.reshape(10, *shape)
        for f, shape in zip(feedback_matrices(measured), ((8, 6, 6), (8, 4, 4)), strict=True)
    )
    second = model[2]
    assert isinstance(second, nn.Module)
    expected = float(structured_share(second, below, above))
    assert attainable_alignment(model, measured) == pytest.approx(expected, abs=1e-6)


def test_kinds_are_those_that_can_be_made() -> None:
    assert [len(made(kind)[1].feedback) for kind in KINDS] == [2, 2, 2]

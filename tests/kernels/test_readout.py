"""Accuracy of a readout, against numpy's argmax."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alignlab.kernels.readout import accuracy


@given(
    n=st.integers(1, 12),
    c=st.integers(2, 5),
    seed=st.integers(0, 1000),
    scale=st.floats(1e-3, 1e3),
)
def test_accuracy_is_the_share_of_right_argmaxes_whatever_the_scale(
    n: int, c: int, seed: int, scale: float
) -> None:
    rng = np.random.default_rng(seed)
    logits, classes = rng.normal(size=(n, c)), rng.integers(0, c, size=n)
    expected = (logits.argmax(1) == classes).mean()
    found = accuracy(torch.as_tensor(logits * scale), torch.as_tensor(classes))
    assert float(found) == pytest.approx(expected)
    order = rng.permutation(c)
    turned = accuracy(
        torch.as_tensor(logits[:, order]), torch.as_tensor(np.argsort(order)[classes])
    )
    assert float(turned) == pytest.approx(expected)


def test_positions_count_one_by_one_and_masked_ones_not() -> None:
    logits = torch.zeros(1, 2, 3)
    logits[0, 1] = torch.tensor([1.0, -1.0, 1.0])
    assert float(accuracy(logits, torch.tensor([[1, 0, -100]]))) == 1.0
    assert float(accuracy(logits, torch.tensor([[1, 1, -100]]))) == 0.5
    assert torch.isnan(accuracy(logits, torch.full((1, 3), -100)))


def test_ties_and_what_is_not_a_number_are_wrong() -> None:
    assert float(accuracy(torch.zeros(2, 3), torch.tensor([0, 1]))) == 0.0
    assert float(accuracy(torch.full((1, 2), torch.nan), torch.tensor([0]))) == 0.0
    assert float(accuracy(torch.tensor([[1.0, 2.0]]), torch.tensor([7]))) == 0.0

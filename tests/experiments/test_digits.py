"""The digits that claims take."""

from __future__ import annotations

import pytest
import torch

from alignlab.experiments._digits import digits


@pytest.mark.parametrize(("samples", "tests"), [(1437, 360), (1500, 297)])
def test_splits_are_disjoint_and_hold_everything(samples: int, tests: int) -> None:
    found = digits(samples=samples)
    assert (
        (len(found.x), len(found.x_test)) == (samples, tests) == (len(found.y), len(found.y_test))
    )
    rows = torch.cat([found.x, found.x_test])
    assert len(rows.unique(dim=0)) == 1797
    assert (found.y.bincount() > samples / 11).all()


def test_scalings_use_the_training_samples_alone() -> None:
    whole, pixel = digits(scaling="global"), digits(scaling="pixel")
    assert whole.x.mean().abs() < 1e-6
    assert whole.x.std(correction=0) == pytest.approx(1, abs=1e-5)
    scale = pixel.x.std(0, correction=0)
    assert ((scale - 1).abs() < 1e-5).logical_or(scale == 0).all()
    assert (scale == 0).any()


def test_other_splits_are_refused() -> None:
    with pytest.raises(ValueError, match="no split of 1000 digits"):
        digits(samples=1000)

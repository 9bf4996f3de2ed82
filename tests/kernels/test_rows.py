"""Alignments from norms and inner products, against the vectors themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alignlab.kernels.cosines import angle, cosine
from alignlab.kernels.rows import concentration, summarized

shapes = st.tuples(st.integers(1, 9), st.integers(1, 7))


@given(shapes, st.integers(0, 2**31), st.floats(-12, 12))
def test_rows_say_what_the_vectors_say(shape: tuple[int, int], seed: int, power: float) -> None:
    random = np.random.default_rng(seed)
    a, b = random.normal(size=shape) * 10**power, random.normal(size=shape)
    b[random.random(len(b)) < 0.3] = 0.0
    norms = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
    found = summarized(*norms, (a * b).sum(1))
    assert found.inner_product == pytest.approx((a * b).sum(), rel=1e-9, abs=1e-9 * 10**power)
    assert found.squared_norm == pytest.approx((b**2).sum())
    assert found.squared_norm_true == pytest.approx((a**2).sum())
    each = cosine(torch.tensor(a), torch.tensor(b)).numpy()
    known = each[np.isfinite(each)]
    assert found.n_undefined == len(each) - len(known)
    if not known.size:
        assert np.isnan([found.cosine, found.cosine_flat, found.descent_rate]).all()
        return
    assert found.cosine == pytest.approx(known.mean(), abs=1e-12)
    assert found.descent_rate == pytest.approx((known > 0).mean())
    whole = torch.tensor(a).flatten(), torch.tensor(b).flatten()
    assert found.cosine_flat == pytest.approx(float(cosine(*whole)), abs=1e-12)
    degrees = np.degrees(np.arccos(found.cosine_flat))
    assert degrees == pytest.approx(float(angle(*whole)), abs=1e-5)
    assert found.norm_ratio == pytest.approx(float(whole[1].norm() / whole[0].norm()))
    if known.size > 1:
        assert found.cosine_sd == pytest.approx(known.std(ddof=1), abs=1e-12)


def test_norms_whose_squares_are_lost_in_float32_are_no_directions() -> None:
    found = summarized(np.array([1e-18, 1.0]), np.ones(2), np.array([1e-18, 0.5]))
    assert (found.n_undefined, found.cosine) == (1, 0.5)


def test_rows_that_were_not_measured_say_nothing() -> None:
    nothing = np.full(3, np.nan)
    found = summarized(np.ones(3), nothing, nothing)
    assert np.isnan(found.cosine)
    assert np.isnan(found.n_undefined)
    assert np.isnan([found.inner_product, found.squared_norm]).all()


def test_squared_norms_of_chi_square_concentrate_as_the_square_root_of_two_over_n() -> None:
    random = np.random.default_rng(0)
    energy = (random.normal(size=(4_000, 5, 50)) ** 2).sum(-1)[None]
    assert concentration(energy) == pytest.approx(np.sqrt(2 / 50), rel=0.03)
    assert np.isnan(concentration(energy[:, :1])).all()

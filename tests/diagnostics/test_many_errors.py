"""What is read where errors outnumber samples, by the way round the small side."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from alignlab.diagnostics import _closed_forms, _feedback
from alignlab.diagnostics._base import Adjoint
from alignlab.diagnostics._closed_forms import _product_norm
from alignlab.diagnostics._feedback import error_space


@pytest.mark.parametrize("small", [0, 10_000], ids=["samples' side", "errors' side"])
def test_the_error_space_is_that_of_the_singular_vectors(
    monkeypatch: pytest.MonkeyPatch, small: int
) -> None:
    monkeypatch.setattr(_feedback, "_SMALL_SPACE", small)
    stream = np.random.default_rng(0)
    errors = stream.normal(size=(9, 4)) @ stream.normal(size=(4, 60)) * 1e-20
    basis = error_space(torch.as_tensor(errors))
    _, _, right = np.linalg.svd(errors)
    assert basis.shape == (60, 4)
    np.testing.assert_allclose(basis.T @ basis, np.eye(4), atol=1e-10)
    overlaps = np.abs(np.diag(right[:4] @ basis.numpy()))
    np.testing.assert_allclose(overlaps, 1.0, atol=1e-8)
    assert error_space(torch.zeros(9, 60)).shape == (60, 0)


def test_the_norm_of_a_product_does_not_depend_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = torch.Generator().manual_seed(0)
    first, second = (torch.randn(7, n, generator=stream, dtype=torch.float64) for n in (40, 90))
    expected = np.linalg.norm(first.numpy().T @ second.numpy())
    for largest in (0, 10_000):
        monkeypatch.setattr(_closed_forms, "_LARGEST_PRODUCT", largest)
        assert float(_product_norm(Adjoint(first), second)) == pytest.approx(expected, rel=1e-12)

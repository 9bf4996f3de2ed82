"""Products and norms of two signals against the same in one piece and in plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alignlab.kernels import beside as module
from alignlab.kernels.beside import angle_beside, beside, products
from alignlab.kernels.cosines import angle, cosine


def signals(n_samples: int, n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    stream = torch.Generator().manual_seed(seed)
    first, second = torch.randn(2, n_samples, n, generator=stream)
    return first, second + 0.3 * first


@pytest.mark.parametrize("chunk", [1, 7, 64, 2**20])
@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (9, 40)])
def test_pieces_give_what_the_whole_gives(
    shape: tuple[int, int], chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CHUNK", chunk)
    first, second = signals(*shape)
    a, b = first.double().numpy(), second.double().numpy()
    found = beside(first, second)
    np.testing.assert_allclose(found.products, (a * b).sum(1), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(found.first, np.linalg.norm(a, axis=1), rtol=1e-12)
    np.testing.assert_allclose(found.second, np.linalg.norm(b, axis=1), rtol=1e-12)
    np.testing.assert_allclose(found.mean_first, a.mean(0), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(found.mean_second, b.mean(0), rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(found.cosines, cosine(first, second))
    torch.testing.assert_close(found.flat, cosine(first.flatten(), second.flatten()))
    torch.testing.assert_close(
        angle_beside(first, second, found), angle(first.flatten(), second.flatten())
    )
    numbers = [float(each) for each in products(first, second)]
    np.testing.assert_allclose(numbers, [(a * b).sum(), (a * a).sum(), (b * b).sum()], rtol=1e-12)


@given(st.integers(0, 100), st.floats(-24, 24), st.floats(-24, 24))
def test_sizes_turn_nothing(seed: int, one: float, other: float) -> None:
    first, second = (each.double() for each in signals(4, 6, seed))
    plain, scaled = beside(first, second), beside(10**one * first, 10**other * second)
    torch.testing.assert_close(scaled.cosines, plain.cosines)
    torch.testing.assert_close(scaled.flat, plain.flat)


@pytest.mark.parametrize("degrees", [0.0, 1e-4, 0.1, 45.0, 90.0, 179.9, 180.0])
def test_angles_are_right_near_both_ends(degrees: float) -> None:
    radians = np.radians(degrees)
    first = torch.tensor([[3.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    second = torch.tensor([[np.cos(radians), np.sin(radians)], [0.0, 0.0]], dtype=torch.float64)
    found = angle_beside(first, second, beside(first, second)).item()
    assert found == pytest.approx(degrees, abs=2e-6 if degrees > 179 else 1e-9)


def test_samples_without_a_direction_have_no_cosine() -> None:
    first, second = signals(3, 4)
    first[1] = 0.0
    found = beside(first, second)
    assert torch.isnan(found.cosines).tolist() == [False, True, False]
    assert torch.isfinite(found.flat)
    assert torch.isnan(beside(0.0 * first, second).flat)
    assert torch.isnan(angle_beside(first, 0.0 * second, beside(first, 0.0 * second)))


@pytest.mark.parametrize("size", [1e-39, 1e-42, 1e-44])
def test_what_has_lost_its_digits_shows_no_direction(size: float) -> None:
    first, second = signals(3, 4)
    first[1] *= size / first[1].norm()
    found, rest = beside(first, second), [0, 2]
    kept = beside(first[rest], second[rest])
    assert torch.isnan(found.cosines).tolist() == [False, True, False]
    assert (found.first[1], found.products[1]) == (0.0, 0.0)
    torch.testing.assert_close(found.cosines[rest], kept.cosines)
    assert [each.item() for each in products(first[1], second[1])[:2]] == [0.0, 0.0]
    # In double precision the same numbers are known to all digits.
    assert torch.isfinite(beside(first.double(), second.double()).cosines).all()


def test_means_that_cancel_to_rounding_are_seen() -> None:
    first, second = signals(6, 4)
    centred = first - first.double().mean(0).float()
    assert not beside(first, second).mean_cancels
    assert beside(centred, second).mean_cancels
    assert beside(second, centred).mean_cancels

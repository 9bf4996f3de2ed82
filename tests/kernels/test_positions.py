"""Inner products of the gradients of single positions against the gradients themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from alignlab.errors import InputError
from alignlab.kernels.layers import linear_part
from alignlab.kernels.positions import PositionProducts

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "strided": (lambda: nn.Conv2d(3, 4, 3, stride=2, padding=1), (3, 7, 6)),
    "grouped": (lambda: nn.Conv2d(4, 6, (2, 3), groups=2, dilation=(1, 2)), (4, 6, 7)),
    "same, uneven": (lambda: nn.Conv1d(2, 3, 4, padding="same"), (2, 9)),
    "valid": (lambda: nn.Conv1d(2, 3, 4, padding="valid"), (2, 9)),
    "circular": (lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), (2, 5, 5)),
    "reflected": (lambda: nn.Conv1d(2, 2, 5, padding=2, padding_mode="reflect"), (2, 6)),
    "three axes": (lambda: nn.Conv3d(2, 2, 2, padding=1), (2, 3, 3, 2)),
    "pointwise": (lambda: nn.Conv2d(5, 3, 1, stride=2), (5, 4, 4)),
    "linear on positions": (lambda: nn.Linear(4, 3), (5, 4)),
    "linear": (lambda: nn.Linear(4, 3), (4,)),
}
each_layer = pytest.mark.parametrize(("build", "shape"), LAYERS.values(), ids=LAYERS)


def doubles(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def one_by_one(module: Any, x: Tensor, signal: Tensor) -> Tensor:
    """Return the weight gradient of every position, from a backward pass of its own each."""
    axis = -1 if isinstance(module, nn.Linear) else 1
    places = signal.movedim(axis, -1).flatten(1, -2).shape[1] if signal.dim() > 2 else 1
    found = []
    for place in range(places):
        alone = torch.zeros_like(signal).movedim(axis, -1)
        shape = alone.shape
        alone = alone.reshape(shape[0], places, -1)
        alone[:, place] = signal.movedim(axis, -1).reshape(shape[0], places, -1)[:, place]
        weight = torch.zeros(module.weight.shape, dtype=torch.float64, requires_grad=True)
        linear_part(module, x, weight).backward(alone.reshape(shape).movedim(-1, axis))
        assert weight.grad is not None
        found.append(weight.grad.flatten())
    return torch.stack(found)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@each_layer
@pytest.mark.parametrize("n_samples", [1, 3, 40])
def test_products_are_those_of_the_gradients_of_all_positions(
    build: Callable[[], nn.Module], shape: tuple[int, ...], n_samples: int
) -> None:
    module = build()
    x = doubles(n_samples, *shape)
    outer = module(torch.zeros(1, *shape)).shape[1:]
    first, second = doubles(n_samples, *outer, seed=1), doubles(n_samples, *outer, seed=2)
    products = PositionProducts(module, x)
    mine, other = one_by_one(module, x, first), one_by_one(module, x, second)
    torch.testing.assert_close(products.energy(first), mine.square().sum())
    inner = (products.adjoint(first) * second).sum()
    torch.testing.assert_close(inner, (mine * other).sum() / mine.norm())
    expected = mine.sum(0).norm() / (len(mine) * mine.square().sum()).sqrt()
    torch.testing.assert_close(products.coherence(first), expected)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 99), factor=st.floats(0.01, 100.0))
def test_energy_grows_with_the_square_and_does_not_know_the_order_of_samples(
    seed: int, factor: float
) -> None:
    module, x = nn.Conv1d(2, 3, 3, padding=1), doubles(4, 2, 6, seed=seed)
    signal = doubles(4, 3, 6, seed=seed + 1)
    order = torch.randperm(4, generator=torch.Generator().manual_seed(seed))
    energy = PositionProducts(module, x).energy(signal)
    scaled = PositionProducts(module, x[order]).energy(factor * signal[order])
    torch.testing.assert_close(scaled, factor**2 * energy)


def test_large_inputs_are_taken_tap_by_tap(monkeypatch: pytest.MonkeyPatch) -> None:
    module, x = nn.Conv2d(3, 4, 3, padding=1), doubles(4, 3, 5, 5)
    signal = doubles(4, 4, 5, 5, seed=1)
    whole = PositionProducts(module, x)
    monkeypatch.setattr("alignlab.kernels.positions._MOST_ENTRIES", 1)
    cut = PositionProducts(module, x)
    torch.testing.assert_close(cut.energy(signal), whole.energy(signal))
    torch.testing.assert_close(cut.adjoint(signal), whole.adjoint(signal))


def test_a_transposed_convolution_is_refused() -> None:
    with pytest.raises(InputError, match="ConvTranspose1d has no weight gradient of single"):
        PositionProducts(nn.ConvTranspose1d(2, 3, 3), torch.zeros(1, 2, 5))


def test_coherence_is_one_where_positions_agree_and_small_where_they_do_not() -> None:
    products = PositionProducts(nn.Conv1d(1, 1, 1), torch.ones(1, 1, 16))
    assert float(products.coherence(torch.ones(1, 1, 16))) == pytest.approx(1.0)
    alternating = (-1.0) ** torch.arange(16).reshape(1, 1, 16)
    assert float(products.coherence(alternating)) == 0.0
    assert torch.isnan(products.coherence(torch.zeros(1, 1, 16)))
    apart = PositionProducts(nn.Conv1d(16, 1, 1), torch.eye(16).unsqueeze(0))
    assert float(apart.coherence(torch.ones(1, 1, 16))) == pytest.approx(0.25)


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_products_of_tiny_and_huge_numbers_neither_vanish_nor_overflow(size: float) -> None:
    module, x = nn.Conv2d(3, 4, 3), doubles(4, 3, 5, 5)
    signal = doubles(4, 4, 3, 3, seed=1)
    plain = PositionProducts(module, x)
    scaled = PositionProducts(module, (x / size).float())
    narrow = (size * signal).float()
    torch.testing.assert_close(scaled.energy(narrow), plain.energy(signal), rtol=1e-5, atol=0.0)
    torch.testing.assert_close(
        scaled.coherence(narrow), plain.coherence(signal), rtol=1e-5, atol=0.0
    )
    adjoint = scaled.adjoint(narrow).double() * size
    torch.testing.assert_close(adjoint, plain.adjoint(signal), rtol=1e-4, atol=1e-5)

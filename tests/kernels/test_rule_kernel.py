"""Kernels of rules against gradients one by one, dense matrices and Monte Carlo."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg
from torch import Tensor, nn

from alignlab.kernels.error_decay import error_decay
from alignlab.kernels.rule_kernel import (
    centred,
    gradient_rows,
    kernel_cosine,
    linear_block,
    sketched_cosine,
    sketched_norm,
    smallest_share,
    target_alignment,
)


def normal(*shape: int, seed: int) -> Tensor:
    stream = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=stream)


MODULES = {
    "linear": (nn.Linear(4, 3), (4,)),
    "linear at positions": (nn.Linear(4, 3), (5, 4)),
    "conv1d": (nn.Conv1d(2, 3, 3, stride=2, padding=1), (2, 7)),
    "conv2d, grouped": (nn.Conv2d(4, 6, 3, groups=2, padding="same"), (4, 5, 4)),
    "conv2d, circular": (nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), (2, 4, 4)),
    "conv3d": (nn.Conv3d(1, 2, 2), (1, 3, 3, 3)),
    "conv1d, dilated": (nn.Conv1d(2, 3, 3, stride=2, dilation=2), (2, 8)),
    "conv2d, transposed": (nn.ConvTranspose2d(4, 2, 3, stride=2, groups=2), (4, 3, 3)),
    "conv1d, transposed": (nn.ConvTranspose1d(2, 3, 3, stride=2, output_padding=1), (2, 4)),
    "linear at a grid of positions": (nn.Linear(4, 3, bias=True), (2, 5, 4)),
}


@pytest.mark.parametrize("name", MODULES)
def test_gradient_rows_are_gradients_one_by_one(name: str) -> None:
    module, shape = MODULES[name]
    module = module.double()
    x = normal(3, *shape, seed=0)
    output = module(x)
    signals = normal(3, 2, *output.shape[1:], seed=1)
    rows = gradient_rows(module, x, signals, bias=True)
    for i in range(3):
        for c in range(2):
            expected = torch.autograd.grad(
                module(x[i : i + 1]), [module.weight, module.bias], signals[i, c][None]
            )
            flat = torch.cat([g.flatten() for g in expected])
            torch.testing.assert_close(rows[2 * i + c], flat)
    assert gradient_rows(module, x, signals, bias=False).shape[1] == module.weight.numel()


@pytest.mark.parametrize("bias", [True, False])
def test_the_block_of_a_linear_layer_is_that_of_its_gradients(bias: bool) -> None:
    module = nn.Linear(4, 3).double()
    x, true, pseudo = normal(5, 4, seed=0), normal(5, 2, 3, seed=1), normal(5, 2, 3, seed=2)
    rows = [gradient_rows(module, x, signals, bias=bias) for signals in (true, pseudo)]
    torch.testing.assert_close(linear_block(true, pseudo, x, bias=bias), rows[0] @ rows[1].T)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 7), seed=st.integers(0, 500), power=st.integers(-15, 15))
def test_the_smallest_share_is_numpys_whatever_the_scale_and_rotation(
    n: int, seed: int, power: int
) -> None:
    kernel = normal(n, n, seed=seed)
    values = np.linalg.eigvalsh(((kernel + kernel.T) / 2).numpy())
    expected = values[0] / np.abs(values).max()
    turn = torch.linalg.qr(normal(n, n, seed=seed + 1))[0]
    assert float(smallest_share(kernel * 10.0**power)) == pytest.approx(expected)
    assert float(smallest_share(turn @ kernel @ turn.T)) == pytest.approx(expected)
    skew = kernel - kernel.T
    assert float(smallest_share(kernel + 100.0 * skew)) == pytest.approx(expected, abs=1e-9)


def test_centring_takes_the_mean_over_samples_off_the_features() -> None:
    n, c, p = 6, 3, 4
    left, right = normal(n, c, p, seed=0), normal(n, c, p, seed=1)
    kernel = left.flatten(0, 1) @ right.flatten(0, 1).T
    a, b = (each - each.mean(0) for each in (left, right))
    torch.testing.assert_close(centred(kernel, n), a.flatten(0, 1) @ b.flatten(0, 1).T)
    torch.testing.assert_close(centred(torch.stack([kernel, kernel]), n)[1], centred(kernel, n))


def test_cosines_of_kernels_are_those_of_their_entries() -> None:
    one, other = normal(6, 6, seed=0), normal(6, 6, seed=1)
    expected = float((one * other).sum() / (one.norm() * other.norm()))
    assert float(kernel_cosine(one, other)) == pytest.approx(expected)
    assert float(kernel_cosine(one, -3.0 * one)) == pytest.approx(-1.0)
    assert torch.isnan(kernel_cosine(one, torch.zeros(6, 6)))
    targets = normal(3, 2, seed=2)
    y = (targets - targets.mean(0)).flatten()
    expected = float(kernel_cosine(one, torch.outer(y, y)))
    assert float(target_alignment(one, targets)) == pytest.approx(expected)
    assert float(target_alignment(torch.outer(y, y), targets)) == pytest.approx(1.0)


def test_a_sketched_cosine_is_that_of_the_kernels_within_its_error() -> None:
    n = 40
    one = normal(n, 8, seed=0) @ normal(8, n, seed=1)
    other = one + 0.7 * normal(n, 8, seed=2) @ normal(8, n, seed=3)
    exact = float(kernel_cosine(one, other))
    values, errors = [], []
    for seed in range(400):
        v = normal(8, n, seed=100 + seed)
        found = sketched_cosine(v @ one @ v.T, v @ other @ v.T)
        values.append(float(found.value))
        errors.append(float(found.standard_error))
    assert np.mean(values) == pytest.approx(exact, abs=0.03)
    # Of pairs the jackknife says somewhat too much.
    assert 0.9 < np.sqrt(np.mean(np.square(errors))) / np.std(values) < 1.6
    assert float(sketched_cosine(v @ one @ v.T, v @ one @ v.T).value) == pytest.approx(1.0)


def test_a_sketched_norm_is_that_of_the_kernel_within_its_error() -> None:
    kernel = normal(30, 30, seed=0)
    found = [
        sketched_norm(v @ kernel @ v.T) for v in (normal(8, 30, seed=s + 1) for s in range(400))
    ]
    squares = np.array([float(each.value) ** 2 for each in found])
    error = squares.std() / len(squares) ** 0.5
    assert abs(squares.mean() - float(kernel.square().sum())) < 4.0 * error
    errors = [float(each.standard_error) for each in found]
    assert 0.9 < np.sqrt(np.mean(np.square(errors))) / np.sqrt(squares).std() < 1.6
    assert torch.isnan(sketched_norm(kernel[:2, :2]).standard_error)
    assert torch.isnan(sketched_norm(kernel[:1, :1]).value)


def test_the_products_of_a_sketch_are_unbiased() -> None:
    n = 12
    one, other = normal(n, n, seed=0), normal(n, n, seed=1)
    u, v = normal(300_000, n, seed=2), normal(300_000, n, seed=3)
    products = ((u @ one) * v).sum(1) * ((u @ other) * v).sum(1)
    error = float(products.std()) / len(products) ** 0.5
    assert abs(float(products.mean() - (one * other).sum())) < 4.0 * error


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 6), seed=st.integers(0, 200))
def test_the_decay_of_errors_is_numpys_and_its_parts_sum_to_it(n: int, seed: int) -> None:
    kernels = normal(3, n, n, seed=seed)
    root = normal(n, n, seed=seed + 1)
    curvature = root @ root.T + 0.1 * torch.eye(n)
    found = error_decay(kernels, curvature)
    expected = np.linalg.eigvals((curvature @ kernels.sum(0)).numpy())
    np.testing.assert_allclose(
        np.sort(found.values.real.numpy()), np.sort(expected.real), rtol=1e-6, atol=1e-8
    )
    assert float(found.parts.sum()) == pytest.approx(float(found.values[0].real), abs=1e-7)
    half = linalg.sqrtm(curvature.numpy())
    middle = half @ kernels.sum(0).numpy() @ half
    smallest = np.linalg.eigvalsh((middle + middle.T) / 2)[0]
    assert float(found.symmetric) == pytest.approx(smallest, abs=1e-7)
    assert float(found.symmetric) <= float(found.values[0].real) + 1e-9


def test_errors_grow_or_fall_as_the_eigenvalues_say() -> None:
    # Stable, but not normal: errors grow at first.
    kernel = torch.tensor([[1.0, 8.0], [0.0, 1.5]], dtype=torch.float64)
    found = error_decay(kernel[None], torch.eye(2))
    assert float(found.values[0].real) == pytest.approx(1.0)
    assert float(found.symmetric) < 0
    direction = np.linalg.eigh(((kernel + kernel.T) / 2).numpy())[1][:, 0]
    sizes = [np.linalg.norm(linalg.expm(-kernel.numpy() * t) @ direction) for t in (0.05, 20.0)]
    assert sizes[0] > 1.0
    assert sizes[1] < 1e-6


def test_the_part_of_a_kernel_is_how_the_eigenvalue_moves_with_it() -> None:
    kernels = normal(2, 5, 5, seed=4) + 3.0 * torch.eye(5)
    curvature = torch.diag(torch.arange(1.0, 6.0, dtype=torch.float64))
    parts = error_decay(kernels, curvature).parts
    scale = torch.tensor([1e-6, 0.0], dtype=torch.float64)[:, None, None]
    ends = [
        float(error_decay(kernels * (1 + side * scale), curvature).values[0].real)
        for side in (1, -1)
    ]
    assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(float(parts[0]), rel=1e-4)


def test_directions_without_curvature_are_left_out() -> None:
    # Of a softmax the sum of the errors is zero by construction.
    p = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    curvature = torch.diag(p) - torch.outer(p, p)
    found = error_decay(torch.eye(3)[None], curvature)
    expected = np.sort(np.linalg.eigvalsh(curvature.numpy()))[1:]
    np.testing.assert_allclose(found.values.real.numpy(), expected, atol=1e-10)
    empty = error_decay(torch.eye(3)[None], torch.zeros(3, 3))
    assert len(empty.values) == 0
    assert torch.isnan(empty.symmetric)


def test_what_rounding_hides_is_neither_growth_nor_decay() -> None:
    # Few parameters move many outputs: the rest is at rest, to either side by rounding alone.
    rows, pushed = normal(30, 4, seed=5), normal(30, 4, seed=6)
    truth = error_decay((rows @ rows.T)[None], torch.eye(30))
    assert (truth.values.real >= 0).all()
    assert float(truth.symmetric) == 0.0
    assert torch.isnan(truth.parts).all()
    assert float(smallest_share(rows @ rows.T)) == 0.0
    # Of another rule 26 errors stay too, and what moves has its sign still.
    found = error_decay((rows @ pushed.T)[None], torch.eye(30)).values
    expected = np.linalg.eigvals((pushed.T @ rows).numpy())
    moving = np.sort(found.real.numpy()[found.real.numpy() != 0])
    np.testing.assert_allclose(moving, np.sort(expected.real), rtol=1e-9)


def test_kernels_of_dead_layers_have_eigenvalues_too() -> None:
    # Rank two among 48, with entries that differ by many orders.
    left, right = normal(48, 2, seed=7), normal(48, 2, seed=8)
    kernel = left @ torch.diag(torch.tensor([1.0, 1e-30], dtype=torch.float64)) @ right.T
    parts = torch.stack([torch.zeros(48, 48, dtype=torch.float64), kernel])
    found = error_decay(parts, torch.eye(48))
    assert torch.isfinite(found.values.real).all()
    assert found.values.real.abs().max() == pytest.approx(abs(float(left[:, 0] @ right[:, 0])))

"""Noise of gradients over chunks: unbiased, and true of batches of a known distribution."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from alignlab.kernels.gradient_noise import gradient_noise, pairwise_cosine

SHAPES = st.tuples(st.integers(2, 9), st.integers(1, 6))


def chunks_of(shape: tuple[int, int], seed: int) -> Tensor:
    stream = torch.Generator().manual_seed(seed)
    common = torch.randn(shape[1], generator=stream, dtype=torch.float64)
    return common + torch.randn(shape, generator=stream, dtype=torch.float64)


def gradients_of_samples(n_samples: int, n: int) -> Tensor:
    """Return the gradients of a linear regression for every sample of a large data set."""
    random = np.random.default_rng(0)
    x = random.normal(size=(n_samples, n)) * np.linspace(0.5, 2.0, n)
    y = x @ random.normal(size=n) + random.normal(size=n_samples)
    residual = x @ (0.6 * random.normal(size=n)) - y
    return torch.as_tensor(residual[:, None] * x)


@pytest.mark.parametrize(("batch", "count"), [(64, 8), (256, 8), (64, 64), (30, 2)])
def test_estimates_are_those_of_the_whole_data_set(batch: int, count: int) -> None:
    """Draw 4,000 batches with replacement; tolerances are five standard errors."""
    rows = gradients_of_samples(20_000, 40)
    full = rows.mean(0)
    squared_norm, trace = full.square().sum(), (rows - full).square().sum(1).mean()
    stream = torch.Generator().manual_seed(batch + count)
    drawn = torch.randint(0, len(rows), (4_000, count, batch // count), generator=stream)
    means = rows[drawn].mean(2)
    found = gradient_noise(means @ means.mT, samples=batch // count)
    estimate = found.squared_norm
    error = estimate.std() / len(estimate) ** 0.5
    assert abs(estimate.mean() - squared_norm) < 5 * error
    traces = found.scale * estimate
    known = torch.isfinite(traces)
    assert known.double().mean() > 0.95
    # The trace is read where the norm is positive, which leaves out a few per cent of batches.
    assert traces[known].mean().item() == pytest.approx(trace.item(), rel=0.03)

    batch_gradient = means.mean(1)
    cosines = torch.nn.functional.cosine_similarity(batch_gradient, full.expand_as(means[:, 0]))
    expected = (1 + trace / squared_norm / batch) ** -0.5
    assert cosines.mean().item() == pytest.approx(expected.item(), rel=0.04)
    median = found.ceiling[torch.isfinite(found.ceiling)].median()
    assert median.item() == pytest.approx(cosines.median().item(), abs=0.08)


@given(SHAPES, st.integers(0, 2**31), st.floats(1.0, 100.0))
def test_it_is_the_estimate_of_two_batch_sizes(
    shape: tuple[int, int], seed: int, small: float
) -> None:
    chunks = chunks_of(shape, seed)
    big = small * len(chunks)
    of_big, of_small = chunks.mean(0).square().sum(), chunks.square().sum(1).mean()
    norm = (big * of_big - small * of_small) / (big - small)
    trace = (of_small - of_big) / (1 / small - 1 / big)
    found = gradient_noise(chunks @ chunks.T, samples=small)
    torch.testing.assert_close(found.squared_norm, norm, rtol=1e-9, atol=1e-9)
    if norm > 1e-6:
        torch.testing.assert_close(found.scale, trace / norm, rtol=1e-7, atol=1e-9)
        expected = (1 + found.scale / big) ** -0.5
        torch.testing.assert_close(found.ceiling, expected, rtol=1e-7, atol=0.0)
        assert 0 < found.ceiling <= 1
    elif norm <= 0:
        assert torch.isnan(found.scale)
        assert torch.isnan(found.ceiling)


@given(SHAPES, st.integers(0, 2**31), st.floats(1e-9, 1e9), st.randoms())
def test_ceiling_and_stability_know_neither_unit_nor_order_nor_basis(
    shape: tuple[int, int], seed: int, unit: float, random: object
) -> None:
    chunks = chunks_of(shape, seed)
    order = list(range(len(chunks)))
    random.shuffle(order)  # type: ignore[attr-defined]
    basis, _ = torch.linalg.qr(chunks_of((shape[1], shape[1]), seed + 1))
    other = unit * chunks[order] @ basis
    first, second = (gradient_noise(c @ c.T, samples=2) for c in (chunks, other))
    if abs(first.squared_norm) > 1e-6:
        torch.testing.assert_close(second.ceiling, first.ceiling, equal_nan=True)
        torch.testing.assert_close(second.scale, first.scale, equal_nan=True)
    one, two = (pairwise_cosine(c @ c.T) for c in (chunks, other))
    torch.testing.assert_close(two.value, one.value)
    torch.testing.assert_close(two.sd, one.sd)
    torch.testing.assert_close(two.by_chance.sort()[0], one.by_chance.sort()[0])


def test_equal_chunks_have_no_noise_and_opposite_ones_no_ceiling() -> None:
    same = torch.ones(4, 3)
    found = gradient_noise(same @ same.T, samples=4)
    assert (found.scale.item(), found.ceiling.item()) == (0.0, 1.0)
    apart = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    found = gradient_noise(apart @ apart.T, samples=4)
    assert found.squared_norm.item() == -1.0
    assert torch.isnan(found.ceiling)
    assert torch.isnan(gradient_noise(torch.ones(1, 1), samples=4).squared_norm)


@given(SHAPES, st.integers(0, 2**31))
def test_the_mean_over_pairs_is_that_of_all_pairs(shape: tuple[int, int], seed: int) -> None:
    chunks = chunks_of(shape, seed)
    unit = chunks / chunks.norm(dim=1, keepdim=True)
    pairs = [float(unit[j] @ unit[k]) for j in range(len(unit)) for k in range(j)]
    found = pairwise_cosine(chunks @ chunks.T)
    assert found.value.item() == pytest.approx(np.mean(pairs), abs=1e-12)
    assert found.value.item() >= -1 / (len(unit) - 1) - 1e-12
    assert len(found.by_chance) == 2 ** (len(chunks) - 1) - 1
    # All patterns, the observed one and its opposites included, have exactly mean 0 and this sd.
    every = torch.cat([found.value[None], found.by_chance])
    assert every.mean().item() == pytest.approx(0.0, abs=1e-12)
    assert every.square().mean().sqrt().item() == pytest.approx(found.sd.item(), abs=1e-12)


def test_patterns_of_signs_are_all_and_each_once() -> None:
    chunks = chunks_of((4, 5), 3)
    unit = chunks / chunks.norm(dim=1, keepdim=True)
    expected = []
    for signs in product((1.0, -1.0), repeat=4):
        turned = unit * torch.tensor(signs)[:, None]
        expected.append(((turned.sum(0).square().sum() - 4) / 12).item())
    found = pairwise_cosine(chunks @ chunks.T)
    every = sorted([found.value.item(), *found.by_chance.tolist()] * 2)
    assert every == pytest.approx(sorted(expected), abs=1e-12)


@pytest.mark.parametrize("count", [8, 14])
def test_p_is_uniform_where_chunks_have_no_common_direction(count: int) -> None:
    stream = torch.Generator().manual_seed(count)
    chunks = torch.randn(400, count, 5, generator=stream, dtype=torch.float64)
    found = pairwise_cosine(chunks @ chunks.mT)
    reached = (found.by_chance >= found.value).sum(0)
    p = (1 + reached) / (1 + len(found.by_chance))
    steps = torch.linspace(0.1, 0.9, 9)
    shares = (p[None] <= steps[:, None]).double().mean(1)
    # Four standard errors of a share of 400.
    assert (shares - steps).abs().max() < 4 * 0.5 / 20
    inside = (found.value.abs() <= 1.96 * found.sd).double().mean()
    assert 0.9 < inside <= 1.0


def test_layers_are_judged_together_as_one_by_one() -> None:
    grams = torch.stack([c @ c.T for c in (chunks_of((5, 3), seed) for seed in range(4))])
    both, alone = pairwise_cosine(grams), [pairwise_cosine(gram) for gram in grams]
    for k, each in enumerate(alone):
        torch.testing.assert_close(both.by_chance[:, k], each.by_chance)
        torch.testing.assert_close(both.value[k], each.value)
    torch.testing.assert_close(
        gradient_noise(grams, samples=3).ceiling[2],
        gradient_noise(grams[2], samples=3).ceiling,
        equal_nan=True,
    )


def test_a_chunk_without_a_gradient_has_no_direction() -> None:
    chunks = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    assert torch.isnan(pairwise_cosine(chunks @ chunks.T).value)

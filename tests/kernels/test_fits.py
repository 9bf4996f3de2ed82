"""Least squares, in sample and held out, against numpy's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from alignlab.kernels.attainable import Attainable, chosen_halves
from alignlab.kernels.regression import (
    explained_elsewhere,
    explained_held_out,
    explained_in_sample,
    row_space,
)


def doubles(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def first_half(n: int) -> Tensor:
    return torch.arange(n) < n // 2


def softmax_errors(n_samples: int, n_classes: int, *, seed: int = 0) -> Tensor:
    """Return errors whose rows sum to zero."""
    share = torch.softmax(doubles(n_samples, n_classes, seed=seed), 1)
    return share - torch.nn.functional.one_hot(torch.arange(n_samples) % n_classes, n_classes)


def by_numpy(features: Tensor, targets: Tensor) -> np.ndarray:
    return np.linalg.lstsq(features.numpy(), targets.numpy(), rcond=1e-6)[0]


@given(seed=st.integers(0, 1000), n_classes=st.integers(2, 6))
def test_the_share_in_sample_is_that_of_least_squares(seed: int, n_classes: int) -> None:
    features, targets = softmax_errors(20, n_classes, seed=seed), doubles(20, 7, seed=seed + 1)
    fitted = features.numpy() @ by_numpy(features, targets)
    expected = (fitted**2).sum() / (targets.numpy() ** 2).sum()
    assert float(explained_in_sample(features, targets)) == pytest.approx(expected)
    assert row_space(features).shape == (n_classes, n_classes - 1)


def ridge_by_numpy(
    features: np.ndarray, targets: np.ndarray, gains: np.ndarray, *, ridge: float
) -> np.ndarray:
    """Return weights, unit by unit, with a share of the features' mean energy as a ridge."""
    n = features.shape[1]
    found = []
    for aims, gain in zip(targets.T, gains.T, strict=True):
        size = (features**2).sum() / n * gain.max()
        rows = np.vstack([features * np.sqrt(gain)[:, None], np.eye(n) * np.sqrt(ridge * size)])
        found.append(np.linalg.lstsq(rows, np.append(aims * np.sqrt(gain), np.zeros(n)))[0])
    return np.stack(found, 1)


@pytest.mark.parametrize("weighted", [False, True])
@given(seed=st.integers(0, 1000))
def test_the_share_held_out_is_that_of_least_squares_on_the_other_half(
    weighted: bool, seed: int
) -> None:
    features, targets = doubles(30, 4, seed=seed), doubles(30, 7, seed=seed + 1)
    gains = (doubles(30, 7, seed=seed + 2).abs() - 0.3).clamp_min(0.0)
    gains = gains if weighted else torch.ones_like(gains)
    fold = first_half(30)
    expected = []
    for train, test in ((fold, ~fold), (~fold, fold)):
        arrays = [each[train].numpy() for each in (features, targets, gains)]
        weights = ridge_by_numpy(*arrays, ridge=1e-3 if weighted else 0.0)
        rest = targets[test].numpy() - features[test].numpy() @ weights
        energy = (gains[test].numpy() * targets[test].numpy() ** 2).sum()
        expected.append(1.0 - (gains[test].numpy() * rest**2).sum() / energy)
    given_gains = gains if weighted else None
    found = explained_held_out(features, targets, fold, gains=given_gains)
    assert float(found) == pytest.approx(np.mean(expected), abs=1e-9)


@pytest.mark.parametrize("weighted", [False, True])
@given(seed=st.integers(0, 500))
def test_feedback_of_then_is_scored_by_its_cosine_now(weighted: bool, seed: int) -> None:
    then = doubles(30, 4, seed=seed), doubles(30, 7, seed=seed + 1)
    now = doubles(30, 4, seed=seed + 2), doubles(30, 7, seed=seed + 3)
    gains = [(doubles(30, 7, seed=seed + k).abs() - 0.3).clamp_min(0.0) for k in (4, 5)]
    plain = gains if weighted else [torch.ones(30, 7, dtype=torch.float64)] * 2
    fold, expected = first_half(30), []
    for train, test in ((fold, ~fold), (~fold, fold)):
        arrays = [each[train].numpy() for each in (*then, plain[0])]
        weights = ridge_by_numpy(*arrays, ridge=1e-3 if weighted else 0.0)
        root = plain[1][test].sqrt().numpy()
        made, aim = root * (now[0][test].numpy() @ weights), root * now[1][test].numpy()
        c = (made * aim).sum() / np.linalg.norm(made) / np.linalg.norm(aim)
        expected.append(c * abs(c))
    given_gains = gains if weighted else [None, None]
    found = explained_elsewhere((*then, given_gains[0]), (*now, given_gains[1]), fold)
    assert float(found) == pytest.approx(np.mean(expected), abs=1e-9)


def test_feedback_that_still_fits_scores_one_and_that_of_turned_signals_minus_one() -> None:
    errors, later, feedback = doubles(40, 5), doubles(40, 5, seed=1), doubles(5, 9, seed=2)
    then = (errors, errors @ feedback, None)
    for scale, expected in ((7.0, 1.0), (-0.1, -1.0)):
        now = (later, scale * later @ feedback, None)
        found = float(explained_elsewhere(then, now, first_half(40)))
        assert found == pytest.approx(expected, abs=1e-9)


def test_layers_together_are_layers_one_by_one() -> None:
    features, targets = doubles(30, 4), doubles(3, 30, 7, seed=1)
    gains, fold = doubles(3, 30, 7, seed=2).abs(), first_half(30)
    inside = explained_in_sample(features, targets, gains=gains)
    outside = explained_held_out(features, targets, fold)
    for k in range(3):
        torch.testing.assert_close(
            inside[k], explained_in_sample(features, targets[k], gains=gains[k])
        )
        torch.testing.assert_close(outside[k], explained_held_out(features, targets[k], fold))


def test_what_is_linear_is_explained_in_sample_and_held_out() -> None:
    features = softmax_errors(40, 5)
    targets = features @ doubles(5, 9)
    assert float(explained_in_sample(features, targets)) == pytest.approx(1.0, abs=1e-12)
    held_out = explained_held_out(features, targets, first_half(40))
    assert float(held_out) == pytest.approx(1.0, abs=1e-3)


def test_what_is_unrelated_is_explained_by_as_much_as_there_are_directions_to_fit() -> None:
    inside, outside = [], []
    for seed in range(200):
        features, targets = doubles(60, 6, seed=2 * seed), doubles(60, 5, seed=2 * seed + 1)
        inside.append(float(explained_in_sample(features, targets)))
        outside.append(float(explained_held_out(features, targets, first_half(60))))
    assert np.mean(inside) == pytest.approx(6 / 60, rel=0.05)
    assert np.mean(outside) < 0.0 < np.mean(inside)


def test_what_is_partly_related_lies_in_the_bracket() -> None:
    inside, outside = [], []
    for seed in range(100):
        features = doubles(80, 5, seed=3 * seed)
        noise = doubles(80, 9, seed=3 * seed + 2) * 5.0**0.5
        targets = features @ doubles(5, 9, seed=3 * seed + 1) + noise
        inside.append(float(explained_in_sample(features, targets)))
        outside.append(float(explained_held_out(features, targets, first_half(80))))
    assert np.mean(outside) < 0.5 < np.mean(inside)


def test_nothing_to_explain_and_nothing_to_fit_on_are_undefined() -> None:
    features, targets = doubles(10, 3), doubles(10, 4)
    zeros = torch.zeros_like(targets)
    assert torch.isnan(explained_in_sample(features, zeros))
    assert torch.isnan(explained_held_out(features, zeros, first_half(10)))
    nobody = torch.zeros(10, dtype=torch.bool)
    assert torch.isnan(explained_held_out(features, targets, nobody))
    assert float(explained_in_sample(torch.zeros(10, 3), targets)) == 0.0


def attainable(
    features: Tensor, fold: Tensor, targets: Sequence[Tensor], *, gains: Tensor | None = None
) -> Tensor:
    """Return the cosines with everything cut in halves."""

    def cut(whole: Tensor) -> tuple[Tensor, Tensor]:
        return whole[fold], whole[~fold]

    fit = Attainable(cut(features), gains=None if gains is None else cut(gains))
    return fit.cosines([cut(target) for target in targets])


def weighted_by_numpy(features: Tensor, target: Tensor, gains: Tensor, fold: Tensor) -> list[float]:
    """Return the cosines of both halves, every channel fitted by itself."""
    found = []
    for train, test in ((fold, ~fold), (~fold, fold)):
        shown, aimed = [], []
        for channel in range(target.shape[1]):
            root = gains[:, channel].sqrt()
            rows = (features * root.unsqueeze(1)).transpose(1, 2)
            aims = target[:, channel] * root
            weight = np.linalg.lstsq(
                rows[train].flatten(0, 1).numpy(), aims[train].flatten().numpy(), rcond=1e-8
            )[0]
            shown.append(rows[test].flatten(0, 1).numpy() @ weight)
            aimed.append(aims[test].flatten().numpy())
        first, second = np.concatenate(shown), np.concatenate(aimed)
        found.append(first @ second / np.linalg.norm(first) / np.linalg.norm(second))
    return found


@pytest.mark.parametrize("weighted", [False, True])
@given(seed=st.integers(0, 100))
def test_the_attainable_cosine_is_that_of_weighted_least_squares(weighted: bool, seed: int) -> None:
    features, target = doubles(80, 5, 3, seed=seed), doubles(80, 2, 3, seed=seed + 1)
    gains = (doubles(80, 2, 3, seed=seed + 2) > 0).double() if weighted else None
    fold = first_half(80)
    plain = torch.ones_like(target) if gains is None else gains
    expected = np.mean(weighted_by_numpy(features, target, plain, fold))
    (found,) = attainable(features, fold, [target], gains=gains)
    assert float(found) == pytest.approx(expected, abs=1e-9)


def test_what_weights_can_build_is_attainable() -> None:
    features = doubles(20, 4, 3)
    target = torch.einsum("nfp,fc->ncp", features, doubles(4, 2, seed=1))
    found = attainable(features, first_half(20), [target, -target, 1e-25 * target])
    torch.testing.assert_close(found, torch.ones(3, dtype=torch.float64))


@given(seed=st.integers(0, 100))
def test_few_rows_are_fitted_in_the_strongest_directions_alone(seed: int) -> None:
    features, target = doubles(20, 8, 1, seed=seed), doubles(20, 3, 1, seed=seed + 1)
    fold = first_half(20)
    strongest = np.linalg.svd(features[..., 0].numpy(), full_matrices=False)[2][:2]
    fewer = torch.as_tensor(features[..., 0].numpy() @ strongest.T).unsqueeze(2)
    expected = np.mean(weighted_by_numpy(fewer, target, torch.ones_like(target), fold))
    assert float(attainable(features, fold, [target])) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-3)])
def test_gated_fits_of_many_correlated_features_are_those_of_least_squares(
    dtype: torch.dtype, tolerance: float
) -> None:
    fold = first_half(60)
    mixing = doubles(30, 30, seed=1) * torch.logspace(0, -3, 30, dtype=torch.float64)
    features = torch.einsum("nfp,fg->ngp", doubles(60, 30, 40), mixing)
    gains = (doubles(60, 4, 40, seed=2) > 0).double() * doubles(1, 4, 1, seed=3).square()
    target = torch.einsum("nfp,fc->ncp", features, doubles(30, 4, seed=4))
    target = target / target.std() + 2.0 * doubles(60, 4, 40, seed=5)
    expected = np.mean(weighted_by_numpy(features, target, gains, fold))
    narrow = [each.to(dtype) for each in (features, target, gains)]
    found = attainable(narrow[0], fold, [narrow[1]], gains=narrow[2])
    assert float(found) == pytest.approx(expected, abs=tolerance)
    cut = (narrow[0][fold], narrow[0][~fold])
    gated = Attainable(cut).gated((narrow[2][fold], narrow[2][~fold]))
    assert float(gated.cosines([(narrow[1][fold], narrow[1][~fold])])) == float(found)


def test_enough_samples_are_chosen_from_each_half() -> None:
    fold = torch.arange(100) % 2 == 0
    first, second = chosen_halves(fold, n_features=9, n_places=1000)
    assert first.tolist() == [0, 2, 4, 6, 8, 10]
    assert second.tolist() == [1, 3, 5, 7, 9, 11]
    whole, _ = chosen_halves(fold, n_features=9, n_places=1)
    assert whole.tolist() == list(range(0, 100, 2))
    more, _ = chosen_halves(fold, n_features=1200, n_places=1000)
    assert len(more) == 13


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_directions_that_one_half_lacks_are_left_alone_there(dtype: torch.dtype) -> None:
    # Steps along them are rounding alone, and the other half shows what they have grown to.
    stream = torch.Generator().manual_seed(1)
    halves, aims = (
        [torch.randn(40, n, 2, generator=stream, dtype=torch.float64) for _ in range(2)]
        for n in (5, 3)
    )
    halves[0][:, 2] = 0.0
    mixed = torch.randn(5, 5, generator=stream, dtype=torch.float64)
    halves = [torch.einsum("nfp,fg->ngp", half, mixed) for half in halves]

    def cosine_at(scale: float) -> float:
        features = (scale * halves[0]).to(dtype), (scale * halves[1]).to(dtype)
        return float(Attainable(features).cosines([(aims[0].to(dtype), aims[1].to(dtype))]))

    found = [cosine_at(scale) for scale in (1.0, 1e5, 3.7, 0.13)]
    assert max(found) - min(found) < 1e-6

"""Decoding: ridge regressions of another library, closed forms, permutations."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression, Ridge
from torch import Tensor

from alignlab.kernels.decoding import (
    PENALTIES,
    explained_share,
    held_out_accuracy,
    held_out_residuals,
    held_out_share,
    mean_residuals,
)
from alignlab.kernels.similarity import centred_gram


def noise(*shape: int, seed: int = 0) -> Tensor:
    stream = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=stream, dtype=torch.float64)


def about_mean(x: Tensor) -> Tensor:
    return centred_gram(x @ x.mT)


def folded(n_samples: int, count: int, *, seed: int = 0) -> list[Tensor]:
    order = torch.randperm(n_samples, generator=torch.Generator().manual_seed(seed))
    return list(order.tensor_split(count))


def one_hot(n_samples: int, n_classes: int) -> Tensor:
    return torch.nn.functional.one_hot(torch.arange(n_samples) % n_classes, n_classes).double()


def clusters(n_samples: int, n: int, *, apart: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return samples about the means of their classes, and the classes."""
    y = one_hot(n_samples, 3)
    return y @ noise(3, n, seed=seed + 1) * apart + noise(n_samples, n, seed=seed), y


@pytest.mark.parametrize("shape", [(23, 4), (17, 40)])
@pytest.mark.parametrize("penalty", [1e-3, 0.3])
def test_residuals_are_those_of_fits_that_have_not_seen_the_fold(
    shape: tuple[int, int], penalty: float
) -> None:
    x, y = noise(*shape) + 2.0, noise(shape[0], 3, seed=1) - 1.0
    folds = folded(shape[0], 5)
    found = held_out_residuals(about_mean(x), y, folds, penalties=[penalty])
    centred = x - x.mean(0)
    weight = penalty * float(centred.square().sum(1).mean())
    for fold in folds:
        seen = [k for k in range(shape[0]) if k not in fold.tolist()]
        model = Ridge(alpha=weight).fit(x[seen].numpy(), y[seen].numpy())
        expected = y[fold].numpy() - model.predict(x[fold].numpy())
        np.testing.assert_allclose(found[fold].numpy(), expected, atol=1e-9)


def test_a_penalty_is_chosen_without_the_residuals_of_the_fold_itself() -> None:
    x, y = clusters(20, 6, apart=0.4)
    folds = folded(20, 4)
    gram = about_mean(x)
    each = [held_out_residuals(gram, y, folds, penalties=[p]) for p in PENALTIES]
    found = held_out_residuals(gram, y, folds, penalties=PENALTIES)
    for fold in folds:
        rest = torch.tensor([k for k in range(20) if k not in fold.tolist()])
        best = min(each, key=lambda r: float(r[rest].square().sum()))
        torch.testing.assert_close(found[fold], best[fold])


def test_several_targets_are_fitted_one_by_one() -> None:
    x, _ = clusters(20, 6, apart=1.0)
    targets = noise(4, 20, 3, seed=5)
    folds, gram = folded(20, 4), about_mean(x)
    found = held_out_residuals(gram, targets, folds, penalties=PENALTIES)
    for k in range(4):
        each = held_out_residuals(gram, targets[k], folds, penalties=PENALTIES)
        torch.testing.assert_close(found[k], each)
        torch.testing.assert_close(
            mean_residuals(targets, folds)[k], mean_residuals(targets[k], folds)
        )


def test_the_baseline_is_the_mean_of_the_other_folds() -> None:
    y, folds = noise(11, 2), folded(11, 3)
    found = mean_residuals(y, folds)
    for fold in folds:
        seen = [k for k in range(11) if k not in fold.tolist()]
        torch.testing.assert_close(found[fold], y[fold] - y[seen].mean(0))
    assert held_out_share(found, found).item() == 0.0
    nothing = torch.full((6, 3), 0.1)
    useless = held_out_residuals(about_mean(nothing), y[:6], folded(6, 3), penalties=[1.0])
    torch.testing.assert_close(useless, mean_residuals(y[:6], folded(6, 3)))


def test_separate_classes_are_told_apart_and_noise_tells_nothing() -> None:
    folds = folded(60, 5)
    for apart, accuracy, share in ((4.0, 1.0, 0.8), (0.0, 1 / 3, 0.0)):
        x, y = clusters(60, 10, apart=apart)
        found = held_out_residuals(about_mean(x), y, folds, penalties=PENALTIES)
        assert held_out_accuracy(found, y).item() == pytest.approx(accuracy, abs=0.15)
        explained = held_out_share(found, mean_residuals(y, folds)).item()
        assert explained > share if share else explained < 0.05


@given(seed=st.integers(0, 2**31), exponent=st.integers(-30, 30))
@settings(deadline=None, max_examples=25)
def test_no_rotation_scale_or_shift_of_the_features_changes_it(seed: int, exponent: int) -> None:
    x, y = clusters(12, 4, apart=1.0, seed=seed)
    turn, _ = torch.linalg.qr(noise(4, 4, seed=seed + 2))
    folds = folded(12, 3)
    expected = held_out_residuals(about_mean(x), y, folds, penalties=[0.1])
    for same in (x @ turn, 10.0**exponent * x, x + 3.0):
        found = held_out_residuals(about_mean(same), y, folds, penalties=[0.1])
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)


def test_without_a_penalty_the_explained_share_is_that_of_least_squares() -> None:
    x, y = clusters(30, 5, apart=1.0)
    share, chance = explained_share(about_mean(x), y, penalty=torch.tensor(1e-9).double())
    model = LinearRegression().fit(x.numpy(), y.numpy())
    missed = y.numpy() - model.predict(x.numpy())
    centred = (y - y.mean(0)).numpy()
    assert share.item() == pytest.approx(1.0 - (missed**2).sum() / (centred**2).sum(), abs=1e-6)
    assert chance.item() == pytest.approx(5 / 29, abs=1e-6)
    # The whitened trace by itself.
    features = (x - x.mean(0)).numpy()
    between, covariance = features.T @ centred / 30, features.T @ features / 30
    trace = np.trace(between.T @ np.linalg.solve(covariance, between))
    assert share.item() == pytest.approx(trace / (centred**2).sum() * 30, abs=1e-6)


def test_its_mean_over_all_permutations_is_the_stated_one() -> None:
    x, y = noise(6, 2) + 1.0, one_hot(6, 3)
    gram, penalty = about_mean(x), torch.tensor(0.2).double()
    shares = [explained_share(gram, y[list(o)], penalty=penalty)[0] for o in permutations(range(6))]
    _, chance = explained_share(gram, y, penalty=penalty)
    assert torch.stack(shares).mean().item() == pytest.approx(chance.item())


def test_layers_are_explained_one_by_one() -> None:
    x, y = noise(3, 9, 4), one_hot(9, 3)
    penalty = torch.tensor([0.1, 0.2, 0.3]).double()
    share, chance = explained_share(about_mean(x), y, penalty=penalty)
    for k in range(3):
        one, other = explained_share(about_mean(x[k]), y, penalty=penalty[k])
        torch.testing.assert_close(share[k], one)
        torch.testing.assert_close(chance[k], other)


def test_features_that_do_not_differ_explain_nothing_and_equal_targets_are_undefined() -> None:
    y = one_hot(6, 3)
    gram = about_mean(torch.full((6, 4), 0.1))
    assert gram.abs().max() == 0.0
    share, chance = explained_share(gram, y, penalty=torch.tensor(0.1).double())
    assert (share.item(), chance.item()) == (pytest.approx(0.0), pytest.approx(0.0))
    same = torch.ones(6, 2)
    assert torch.isnan(explained_share(about_mean(noise(6, 4)), same, penalty=share + 1)[0])

"""Which samples are taken."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from alignlab.datasets._select import permutation, stratified

LABELS = arrays.arrays(np.int64, st.integers(1, 200), elements=st.integers(0, 12))


@given(labels=LABELS, share=st.floats(0.01, 1.0), seed=st.integers(0, 2**32))
def test_every_class_keeps_its_share_to_within_one_sample(
    labels: np.ndarray, share: float, seed: int
) -> None:
    size = max(1, int(share * len(labels)))
    chosen = stratified(labels, size, seed=seed)
    assert len(chosen) == len(set(chosen.tolist())) == size
    taken = np.bincount(labels[chosen], minlength=13)
    exact = np.bincount(labels, minlength=13) * size / len(labels)
    assert np.all(np.abs(taken - exact) < 1)


@given(n=st.integers(1, 500), seed=st.integers(0, 2**32))
def test_a_permutation_holds_every_index_once(n: int, seed: int) -> None:
    assert sorted(permutation(n, seed)) == list(range(n))


def test_another_seed_chooses_other_samples() -> None:
    labels = np.repeat(np.arange(10), 100)
    first, again, other = (set(stratified(labels, 100, seed=seed).tolist()) for seed in (0, 0, 1))
    assert first == again
    assert len(first & other) < 30


def test_sorted_classes_do_not_stay_sorted() -> None:
    labels = np.repeat(np.arange(2), 100)
    halves = labels[stratified(labels, 200, seed=0)].reshape(2, 100).mean(axis=1)
    assert np.all(np.abs(halves - 0.5) < 0.2)


def test_the_choice_is_the_same_under_every_version_of_numpy() -> None:
    labels = np.arange(40) % 3
    assert stratified(labels, 6, seed=7).tolist() == [37, 6, 32, 24, 23, 31]

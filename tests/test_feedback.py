"""Draws of feedback: moments, streams of their own, and one hash for all."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from alignlab.errors import InputError
from alignlab.feedback import DISTRIBUTIONS, digest, generator, unit_draw

NAMES = st.lists(st.text("ab.@1", min_size=1, max_size=4), max_size=3)


def numbers(seed: int, *names: str) -> list[float]:
    return torch.rand(4, generator=generator(seed, *names)).tolist()


@given(seed=st.integers(), names=NAMES, other=NAMES)
def test_a_stream_is_that_of_its_seed_and_its_names(
    seed: int, names: list[str], other: list[str]
) -> None:
    assert numbers(seed, *names) == numbers(seed, *names)
    assert (numbers(seed, *names) == numbers(seed, *other)) == (names == other)
    assert numbers(seed, *names) != numbers(seed + 1, *names)


def test_streams_leave_the_global_one_alone() -> None:
    before = torch.get_rng_state()
    unit_draw((3, 4), "orthogonal", stream=generator(0, "x"))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_entries_have_mean_zero_and_variance_one(distribution: str) -> None:
    draw = unit_draw((200, 300), distribution, stream=generator(0, distribution))
    assert draw.dtype == torch.float32
    assert float(draw.mean()) == pytest.approx(0.0, abs=0.02)
    assert float(draw.square().mean()) == pytest.approx(1.0, abs=0.02)


def test_the_distributions_are_what_they_are_called() -> None:
    fourth = {
        name: float(unit_draw((400, 300), name, stream=generator(1)).pow(4).mean())
        for name in ("normal", "uniform", "sign")
    }
    assert fourth == {
        "normal": pytest.approx(3.0, rel=0.02),
        "uniform": pytest.approx(1.8, rel=0.02),
        "sign": 1.0,
    }


@given(rows=st.integers(1, 9), columns=st.integers(1, 9))
def test_an_orthogonal_draw_is_orthogonal_along_its_shorter_side(rows: int, columns: int) -> None:
    draw = unit_draw((rows, columns), "orthogonal", stream=generator(rows, "o")).double()
    short = draw if rows <= columns else draw.T
    product = short @ short.T / max(rows, columns)
    torch.testing.assert_close(product, torch.eye(len(short)).double(), atol=1e-5, rtol=0.0)


def test_an_orthogonal_kernel_is_orthogonal_over_its_first_axis() -> None:
    draw = unit_draw((4, 3, 2, 2), "orthogonal", stream=generator(0)).flatten(1).double()
    torch.testing.assert_close(draw @ draw.T, 12.0 * torch.eye(4).double(), atol=1e-5, rtol=0.0)


def test_an_unknown_distribution_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(InputError, match="'cauchy'; known are normal, uniform, orthogonal, sign"):
        unit_draw((2, 2), "cauchy", stream=generator(0))


FEEDBACK = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2)}


@pytest.mark.parametrize(
    "other",
    [
        {"a": FEEDBACK["a"] + 1e-6, "b": FEEDBACK["b"]},
        {"a": FEEDBACK["a"].reshape(3, 2), "b": FEEDBACK["b"]},
        {"a": FEEDBACK["a"], "c": FEEDBACK["b"]},
        {"a": FEEDBACK["a"]},
        {},
    ],
)
def test_the_hash_tells_values_shapes_and_names_apart(other: dict[str, Tensor]) -> None:
    assert digest(other) != digest(FEEDBACK)


def test_the_hash_is_that_of_the_numbers_however_they_are_held() -> None:
    same = {
        "b": FEEDBACK["b"].double().requires_grad_(),
        "a": FEEDBACK["a"].T.contiguous().T,
    }
    assert digest(same) == digest(FEEDBACK)
    assert len(digest(FEEDBACK)) == 64

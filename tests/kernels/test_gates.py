"""Gates: loops over units, closed forms, and what does not change them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from alignlab.kernels.gates import (
    OPEN,
    gate_energies,
    gate_participation,
    gate_size,
    open_share,
    silent_units,
)

SEEDS = st.integers(0, 2**31)
ONE = torch.tensor(1.0)


def participation(x: Tensor) -> Tensor:
    return gate_participation(gate_energies(x))


def size(x: Tensor) -> Tensor:
    return gate_size(gate_energies(x))


def gates(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(seed=SEEDS, n_samples=st.integers(1, 5), n=st.integers(1, 6))
def test_each_is_what_loops_over_units_give(seed: int, n_samples: int, n: int) -> None:
    found = gates(n_samples, n, seed=seed)
    array = found.numpy()
    u = [np.mean([array[i, k] ** 2 for i in range(n_samples)]) for k in range(n)]
    expected = sum(u) ** 2 / (n * sum(each**2 for each in u))
    assert participation(found).item() == pytest.approx(expected)
    assert size(found).item() == pytest.approx(np.sqrt(np.mean(u)))
    shares = [np.mean([array[i, k] >= OPEN for i in range(n_samples)]) for k in range(n)]
    np.testing.assert_allclose(open_share(found, largest=ONE).numpy(), shares)


@given(seed=SEEDS, exponent=st.integers(-150, 150))
def test_no_order_of_units_or_samples_and_no_scale_changes_it(seed: int, exponent: int) -> None:
    x = gates(6, 5, seed=seed)
    stream = torch.Generator().manual_seed(seed)
    units, samples = torch.randperm(5, generator=stream), torch.randperm(6, generator=stream)
    expected = participation(x).item()
    for same in (x[:, units], x[samples], -x, x * 10.0**exponent):
        assert participation(same).item() == pytest.approx(expected)
    shares = open_share(x, largest=ONE)
    torch.testing.assert_close(open_share(x[:, units], largest=ONE), shares[units])
    scale = torch.tensor(10.0**exponent, dtype=torch.float64)
    torch.testing.assert_close(open_share(x[samples] * scale, largest=scale), shares)


@given(n=st.integers(1, 9), k=st.integers(1, 9))
def test_some_units_that_pass_alike_participate_by_their_share(n: int, k: int) -> None:
    k = min(k, n)
    x = torch.zeros(3, n)
    x[:, :k] = 0.4
    assert participation(x).item() == pytest.approx(k / n)
    assert silent_units(x).sum().item() == n - k


def test_the_bound_of_an_open_gate_is_nine_tenths_of_a_tanh() -> None:
    a = torch.atanh(torch.tensor([[0.89, 0.91, -0.91, -0.89]], dtype=torch.float64))
    found = open_share(1.0 - torch.tanh(a).square(), largest=ONE)
    assert found.tolist() == [1.0, 0.0, 0.0, 1.0]


def test_normal_preactivations_give_the_gates_of_their_integrals() -> None:
    # Of a ReLU at mean zero: half of the gates open, every unit alike.
    stream = torch.Generator().manual_seed(0)
    a = torch.randn(4000, 50, generator=stream, dtype=torch.float64)
    relu, tanh = (a > 0).double(), 1.0 - torch.tanh(a).square()
    assert size(relu).item() == pytest.approx(np.sqrt(0.5), abs=0.003)
    assert participation(relu).item() == pytest.approx(1.0, abs=0.002)
    grid = np.linspace(-8.0, 8.0, 4001)
    density = np.exp(-(grid**2) / 2) / np.sqrt(2 * np.pi)
    energy = np.trapezoid((1.0 - np.tanh(grid) ** 2) ** 2 * density, grid)
    assert size(tanh).item() == pytest.approx(np.sqrt(energy), rel=0.005)


def test_nothing_that_passes_has_no_participation_and_is_closed() -> None:
    nothing = torch.zeros(3, 4)
    assert torch.isnan(participation(nothing))
    assert size(nothing).item() == 0.0
    assert open_share(nothing, largest=torch.tensor(0.0)).tolist() == [0.0] * 4
    assert silent_units(nothing).tolist() == [True] * 4


def test_batches_are_measured_one_by_one() -> None:
    x = gates(3, 6, 4)
    x[1, :, 2] = 0.0
    for measure in (participation, size, silent_units):
        torch.testing.assert_close(measure(x), torch.stack([measure(each) for each in x]))
    largest = x.amax((-2, -1), keepdim=True)
    each = [open_share(a, largest=b) for a, b in zip(x, largest, strict=True)]
    torch.testing.assert_close(open_share(x, largest=largest), torch.stack(each))

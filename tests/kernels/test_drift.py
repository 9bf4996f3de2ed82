"""Drift of mean pre-activations: against updates that are made and measured."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from alignlab.kernels.drift import by_output, inherited_drift, mean_input, own_drift, term_shares
from alignlab.kernels.layers import linear_part

LAYERS = {
    "linear": (nn.Linear(5, 4), (6, 5)),
    "positions": (nn.Linear(5, 4), (6, 3, 5)),
    "conv1d": (nn.Conv1d(2, 4, 3, stride=2, padding=1), (6, 2, 7)),
    "conv2d, grouped, circular": (
        nn.Conv2d(4, 6, 3, padding=1, groups=2, padding_mode="circular"),
        (5, 4, 4, 3),
    ),
    "conv3d": (nn.Conv3d(2, 3, 2), (5, 2, 3, 3, 2)),
    "transposed, grouped": (nn.ConvTranspose1d(4, 6, 3, stride=2, groups=2), (5, 4, 3)),
}
each_layer = pytest.mark.parametrize(("module", "shape"), LAYERS.values(), ids=LAYERS)


def noise(*shape: int, seed: int = 0) -> Tensor:
    stream = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=stream, dtype=torch.float64)


def rows(output: Tensor, module: nn.Module) -> Tensor:
    """Return one row per sample and position, one column per output unit."""
    if not isinstance(module, nn.Linear):
        output = output.movedim(1, -1)
    return output.flatten(0, -2)


@each_layer
def test_mean_preactivations_are_products_with_the_mean_input(
    module: nn.Module, shape: tuple[int, ...]
) -> None:
    module = module.double()
    x = noise(*shape) + 0.7
    expected = rows(module(x), module).mean(0)
    found = (by_output(module, module.weight) * mean_input(module, x)).sum(1) + module.bias
    torch.testing.assert_close(found, expected)


@each_layer
def test_own_terms_are_those_of_the_definition_and_add_up_to_what_a_step_does(
    module: nn.Module, shape: tuple[int, ...]
) -> None:
    module = module.double()
    x = noise(*shape) + 0.7
    before = module(x)
    s, gates = noise(*before.shape, seed=1) + 0.3, noise(*before.shape, seed=2).abs()
    before.backward(gates * s)
    gradient = module.weight.grad
    module.weight.grad = None
    module.bias.grad = None
    assert gradient is not None
    r_s, r_gates = rows(s, module), rows(gates, module)
    delta, n_rows = r_s * r_gates, len(r_s)
    mean = mean_input(module, x)
    found = own_drift(
        mean,
        by_output(module, gradient),
        delta.sum(0),
        n_rows * r_gates.mean(0) * r_s.mean(0),
        bias=torch.ones(1),
    )
    factor = mean.square().sum(1) + 1.0
    centred = (r_gates - r_gates.mean(0)) * (r_s - r_s.mean(0))
    torch.testing.assert_close(found[0], -factor * n_rows * r_gates.mean(0) * r_s.mean(0))
    torch.testing.assert_close(found[1], -factor * centred.sum(0))
    # What the rows have in common with the mean input, by the layer itself: x . mean per row.
    along = torch.stack(
        [
            rows(linear_part(module, x, _placed(module, mean, unit)), module)[:, unit]
            for unit in range(len(mean))
        ],
        1,
    )
    products = (delta - delta.mean(0)) * (along - along.mean(0))
    torch.testing.assert_close(found[2], -products.sum(0))
    with torch.no_grad():
        step = linear_part(module, x, gradient)
    actual = -rows(step, module).mean(0) - delta.sum(0)
    torch.testing.assert_close(found.sum(0), actual)


def _placed(module: nn.Module, mean: Tensor, unit: int) -> Tensor:
    """Return a weight whose unit reads along its own mean input."""
    weight = torch.zeros_like(module.weight).requires_grad_()
    (by_output(module, weight)[unit] * mean[unit]).sum().backward()
    assert weight.grad is not None
    return weight.grad


@each_layer
def test_all_terms_add_up_to_the_change_of_the_mean(
    module: nn.Module, shape: tuple[int, ...]
) -> None:
    module = module.double()
    x, y = noise(*shape) + 0.7, noise(*shape, seed=3) - 0.2
    change = 0.3 * noise(*module.weight.shape, seed=4)
    weight = module.weight.detach()
    before = rows(linear_part(module, x, weight), module).mean(0)
    after = rows(linear_part(module, y, weight + change), module).mean(0)
    first, second = mean_input(module, x), mean_input(module, y)
    w, step = by_output(module, weight), by_output(module, change)
    own = (step * first).sum(1)
    inherited = inherited_drift(w, step, second - first)
    torch.testing.assert_close(own + inherited.sum(0), after - before)


@given(seed=st.integers(0, 2**31), exponent=st.integers(-140, 140), n=st.integers(1, 5))
def test_shares_add_up_to_one_whatever_the_scale_and_the_rotation(
    seed: int, exponent: int, n: int
) -> None:
    terms = noise(4, n, seed=seed)
    terms[0] += 3.0 * torch.sign(terms.sum(0))
    shares = term_shares(terms, terms.sum(0))
    assert shares.sum().item() == pytest.approx(1.0)
    turn, _ = torch.linalg.qr(noise(n, n, seed=seed + 1))
    turned = 10.0**exponent * terms @ turn
    torch.testing.assert_close(term_shares(turned, turned.sum(0)), shares)


def test_nothing_that_changes_has_no_shares() -> None:
    assert torch.isnan(term_shares(torch.zeros(3, 4), torch.zeros(4))).all()
    found = term_shares(torch.tensor([[1.0], [-1.0]]), torch.zeros(1))
    assert not torch.isfinite(found).any()


def test_batches_are_taken_one_by_one() -> None:
    mean, gradient, weight, step = (noise(3, 4, 5, seed=k) for k in range(4))
    signal, leading, bias = noise(3, 4), noise(3, 4, seed=1), torch.tensor([[1.0], [0.0], [1.0]])
    found = own_drift(mean, gradient, signal, leading, bias=bias)
    inherited = inherited_drift(weight, step, mean)
    shares = term_shares(found, found.sum(1))
    for k in range(3):
        each = own_drift(mean[k], gradient[k], signal[k], leading[k], bias=bias[k])
        torch.testing.assert_close(found[k], each)
        torch.testing.assert_close(inherited[k], inherited_drift(weight[k], step[k], mean[k]))
        torch.testing.assert_close(shares[k], term_shares(each, each.sum(0)))

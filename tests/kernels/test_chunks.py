"""Gradients of chunks against autograd on every chunk."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from alignlab.kernels.chunks import chunk_gradients, chunk_gram

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(5, 4), (5,)),
    "wide linear": (lambda: nn.Linear(90, 80), (90,)),
    "linear on positions": (lambda: nn.Linear(5, 4), (3, 5)),
    "conv1d": (lambda: nn.Conv1d(2, 4, 3, stride=2, padding=1), (2, 9)),
    "conv2d, grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2, dilation=2), (4, 6, 7)),
    "conv2d, circular": (
        lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), (2, 4, 5),
    ),
    "conv2d, same": (lambda: nn.Conv2d(2, 3, 3, padding="same"), (2, 5, 5)),
    "conv3d": (lambda: nn.Conv3d(1, 2, 2), (1, 3, 3, 3)),
    "transposed": (lambda: nn.ConvTranspose2d(3, 2, 3, stride=2, output_padding=1), (3, 4, 4)),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_chunks_have_the_gradients_of_their_samples(name: str) -> None:
    torch.manual_seed(0)
    build, shape = LAYERS[name]
    module = build().double()
    x = torch.randn(3, 4, *shape, dtype=torch.float64)
    outputs = [module(each) for each in x]
    signal = torch.randn(3, *outputs[0].shape, dtype=torch.float64)
    expected = torch.stack([
        torch.autograd.grad(output, module.weight, error)[0]
        for output, error in zip(outputs, signal, strict=True)
    ])  # fmt: skip
    torch.testing.assert_close(chunk_gradients(module, x, signal), expected)
    flat = expected.flatten(1)
    torch.testing.assert_close(chunk_gram(module, x, signal), flat @ flat.T)


def test_the_wide_layer_goes_by_way_of_the_samples() -> None:
    torch.manual_seed(0)
    module = nn.Linear(2_000, 2_000)
    x, signal = torch.randn(8, 4, 2_000), torch.randn(8, 4, 2_000)
    found = chunk_gram(module, x, signal)
    assert found.dtype == torch.float64
    flat = chunk_gradients(module, x, signal).flatten(1).double()
    torch.testing.assert_close(found, flat @ flat.T, rtol=1e-4, atol=1.0)


def test_a_frozen_weight_and_half_precision_are_no_obstacle() -> None:
    module = nn.Conv2d(2, 3, 3).requires_grad_(False)
    x, signal = torch.randn(2, 4, 2, 5, 5), torch.randn(2, 4, 3, 3, 3)
    found = chunk_gradients(module, x, signal.bfloat16())
    assert found.shape == (2, 3, 2, 3, 3)
    assert found.dtype == torch.float32

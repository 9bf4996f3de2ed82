"""The linear maps of layers against the matrices that they are."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from alignlab.kernels.convolution import design, structured_share
from alignlab.kernels.layers import linear_part, operator_energy, tap_counts, transposed
from tests.oracles.dense import free_entries, output_shape, unrolled

LAYERS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "linear": (nn.Linear(4, 3), (4,)),
    "linear, positions": (nn.Linear(4, 3), (2, 4)),
    "conv1d": (nn.Conv1d(2, 3, 3), (2, 6)),
    "conv1d, strided, padded": (nn.Conv1d(2, 3, 3, stride=2, padding=1), (2, 6)),
    "conv1d, dilated, same": (nn.Conv1d(2, 2, 3, padding="same", dilation=2), (2, 5)),
    "conv2d, padded": (nn.Conv2d(1, 2, 3, padding=1), (1, 4, 3)),
    "conv2d, strided, dilated": (
        nn.Conv2d(2, 2, (2, 3), stride=(2, 1), dilation=(1, 2), padding=(0, 1)), (2, 4, 5),
    ),
    "conv2d, grouped": (nn.Conv2d(4, 6, 2, groups=2, stride=2), (4, 4, 4)),
    "conv2d, depthwise": (nn.Conv2d(3, 3, 3, groups=3, padding=1), (3, 3, 3)),
    "conv2d, valid": (nn.Conv2d(2, 2, 2, padding="valid"), (2, 3, 3)),
    "conv2d, rows unread": (nn.Conv2d(1, 2, 2, stride=3), (1, 6, 7)),
    "conv3d, strided": (nn.Conv3d(1, 2, 2, stride=(1, 2, 1), padding=(1, 0, 0)), (1, 2, 4, 3)),
}  # fmt: skip
SPREAD: dict[str, tuple[Any, tuple[int, ...]]] = {
    "conv1d, transposed": (nn.ConvTranspose1d(2, 3, 3, stride=2, output_padding=1), (2, 4)),
    "conv2d, transposed": (
        nn.ConvTranspose2d(4, 2, (3, 2), stride=(1, 2), padding=1, dilation=(2, 1), groups=2),
        (4, 3, 2),
    ),
    "conv3d, transposed": (nn.ConvTranspose3d(1, 2, 2, padding=(0, 1, 0)), (1, 2, 2, 2)),
}
CIRCULAR = {
    "conv1d, circular": (nn.Conv1d(2, 2, 3, padding=1, padding_mode="circular"), (2, 5)),
    "conv2d, circular": (nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular"), (1, 4, 4)),
}

each_layer = pytest.mark.parametrize(("module", "shape"), LAYERS.values(), ids=LAYERS)
each_map = pytest.mark.parametrize(
    ("module", "shape"), [*LAYERS.values(), *CIRCULAR.values()], ids=[*LAYERS, *CIRCULAR]
)
each_kind = pytest.mark.parametrize(
    ("module", "shape"),
    [*LAYERS.values(), *CIRCULAR.values(), *SPREAD.values()],
    ids=[*LAYERS, *CIRCULAR, *SPREAD],
)


def doubles(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def matrix_of(module: Any, weight: Tensor, shape: tuple[int, ...]) -> Tensor:
    return torch.as_tensor(unrolled(module, weight.detach().numpy(), shape))


@each_kind
def test_the_linear_part_and_its_transpose_are_the_unrolled_matrix(
    module: Any, shape: tuple[int, ...]
) -> None:
    weight = doubles(*module.weight.shape)
    matrix = matrix_of(module, weight, shape)
    x = doubles(5, *shape)
    above = linear_part(module, x, weight)
    torch.testing.assert_close(above.flatten(1), x.flatten(1) @ matrix.T)
    signal = doubles(*above.shape)
    below = transposed(module, signal, weight, x.shape)
    torch.testing.assert_close(below.flatten(1), signal.flatten(1) @ matrix)


@each_kind
def test_a_layer_is_its_linear_part_and_its_bias(module: Any, shape: tuple[int, ...]) -> None:
    x = torch.randn(5, *shape)
    bias = module.bias.reshape(-1, *(1 for _ in getattr(module, "kernel_size", ())))
    torch.testing.assert_close(module(x), linear_part(module, x, module.weight) + bias)


@each_kind
def test_tap_counts_and_energy_are_those_of_the_unrolled_matrix(
    module: Any, shape: tuple[int, ...]
) -> None:
    counts = (free_entries(module, shape) != 0).sum(1)
    if "circular" not in getattr(module, "padding_mode", ""):
        assert tap_counts(module, torch.Size(shape)).flatten().tolist() == counts.tolist()
        weight = doubles(*module.weight.shape)
        energy = operator_energy(module, weight, torch.Size(shape))
        assert float(energy) == pytest.approx(float(matrix_of(module, weight, shape).norm() ** 2))


REPEATING = {
    "conv1d, reflected": (nn.Conv1d(2, 2, 5, padding=2, padding_mode="reflect"), (2, 5)),
    "conv2d, replicated": (nn.Conv2d(1, 2, 3, padding=1, padding_mode="replicate"), (1, 3, 4)),
    "conv1d, around twice": (nn.Conv1d(2, 2, 5, padding=2, padding_mode="circular"), (2, 3)),
}


def entries_of(module: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Return what every weight entry is in the unrolled matrix, from what the layer does."""
    x = torch.eye(prod(shape), dtype=torch.float64).reshape(-1, *shape)
    units = torch.eye(module.weight.numel(), dtype=torch.float64).reshape(-1, *module.weight.shape)
    return np.stack([linear_part(module, x, unit).flatten(1).T.flatten().numpy() for unit in units])


@pytest.mark.parametrize(
    ("module", "shape"), [*REPEATING.values(), *CIRCULAR.values()], ids=[*REPEATING, *CIRCULAR]
)
def test_the_structured_share_knows_padding_that_repeats_inputs(
    module: Any, shape: tuple[int, ...]
) -> None:
    first, second = doubles(3, *shape), doubles(4, *module(torch.zeros(1, *shape)).shape[1:])[:3]
    target = (second.flatten(1).T @ first.flatten(1)).numpy().ravel()
    entries = entries_of(module, shape)
    projected = entries.T @ np.linalg.lstsq(entries.T, target, rcond=None)[0]
    expected = np.linalg.norm(projected) / np.linalg.norm(target)
    assert float(structured_share(module, first, second)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("module", "shape"), [*LAYERS.values(), *SPREAD.values()], ids=[*LAYERS, *SPREAD]
)
def test_the_structured_share_is_is_the_projection_on_all_weights_of_the_layer(
    module: Any, shape: tuple[int, ...]
) -> None:
    above = output_shape(module, shape)
    first, second = doubles(3, *shape), doubles(4, *above)[:3]
    target = (second.flatten(1).T @ first.flatten(1)).numpy().ravel()
    entries = free_entries(module, shape)
    entries = entries[entries.any(1)]
    projected = entries.T @ np.linalg.lstsq(entries.T, target, rcond=None)[0]
    expected = np.linalg.norm(projected) / np.linalg.norm(target)
    assert float(structured_share(module, first, second)) == pytest.approx(expected, rel=1e-9)


def test_the_weights_of_a_linear_layer_reach_any_feedback() -> None:
    share = structured_share(nn.Linear(4, 3), doubles(5, 4), doubles(5, 3))
    assert float(share) == pytest.approx(1.0, abs=1e-12)


@each_map
def test_the_design_builds_the_gradient_at_the_input_from_any_weight(
    module: Any, shape: tuple[int, ...]
) -> None:
    if getattr(module, "groups", 1) > 1:
        return
    weight = doubles(*module.weight.shape)
    signal = doubles(5, *output_shape(module, shape))
    features = design(module, signal, torch.Size((5, *shape)))
    # A weight's features are its tap and its output channel, in that order.
    by_feature = weight.flatten(2).permute(2, 0, 1) if weight.dim() > 2 else weight.unsqueeze(0)
    kernel = by_feature.reshape(-1, weight.shape[1])
    built = torch.einsum("nfp,fc->ncp", features, kernel)
    expected = transposed(module, signal, weight, torch.Size((5, *shape)))
    by_channel = expected.movedim(-1, 1) if isinstance(module, nn.Linear) else expected
    torch.testing.assert_close(built.flatten(1), by_channel.flatten(1))

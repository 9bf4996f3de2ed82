"""Unrolled layers against what they do, and against a matrix written out entry by entry."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from alignlab.errors import InputError
from alignlab.kernels.layers import linear_part
from alignlab.kernels.unrolled import connections, unrolled
from tests.oracles.dense import unrolled as by_hand

KINDS: dict[tuple[int, bool], Any] = {
    (1, False): nn.Conv1d,
    (2, False): nn.Conv2d,
    (3, False): nn.Conv3d,
    (1, True): nn.ConvTranspose1d,
    (2, True): nn.ConvTranspose2d,
    (3, True): nn.ConvTranspose3d,
}


def doubles(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@st.composite
def layers(draw: st.DrawFn) -> tuple[nn.Module, tuple[int, ...]]:
    """Draw a convolution with any option, and a shape that it takes."""
    axes, is_transposed = draw(st.integers(1, 3)), draw(st.booleans())
    few = {1: 4, 2: 3, 3: 2}[axes]
    each = [
        tuple(draw(st.integers(1, most)) for _ in range(axes)) for most in (few, 2, 2)
    ]  # taps, stride, dilation
    taps, stride, dilation = each
    groups = draw(st.integers(1, 2))
    inside, out = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))
    spans = [d * (k - 1) for d, k in zip(dilation, taps, strict=True)]
    size = tuple(span + draw(st.integers(1, 3)) for span in spans)
    options: dict[str, Any] = {"groups": groups, "dilation": dilation, "stride": stride}
    if is_transposed:
        options["output_padding"] = tuple(
            draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True)
        )
        options["padding"] = tuple(draw(st.integers(0, min(1, span // 2))) for span in spans)
        return KINDS[axes, True](inside, out, taps, **options), (inside, *size)
    modes = ["zeros", "circular", "reflect", "replicate"]
    options["padding_mode"] = draw(st.sampled_from(modes[:2] if axes == 3 else modes))
    if draw(st.booleans()) and options["padding_mode"] == "zeros":
        options["padding"], options["stride"] = draw(st.sampled_from(["same", "valid"])), 1
    else:
        options["padding"] = tuple(draw(st.integers(0, min(2, n - 1))) for n in size)
    return KINDS[axes, False](inside, out, taps, **options), (inside, *size)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@settings(deadline=None, max_examples=150)
@given(drawn=layers(), seed=st.integers(0, 99))
def test_the_matrix_does_what_the_layer_does(drawn: tuple[Any, tuple[int, ...]], seed: int) -> None:
    module, shape = drawn
    weight = doubles(*module.weight.shape, seed=seed)
    x = doubles(3, *shape, seed=seed + 1)
    expected = linear_part(module, x, weight)
    matrix = unrolled(module, weight, shape)
    assert matrix.shape == (prod(expected.shape[1:]), prod(shape))
    torch.testing.assert_close(x.flatten(1) @ matrix.T, expected.flatten(1))


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Conv2d(2, 4, (3, 2), stride=(2, 1), padding=1, dilation=(1, 2)), (2, 7, 6)),
        (nn.Conv1d(4, 6, 3, groups=2, padding=1, padding_mode="circular"), (4, 6)),
        (nn.ConvTranspose2d(2, 4, 3, stride=2, output_padding=1, groups=2), (2, 3, 2)),
        (nn.Linear(3, 2), (4, 3)),
    ],
)
def test_the_matrix_is_the_one_written_out_entry_by_entry(
    module: Any, shape: tuple[int, ...]
) -> None:
    weight = module.weight.detach().double()
    expected = by_hand(module, weight.numpy(), shape)
    np.testing.assert_allclose(unrolled(module, weight, shape).numpy(), expected)


def test_taps_that_meet_at_one_input_are_added() -> None:
    module = nn.Conv1d(1, 1, 3, padding=1, padding_mode="replicate")
    matrix = unrolled(module, torch.tensor([[[1.0, 2.0, 4.0]]]), (1, 2))
    assert matrix.tolist() == [[3.0, 4.0], [1.0, 6.0]]
    found = connections(module, (1, 2))
    assert len(found.weights) == 6
    sparse = found.matrix(torch.tensor([[[1.0, 2.0, 4.0]]]))
    assert torch.equal(sparse.to_dense(), matrix)
    assert sparse.values().numel() == 4


def test_a_module_that_is_no_layer_is_refused() -> None:
    with pytest.raises(InputError, match="Embedding is not unrolled"):
        connections(nn.Embedding(2, 3), (2,))

"""Weights that cannot be replaced are refused by name, and leave direct feedback as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from alignlab.engine.capture import Capture
from alignlab.errors import MeasurementError
from alignlab.rules import DFA, FA


class With(nn.Module):
    """Two layers with a function of a parameter between them."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], *shape: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(5, 6), nn.Linear(6, 3)
        self.matrix = nn.Parameter(torch.randn(shape) / 2.0)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        h = self.function(torch.tanh(self.first(x)), self.matrix)
        return self.last(h.mean(1) if h.dim() > 2 else h)


def capture_of(model: nn.Module, *shape: int) -> Capture:
    torch.manual_seed(0)
    x = torch.randn(*(shape or (8, 5)))
    return Capture(model, functional.cross_entropy, x, torch.arange(8) % 3)


def masked(h: Tensor, matrix: Tensor) -> Tensor:
    return h @ (matrix * torch.ones(6, 6).tril())


def joined(h: Tensor, matrix: Tensor) -> Tensor:
    return h @ torch.cat([matrix, matrix])


def normalised(h: Tensor, matrix: Tensor) -> Tensor:
    return functional.linear(h, functional.normalize(matrix))


def asked(h: Tensor, query: Tensor) -> Tensor:
    return functional.scaled_dot_product_attention(query.expand(8, -1, -1), h, h)


HIDDEN: dict[str, tuple[Any, tuple[int, ...], tuple[int, ...]]] = {
    "masked": (masked, (6, 6), (8, 5)),
    "joined": (joined, (3, 6), (8, 5)),
    "normalised": (normalised, (6, 6), (8, 5)),
    "asked": (asked, (2, 6), (8, 4, 5)),
}


@pytest.mark.parametrize(("function", "size", "shape"), HIDDEN.values(), ids=HIDDEN)
def test_weights_in_another_form_are_refused_by_rules_that_replace_them(
    function: Any, size: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    capture = capture_of(With(function, *size), *shape)
    with pytest.raises(MeasurementError, match=r"'matrix' acts as a weight in \w+ in another form"):
        capture.replaced(FA().backward_weights(capture.module_weights(), seed=0))
    error = capture.reference().preactivation["last"]
    feedback = DFA().draw(capture.injection_layers("micro"), capture.n_errors, seed=0)
    assert set(capture.direct(feedback, error=error, parameters=True).parameters) >= {"matrix"}


def scaled(h: Tensor, matrix: Tensor) -> Tensor:
    return h * matrix


def added(h: Tensor, matrix: Tensor) -> Tensor:
    return functional.layer_norm(h + matrix, (6,))


def selected(h: Tensor, matrix: Tensor) -> Tensor:
    return h + functional.embedding(torch.arange(8) % 6, matrix)


@pytest.mark.parametrize("function", [scaled, added, selected])
def test_parameters_that_multiply_nothing_are_not_weights(function: Any) -> None:
    rows = 6 if function is selected else 1
    capture = capture_of(With(function, rows, 6))
    assert capture.other_weights == ()
    weights = capture.module_weights()
    assert set(weights) == {"first", "last"}
    capture.replaced(FA().backward_weights(weights, seed=0))


def test_a_backward_weight_that_is_missing_is_named() -> None:
    capture = capture_of(With(lambda h, matrix: h @ matrix, 6, 6))
    weights = capture.module_weights()
    del weights["matrix"]
    with pytest.raises(MeasurementError, match="no backward weight for matrix"):
        capture.replaced(weights)


class Tied(nn.Module):
    """A head that uses the table of an embedding, and is no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.body = nn.Embedding(7, 5), nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(torch.tanh(self.body(self.table(x))), self.table.weight)


def test_a_weight_behind_the_last_layer_is_refused_by_name() -> None:
    tokens = torch.arange(8) % 7
    with pytest.raises(MeasurementError, match=r"'table\.weight' acts as a weight behind the last"):
        Capture(Tied(), functional.cross_entropy, tokens, tokens)


class Sized(nn.Module):
    """A transposed convolution that is told how large its output is to be."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.last = nn.ConvTranspose1d(5, 2, 3, stride=2), nn.Linear(20, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.body(x, output_size=(10,)).flatten(1))


def test_an_output_size_that_is_not_the_modules_own_is_refused_by_name() -> None:
    with pytest.raises(MeasurementError, match="'body' was called with an output_size"):
        capture_of(Sized(), 8, 5, 4)

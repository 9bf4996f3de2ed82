"""Modules that multiply inside, written out with a weight of their own for the backward pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.wide_cases import Product

__all__ = ["replace_weights_inside", "through"]

Weights = Mapping[str, Tensor]


def through(
    product: Callable[[Tensor, Tensor], Tensor], x: Tensor, weight: Tensor, matrix: Tensor
) -> Tensor:
    """Return a product whose gradient runs to the weight as it is and to x through a matrix."""
    surrogate = product(x, matrix)
    return product(x.detach(), weight) + (surrogate - surrogate.detach())


def replace_weights_inside(module: Any, feedback: Weights) -> None:
    """Give a module that is no layer backward weights of its own, by parameter name."""
    if isinstance(module, nn.MultiheadAttention):
        module.forward = _attention(module, feedback)  # type: ignore[method-assign]
    elif isinstance(module, nn.RNNBase):
        module.forward = _recurrent(module, feedback)  # type: ignore[method-assign]
    elif isinstance(module, nn.RNNCellBase):
        module.forward = _cell(module, feedback)  # type: ignore[method-assign]
    elif isinstance(module, nn.Bilinear):
        module.forward = _bilinear(module, feedback["weight"])  # type: ignore[method-assign]
    elif isinstance(module, Product):
        own = module.product
        module.product = lambda x, w: through(own, x, w, feedback["matrix"])  # type: ignore[method-assign]


def _affine(x: Tensor, weight: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
    y = through(functional.linear, x, weight, matrix)
    return y if bias is None else y + bias


def _attention(module: nn.MultiheadAttention, feedback: Weights) -> Callable[..., Any]:
    def forward(
        query: Tensor, key: Tensor, value: Tensor, need_weights: bool = True, **_: Any
    ) -> tuple[Tensor, None]:
        weights = module.in_proj_weight.chunk(3)
        matrices = feedback["in_proj_weight"].chunk(3)
        biases = (None,) * 3 if module.in_proj_bias is None else module.in_proj_bias.chunk(3)
        parts = zip((query, key, value), weights, matrices, biases, strict=True)
        q, k, v = (
            _affine(*part).unflatten(-1, (module.num_heads, -1)).transpose(1, 2) for part in parts
        )
        if need_weights:
            scores = torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, -1)
            mixed = scores @ v
        else:
            # The same kernel draws the same mask.
            p = module.dropout if module.training else 0.0
            mixed = functional.scaled_dot_product_attention(q, k, v, dropout_p=p)
        # Positions lie before samples in memory, which dropout afterwards can tell.
        mixed = mixed.permute(2, 0, 1, 3).flatten(2)
        out = module.out_proj
        y = _affine(mixed, out.weight, feedback["out_proj.weight"], out.bias)
        return y.transpose(0, 1), None

    return forward


def _step(kind: str, x: Tensor, state: Any, both: Callable[[Tensor, str], Tensor]) -> Any:
    """Return the next state from the recurrence written in the manual."""
    if kind.startswith("RNN"):
        return torch.tanh(both(x, "ih") + both(state, "hh"))
    if kind.startswith("GRU"):
        r, z, n = both(x, "ih").chunk(3, -1)
        r_below, z_below, n_below = both(state, "hh").chunk(3, -1)
        reset, update = torch.sigmoid(r + r_below), torch.sigmoid(z + z_below)
        return (1 - update) * torch.tanh(n + reset * n_below) + update * state
    h, cell = state
    i, f, g, o = (both(x, "ih") + both(h, "hh")).chunk(4, -1)
    cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(cell), cell


def _products(module: Any, feedback: Weights, suffix: str) -> Callable[[Tensor, str], Tensor]:
    def both(x: Tensor, which: str) -> Tensor:
        name = f"{which}{suffix}"
        bias = getattr(module, f"bias_{name}", None)
        return _affine(x, getattr(module, f"weight_{name}"), feedback[f"weight_{name}"], bias)

    return both


def _start(kind: str, like: Tensor) -> Any:
    return (like, like) if kind.startswith("LSTM") else like


def _recurrent(module: Any, feedback: Weights) -> Callable[[Tensor], tuple[Tensor, None]]:
    kind = type(module).__name__

    def run(x: Tensor, suffix: str) -> Tensor:
        both = _products(module, feedback, suffix)
        state = _start(kind, x.new_zeros(x.shape[0], module.hidden_size))
        found = []
        for position in x.unbind(1):
            state = _step(kind, position, state, both)
            found.append(state[0] if isinstance(state, tuple) else state)
        return torch.stack(found, 1)

    def forward(x: Tensor) -> tuple[Tensor, None]:
        for layer in range(module.num_layers):
            parts = [run(x, f"_l{layer}")]
            if module.bidirectional:
                parts.append(run(x.flip(1), f"_l{layer}_reverse").flip(1))
            x = torch.cat(parts, -1)
        return x, None

    return forward


def _cell(module: Any, feedback: Weights) -> Callable[..., Any]:
    kind = type(module).__name__
    both = _products(module, feedback, "")

    def forward(x: Tensor, state: Any = None) -> Any:
        if state is None:
            state = _start(kind, x.new_zeros(x.shape[0], module.hidden_size))
        return _step(kind, x, state, both)

    return forward


def _bilinear(module: nn.Bilinear, matrix: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    def product(first: Tensor, weight: Tensor, second: Tensor) -> Tensor:
        return torch.einsum("ni,oij,nj->no", first, weight, second)

    def forward(first: Tensor, second: Tensor) -> Tensor:
        surrogate = product(first, matrix, second)
        y = product(first.detach(), module.weight, second.detach())
        return y + (surrogate - surrogate.detach()) + module.bias

    return forward

"""Cases with weights outside of layers, several outputs, computed weights and other wirings."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from tests.case import Case, cnn, made

__all__ = ["WIDE_CASES", "Product"]


class Product(nn.Module):
    """A product with a weight that is written out, and no layer."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(n_out, n_in) / n_in**0.5)

    def product(self, x: Tensor, matrix: Tensor) -> Tensor:
        return x @ matrix.T

    def forward(self, x: Tensor) -> Tensor:
        return self.product(x, self.matrix)


class Contraction(Product):
    """A product by heads, for which the weight is copied."""

    def product(self, x: Tensor, matrix: Tensor) -> Tensor:
        heads = torch.einsum("nd,hed->nhe", x, matrix.unflatten(0, (2, -1)))
        return heads.flatten(1)


class Between(nn.Module):
    """Two layers with something between them that has weights and is no layer."""

    def __init__(self, build: Callable[[], nn.Module], *, n_in: int = 6, width: int = 6) -> None:
        super().__init__()
        self.first, self.between = nn.Linear(n_in, width), build()
        self.second, self.last = nn.Linear(width, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.run(torch.tanh(self.first(x)))
        h = torch.relu(self.second(h))
        return self.last(h.mean(1) if h.dim() > 2 else h)

    def run(self, h: Tensor) -> Tensor:
        found = self.between(h)
        return found[0] if isinstance(found, tuple) else found


class Attention(Between):
    """Self-attention with a shortcut around it."""

    def run(self, h: Tensor) -> Tensor:
        return h + self.between(h, h, h, need_weights=False)[0]


class CrossAttention(Between):
    """Attention of some positions to others, with weights returned."""

    def run(self, h: Tensor) -> Tensor:
        return self.between(h[:, :2], h[:, 1:], h[:, 1:])[0]


class Cell(Between):
    """A recurrent cell run over the positions."""

    def run(self, h: Tensor) -> Tensor:
        state: Any = None
        for position in h.unbind(1):
            state = self.between(position, state)
        return state[0] if isinstance(state, tuple) else state


class Pair(Between):
    """A form that is linear in two arguments, both from below."""

    def run(self, h: Tensor) -> Tensor:
        return self.between(h, torch.sin(h))


class OwnAttention(nn.Module):
    """Attention written with layers: chunks of one layer's output, two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.qkv = nn.Linear(5, 6), nn.Linear(6, 18)
        self.out, self.last = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.embed(x))
        q, k, v = (part.unflatten(-1, (2, 3)).transpose(1, 2) for part in self.qkv(h).chunk(3, -1))
        mixed = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.last((h + self.out(mixed)).mean(1))


class Encoder(nn.Module):
    """An encoder layer of torch's own."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.last = nn.Linear(5, 6), nn.Linear(6, 3)
        self.layer = nn.TransformerEncoderLayer(6, 2, 8, dropout=0.2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.layer(self.embed(x)).mean(1))


class Heads(nn.Module):
    """A body with two heads of different widths."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.classes, self.values = nn.Linear(6, 7), nn.Linear(7, 3), nn.Linear(7, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.tanh(self.body(x))
        return self.classes(h), self.values(h)


@dataclass
class Fields:
    """An output with fields."""

    logits: Tensor
    hidden: Tensor


class Named(nn.Module):
    """Outputs by name, one of which is no layer's."""

    def __init__(self, kind: Callable[..., Any]) -> None:
        super().__init__()
        self.first, self.last, self.kind = nn.Linear(6, 7), nn.Linear(7, 3), kind

    def forward(self, x: Tensor) -> Any:
        h = torch.relu(self.first(x))
        return self.kind(logits=self.last(h), hidden=h)


class Parallel(nn.Module):
    """Branches that read one entry and are joined, one of them through a view in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.left, self.right = nn.Linear(6, 8), nn.Linear(8, 4), nn.Linear(8, 4)
        self.last = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = functional.relu_(self.first(x).view(-1, 2, 4)).flatten(1)
        return self.last(torch.cat([torch.tanh(self.left(h)), self.right(h).relu_()], 1))


class Chunked(nn.Module):
    """Layers whose outputs are split, each half used in its own way and one of them twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(6, 8), nn.Linear(4, 8), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.first(x).chunk(2, -1)
        value, gate = self.second(value * torch.sigmoid(gate)).split([4, 4], -1)
        return self.last(torch.tanh(value) * gate + value)


class Normed(nn.Module):
    """Layers of which one has a weight that is computed."""

    def __init__(self, norm: Callable[[nn.Module], object], *, twice: bool = False) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(6, 7), nn.Linear(7, 7), nn.Linear(7, 3)
        self.twice = twice
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            norm(self.second)
        with torch.no_grad():
            for _ in range(50):
                self.second(torch.zeros(1, 7))  # spectral norms converge
        if "weight" in vars(self.second):
            self.second.weight = self.second.weight.detach()  # computed anew in every call

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.second(torch.relu(self.first(x))))
        return self.last(torch.tanh(self.second(h)) if self.twice else h)


class Recomputed(nn.Module):
    """Layers whose activations are computed again in the backward pass."""

    def __init__(self, *, use_reentrant: bool) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(6, 7), nn.Linear(7, 5), nn.Linear(5, 3)
        self.use_reentrant = use_reentrant

    def stretch(self, h: Tensor) -> Tensor:
        return functional.relu_(self.second(functional.dropout(h, 0.3)))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first(x))
        return self.last(checkpoint(self.stretch, h, use_reentrant=self.use_reentrant))


class Exponential(nn.Module):
    """Makes of a tensor a positive one, and keeps its own output to do so."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.exp(x) / 7.0


def positive(module: nn.Module) -> None:
    nn.utils.parametrize.register_parametrization(module, "weight", Exponential())


def normed(norm: Callable[[nn.Module], object], *, twice: bool = False) -> Callable[[], nn.Module]:
    return lambda: Normed(norm, twice=twice)


def normed_maps() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3), nn.ReLU(), parametrizations.weight_norm(nn.Conv2d(4, 3, 2))),
        *(nn.Tanh(), nn.Flatten(), nn.Linear(12, 3)),
    )


def between(kind: type[Between], build: Callable[[], nn.Module], **sizes: int) -> Any:
    return lambda: kind(build, **sizes)


THROUGH = {"first": "second", "second": "last"}
WIDE_CASES: dict[str, Case] = {
    "conv2d, depthwise": Case(
        (2, 5, 5),
        cnn(
            made(nn.Conv2d, 2, 4, 3, groups=2, padding=1), made(nn.BatchNorm2d, 4), made(nn.ReLU),
            made(nn.Conv2d, 4, 4, 3, groups=4), made(nn.Tanh), made(nn.Conv2d, 4, 3, 1),
            made(nn.ReLU), made(nn.Flatten), made(nn.Linear, 27, 3),
        ),
        {"0": "3", "3": "5", "5": "8"},
    ),
    "conv1d, transposed": Case(
        (2, 8),
        cnn(
            made(nn.Conv1d, 2, 4, 3, stride=2), made(nn.Tanh),
            made(nn.ConvTranspose1d, 4, 3, 3, stride=2, output_padding=1, dilation=2),
            made(nn.ReLU), made(nn.Flatten), made(nn.Linear, 30, 3),
        ),
        {"0": "2", "2": "5"},
        loss="mse",
    ),
    "conv2d, transposed": Case(
        (1, 4, 4),
        cnn(
            made(nn.Conv2d, 1, 4, 2), made(nn.ReLU, inplace=True),
            made(nn.ConvTranspose2d, 4, 6, (3, 2), stride=(1, 2), padding=1, groups=2),
            made(nn.ReLU), made(nn.ConvTranspose2d, 6, 1, 2, bias=False), made(nn.Tanh),
            made(nn.Flatten), made(nn.Linear, 20, 3),
        ),
        {"0": "2", "2": "4", "4": "7"},
    ),
    "conv3d, transposed": Case(
        (1, 3, 3, 3),
        cnn(
            made(nn.Conv3d, 1, 3, 2), made(nn.Tanh), made(nn.ConvTranspose3d, 3, 2, (1, 2, 2)),
            made(nn.ReLU), made(nn.Flatten), made(nn.Linear, 36, 3),
        ),
        {"0": "2", "2": "5"},
    ),
    "channels last": Case(
        (2, 5, 5),
        cnn(
            made(nn.Conv2d, 2, 4, 3), made(nn.ReLU, inplace=True), made(nn.Conv2d, 4, 3, 2),
            made(nn.ReLU), made(nn.Flatten), made(nn.Linear, 12, 3),
        ),
        {"0": "2", "2": "5"},
        format=torch.channels_last,
    ),
    "two heads": Case(
        (6,), Heads, {"body": "classes"}, loss="two heads", n_errors=5
    ),
    "dictionary": Case(
        (6,), lambda: Named(dict), {"first": "last"}, loss="fields", has_shortcut=True
    ),
    "fields": Case(
        (6,), lambda: Named(Fields), {"first": "last"}, loss="fields", has_shortcut=True
    ),
    "matrix": Case((6,), between(Between, made(Product, 6, 6)), THROUGH),
    "matrix of positions": Case((3, 6), between(Between, made(Product, 6, 6)), THROUGH),
    "copied matrix": Case((6,), between(Between, made(Contraction, 6, 6)), THROUGH),
    "bilinear": Case((6,), between(Pair, made(nn.Bilinear, 6, 6, 6)), THROUGH, loss="mse"),
    "attention": Case(
        (4, 6),
        between(Attention, made(nn.MultiheadAttention, 6, 2, dropout=0.2, batch_first=True)),
        THROUGH,
    ),
    "cross attention": Case(
        (4, 6),
        between(CrossAttention, made(nn.MultiheadAttention, 6, 2, bias=False, batch_first=True)),
        THROUGH,
    ),
    "own attention": Case(
        (4, 5), OwnAttention, {"embed": "qkv", "qkv": "out", "out": "last"}, has_shortcut=True
    ),
    "encoder": Case(
        (4, 5), Encoder,
        {"embed": "layer.linear1", "layer.linear1": "layer.linear2", "layer.linear2": "last"},
        has_shortcut=True,
    ),
    "encoder, evaluation": Case(
        (4, 5), Encoder,
        {"embed": "layer.linear1", "layer.linear1": "layer.linear2", "layer.linear2": "last"},
        has_shortcut=True,
        train=False,
    ),
    "lstm": Case((4, 6), between(Between, made(nn.LSTM, 6, 6, batch_first=True)), THROUGH),
    "lstm, two ways": Case(
        (3, 6),
        between(Between, made(nn.LSTM, 6, 3, batch_first=True, bidirectional=True, num_layers=2)),
        THROUGH,
    ),
    "gru": Case((4, 6), between(Between, made(nn.GRU, 6, 6, batch_first=True)), THROUGH),
    "rnn": Case(
        (4, 6), between(Between, made(nn.RNN, 6, 6, batch_first=True, bias=False)), THROUGH
    ),
    "lstm cell": Case((3, 6), between(Cell, made(nn.LSTMCell, 6, 6)), THROUGH),
    "gru cell": Case((3, 6), between(Cell, made(nn.GRUCell, 6, 6)), THROUGH),
    "parallel": Case(
        (6,), Parallel, {"first": "left", "left": "last", "right": "last"}
    ),
    "chunked": Case((6,), Chunked, THROUGH),
    "weight norm": Case((6,), normed(parametrizations.weight_norm), THROUGH),
    "weight norm, twice": Case(
        (6,), normed(parametrizations.weight_norm, twice=True),
        {"first": "second", "second": "second@2", "second@2": "last"},
    ),
    "weight norm, by hooks": Case((6,), normed(nn.utils.weight_norm), THROUGH),
    "weight norm of maps": Case((1, 5, 5), normed_maps, {"0": "2", "2": "5"}),
    "spectral norm": Case((6,), normed(parametrizations.spectral_norm), THROUGH),
    "spectral norm, by hooks": Case((6,), normed(nn.utils.spectral_norm), THROUGH),
    "positive weights": Case((6,), normed(positive), THROUGH),
    "recomputed": Case(
        (6,), lambda: Recomputed(use_reentrant=False), THROUGH, is_replaceable=False
    ),
    "recomputed, reentrant": Case((6,), lambda: Recomputed(use_reentrant=True), THROUGH),
}  # fmt: skip
"""By name."""

"""The networks of the tables, each with its loss and one random batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alignlab.models.mlp import MLP
from alignlab.models.resnet20 import ResNet20
from alignlab.models.vgg_small import VGGSmall
from tests.cases import Batch

__all__ = ["NETWORKS", "RECURRENT", "SMALL", "Network", "Transformer", "loss_of_tokens"]

CLASSES = 10
VOCABULARY = 256
POSITIONS = 128


@dataclass(frozen=True)
class Network:
    """A network of a size that people train.

    Attributes:
        title: What a table calls it.
        build: Returns the model.
        draw: Returns inputs and targets.
        loss: Takes output and targets.
        rounds: Paired steps of one run.
    """

    title: str
    build: Callable[[], nn.Module]
    draw: Callable[[], tuple[Tensor, Tensor]]
    loss: Callable[[Tensor, Tensor], Tensor]
    rounds: int

    def make(self, device: str) -> Batch:
        """Return the model in training mode and one batch, the same ones at every call."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model, (x, y) = self.build().to(device).train(), self.draw()
        return Batch(model, self.loss, x.to(device), y.to(device))


class Transformer(nn.Module):
    """Pre-norm transformer over tokens: in each block four linear layers, and a linear readout.

    Args:
        blocks: Number of blocks.
        width: Size of the residual stream.
        heads: Attention heads.
    """

    def __init__(self, *, blocks: int = 4, width: int = 256, heads: int = 4) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, width)
        self.positions = nn.Parameter(torch.randn(POSITIONS, width) * 0.02)
        self.blocks = nn.Sequential(*(_Block(width, heads) for _ in range(blocks)))
        self.norm = nn.LayerNorm(width)
        self.readout = nn.Linear(width, VOCABULARY)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of the next token, shape ``(N, positions, vocabulary)``."""
        hidden = self.blocks(self.tokens(x) + self.positions)
        logits: Tensor = self.readout(self.norm(hidden))
        return logits


class Recurrent(nn.Module):
    """Tanh units step by step, read out in every one.

    Args:
        units: Of the state.
    """

    def __init__(self, units: int) -> None:
        super().__init__()
        self.into, self.again = nn.Linear(1, units), nn.Linear(units, units, bias=False)
        self.out = nn.Linear(units, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs, shape ``(N, T)``, of inputs of that shape."""
        h, outputs = x.new_zeros(len(x), self.again.in_features), []
        for step in x.unbind(1):
            h = torch.tanh(self.into(step[:, None]) + self.again(h))
            outputs.append(self.out(h))
        return torch.cat(outputs, 1)


class _Block(nn.Module):
    """Causal attention and two layers, each added to what it reads."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, positions, width = x.shape
        split = (n, positions, 3, self.heads, width // self.heads)
        q, k, v = self.attend(self.norm1(x)).reshape(split).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.project(mixed.transpose(1, 2).reshape(n, positions, width))
        return x + self.contract(F.gelu(self.expand(self.norm2(x))))


def loss_of_tokens(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy averaged over all positions of all samples."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def _images(n: int, *shape: int) -> Callable[[], tuple[Tensor, Tensor]]:
    return lambda: (torch.randn(n, *shape), torch.randint(0, CLASSES, (n,)))


def _tokens() -> tuple[Tensor, Tensor]:
    text = torch.randint(0, VOCABULARY, (8, POSITIONS + 1))
    return text[:, :-1].contiguous(), text[:, 1:].contiguous()


SMALL = Network(
    "MLP 64-64x3-10, batch 32",
    lambda: MLP(in_features=64, widths=(64, 64, 64), activation="tanh", classes=CLASSES),
    _images(32, 64),
    F.cross_entropy,
    rounds=500,
)

RECURRENT = Network(
    "recurrent network of 128 units, 20 steps, batch 50",
    partial(Recurrent, 128),
    lambda: (torch.randn(50, 20), torch.randn(50, 20)),
    F.mse_loss,
    rounds=100,
)

NETWORKS = {
    "mlp": Network(
        "MLP 784-1024x3-10, batch 128",
        lambda: MLP(in_features=784, widths=(1024, 1024, 1024), classes=CLASSES),
        _images(128, 784),
        F.cross_entropy,
        rounds=150,
    ),
    "vgg": Network(
        "VGG-like (6 conv + 2 fc, 32x32), batch 64",
        lambda: VGGSmall(widths=(512,), batch_norm=False, classes=CLASSES),
        _images(64, 3, 32, 32),
        F.cross_entropy,
        rounds=20,
    ),
    "resnet20": Network(
        "ResNet-20, batch 64",
        lambda: ResNet20(shortcut="pad", classes=CLASSES),
        _images(64, 3, 32, 32),
        F.cross_entropy,
        rounds=24,
    ),
    "transformer": Network(
        "transformer 4 x d256, sequence 128, batch 8",
        Transformer,
        _tokens,
        loss_of_tokens,
        rounds=24,
    ),
}

"""What a case is: a model with a loss and a batch, built anew every time."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Batch", "Case", "cnn", "made", "mlp"]

Loss = Callable[[Any, Any], Tensor]


def two_heads(output: tuple[Tensor, Tensor], target: Tensor) -> Tensor:
    """Sum two losses, one for each output."""
    wanted = functional.one_hot(target, 2 + output[1].shape[-1])[:, 2:]
    return functional.cross_entropy(output[0], target) + 0.5 * functional.mse_loss(
        output[1], wanted.to(output[1])
    )


def of_fields(output: Any, target: Tensor) -> Tensor:
    """Return a loss of one field and a penalty on the other."""
    fields = output if isinstance(output, dict) else vars(output)
    return functional.cross_entropy(fields["logits"], target) + fields["hidden"].square().mean()


def of_tokens(output: Tensor, target: Tensor) -> Tensor:
    """Return the cross-entropy of every token but a masked one in three."""
    places = torch.arange(output.shape[1], device=target.device)
    wanted = (target[:, None] + places) % output.shape[2]
    wanted = wanted.masked_fill((target[:, None] + places) % 3 == 2, -100)
    return functional.cross_entropy(output.transpose(1, 2), wanted)


def variational(output: tuple[Tensor, Tensor, Tensor], target: Tensor) -> Tensor:
    """Return cross-entropy and the divergence from a standard normal distribution."""
    logits, mean, spread = output
    divergence = 0.5 * (mean.square() + spread.exp() - spread - 1.0).sum(1).mean()
    return functional.cross_entropy(logits, target) + 0.1 * divergence


def contrastive(output: tuple[Tensor, Tensor], target: Tensor) -> Tensor:
    """Return how badly each view finds its other among the batch."""
    one, other = (functional.normalize(view, dim=1) for view in output)
    own = torch.arange(len(target), device=target.device)
    return functional.cross_entropy(one @ other.T / 0.5, own)


LOSSES: dict[str, Loss] = {
    "tokens": of_tokens,
    "variational": variational,
    "contrastive": contrastive,
    "cross-entropy": functional.cross_entropy,
    "mse": functional.mse_loss,
    "bce": functional.binary_cross_entropy_with_logits,
    "two heads": two_heads,
    "fields": of_fields,
}


@dataclass(frozen=True)
class Batch:
    """A model in its mode, its loss and one batch."""

    model: nn.Module
    loss: Loss
    x: Tensor
    y: Tensor


@dataclass(frozen=True)
class Case:
    """What to build, and by hand which layer's input is the entry of which layer.

    Attributes:
        shape: Shape of one sample.
        build: Returns the model; it ends in three outputs a sample.
        consumers: By hidden layer, the layer that reads its entry.
        loss: Key of ``LOSSES``.
        train: Whether the model is in training mode.
        has_shortcut: Whether an entry is also read by something that is no layer.
        is_bypassed: Whether such a shortcut leads around an entry to a layer below it.
        n_errors: Entries of the error of one sample.
        is_replaceable: Whether weights can be replaced; recomputation forbids it.
        format: Memory format of model and batch.
        tokens: Kinds of tokens that the samples are made of; 0 for numbers.
    """

    shape: tuple[int, ...]
    build: Callable[[], nn.Module]
    consumers: Mapping[str, str]
    loss: str = "cross-entropy"
    train: bool = True
    has_shortcut: bool = False
    is_bypassed: bool = False
    n_errors: int = 3
    is_replaceable: bool = True
    format: torch.memory_format = torch.contiguous_format
    tokens: int = 0

    def make(
        self, *, seed: int = 0, n_samples: int = 8, dtype: torch.dtype = torch.float32
    ) -> Batch:
        """Return the case, and leave every global source of randomness at a known place."""
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        model = self.build().train(self.train).to(dtype)
        if self.format is not torch.contiguous_format:
            model = model.to(memory_format=self.format)
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_(0.0, 0.3)
                module.running_var.uniform_(0.5, 2.0)
        if self.tokens:
            x = torch.randint(self.tokens, (n_samples, *self.shape))
        else:
            x = torch.randn(n_samples, *self.shape).to(dtype)
            x = x.contiguous(memory_format=self.format)
        targets = {
            "mse": torch.randn(n_samples, 3).to(dtype),
            "bce": (torch.rand(n_samples, 3) < 0.5).to(dtype),
        }
        classes = torch.arange(n_samples) % 3
        return Batch(model, LOSSES[self.loss], x, targets.get(self.loss, classes))


def mlp(*between: Callable[[int], nn.Module]) -> Callable[[], nn.Module]:
    """Return a builder of 6-7-5-3, with these modules after every hidden layer."""

    def build() -> nn.Module:
        modules: list[nn.Module] = []
        for n_in, n_out in ((6, 7), (7, 5)):
            modules += [nn.Linear(n_in, n_out), *(module(n_out) for module in between)]
        return nn.Sequential(*modules, nn.Linear(5, 3))

    return build


def cnn(*modules: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """Return a builder of modules one after the other."""
    return lambda: nn.Sequential(*(module() for module in modules))


@dataclass
class _Made:
    """A module with its arguments, to be built anew every time."""

    kind: type[nn.Module]
    arguments: tuple[Any, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)

    def __call__(self) -> nn.Module:
        return self.kind(*self.arguments, **self.options)


def made(kind: type[nn.Module], *arguments: Any, **options: Any) -> _Made:
    return _Made(kind, arguments, options)

"""Alignment as the claims about deep networks mean it, from one forward pass.

Gradient alignment is the cosine of the two error signals at the pre-activations of each sample,
averaged over samples; the output layer, which is exact, enters nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alignlab.engine.capture import Capture, Loss
from alignlab.kernels.cosines import cosine, flat
from alignlab.models.mlp import MLP
from alignlab.rules._base import Rule
from alignlab.rules._task import Task
from alignlab.snapshot import MeasuredRule
from alignlab.training import Recipe

__all__ = [
    "GradientAlignment",
    "WeightAlignment",
    "accuracy",
    "drawn",
    "feedback_matrices",
    "feedback_products",
    "gradient_alignment",
    "network",
    "plain_sgd",
    "summed_cross_entropy",
    "weight_alignment",
    "weights_of",
]

summed_cross_entropy: Loss = partial(F.cross_entropy, reduction="sum")


@dataclass(frozen=True)
class GradientAlignment:
    r"""How the signals of a rule agree with the true ones on a batch.

    Attributes:
        layers: Mean cosine of each hidden layer, from the bottom.
        total: That of all hidden layers of a sample as one vector.
        undefined: Samples and layers without direction, which are left out.
        share: Part of the decrease of the loss that hidden layers bring about,
            :math:`\sum_{l<L}\langle g_l,u_l\rangle / \langle g,u\rangle`.
        gradient: Cosine of the gradient of all parameters with the update.
        norms: Euclidean norm of the gradient and of the update.
    """

    layers: np.ndarray
    total: float
    undefined: int
    share: float
    gradient: float
    norms: tuple[float, float]


@dataclass(frozen=True)
class WeightAlignment:
    """Cosines of weights with what direct feedback makes of them.

    Attributes:
        layers: Of the second layer to the last, with :math:`F_l F_{l-1}^T`.
        total: Of these together, each counting by its norm.
    """

    layers: np.ndarray
    total: float


def network(sizes: Sequence[int], *, activation: str, seed: int) -> MLP:
    """Return a fully connected network without biases, with torch's initial weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MLP(
            in_features=sizes[0],
            widths=tuple(sizes[1:-1]),
            classes=sizes[-1],
            activation=activation,
            bias=False,
        )


def plain_sgd(rate: float, **options: Any) -> Recipe:
    """Return a recipe of gradient descent without momentum."""
    return Recipe(optimizer="sgd", optimizer_options={"lr": rate}, **options)


def drawn(rule: Rule, model: nn.Module, x: Tensor, y: Tensor, *, seed: int) -> MeasuredRule:
    """Return a rule with feedback from a seed, for a model that it has not trained.

    A loss of classes serves to find the layers; feedback does not depend on it.
    """
    loss: Loss = F.mse_loss if y.is_floating_point() else summed_cross_entropy
    capture = Capture(model, loss, x[:1], y[:1])
    try:
        state = rule.start(capture, seed=seed)
    finally:
        capture.close()
    return MeasuredRule(rule, state, "training")


def gradient_alignment(
    model: nn.Module, loss: Loss, x: Tensor, y: Tensor, *rules: MeasuredRule
) -> list[GradientAlignment]:
    """Return the alignment of each rule at the present weights, over one forward pass."""
    capture = Capture(model, loss, x, y)
    try:
        true = capture.reference(parameters=True)
        task = Task(capture, true)
        hidden = [layer.name for layer in capture.layers if not layer.is_output]
        return [_compared(hidden, true, rule.updates(task)) for rule in rules]
    finally:
        capture.close()


def _compared(hidden: Sequence[str], true: Any, found: Any) -> GradientAlignment:
    pairs = [(flat(true.preactivation[n]), flat(found.preactivation[n])) for n in hidden]
    cosines = [cosine(one, other) for one, other in pairs]
    whole = cosine(torch.cat([a for a, _ in pairs], 1), torch.cat([b for _, b in pairs], 1))
    products = {n: _inner(g, found.parameters[n]) for n, g in true.parameters.items()}
    is_hidden = tuple(f"{name}." for name in hidden)
    inside = sum(value for name, value in products.items() if name.startswith(is_hidden))
    norms = [sum(_inner(g, g) for g in each.parameters.values()) ** 0.5 for each in (true, found)]
    every = sum(products.values())
    size = norms[0] * norms[1]
    return GradientAlignment(
        layers=np.array([float(one.nanmean()) for one in cosines]),
        total=float(whole.nanmean()),
        undefined=int(sum(one.isnan().sum() for one in cosines)),
        share=inside / every if every else float("nan"),
        gradient=every / size if size else float("nan"),
        norms=(norms[0], norms[1]),
    )


def _inner(first: Tensor, second: Tensor) -> float:
    return float((first.double() * second.double()).sum())


def weights_of(model: nn.Module) -> list[Tensor]:
    """Return the weights of the linear layers in their order, detached."""
    return [m.weight.detach() for m in model.modules() if isinstance(m, nn.Linear)]


def feedback_matrices(measured: MeasuredRule) -> list[Tensor]:
    """Return direct feedback as matrices of units by outputs, from the bottom layer."""
    return [f.flatten(1).T for f in measured.feedback.values() if isinstance(f, Tensor)]


def feedback_products(feedback: Sequence[Tensor]) -> list[Tensor]:
    r"""Return :math:`F_l F_{l-1}^T` of the second layer on, and :math:`F_{L-1}^T` of the last."""
    return [*(above @ below.T for below, above in pairwise(feedback)), feedback[-1].T]


def weight_alignment(weights: Sequence[Tensor], feedback: Sequence[Tensor]) -> WeightAlignment:
    """Return how weights agree with the products of direct feedback.

    In the total, layers count by the norms of the products of feedback as their code holds it,
    before it is divided by the root of the width.

    Args:
        weights: Of every layer, units by inputs.
        feedback: Of every hidden layer, units by outputs.
    """
    products = feedback_products([each * len(each) ** 0.5 for each in feedback])
    pairs = [(w.flatten(), t.flatten()) for w, t in zip(weights[1:], products, strict=True)]
    return WeightAlignment(
        layers=np.array([float(cosine(w, t)) for w, t in pairs]),
        total=float(cosine(torch.cat([w for w, _ in pairs]), torch.cat([t for _, t in pairs]))),
    )


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Return the share of samples whose class is right."""
    with torch.no_grad():
        return float((model(x).argmax(1) == y).double().mean())

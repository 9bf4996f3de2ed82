r"""Deep linear networks that direct feedback trains from zero, and their alignment matrices.

With zero initial weights and feedback :math:`F_l` (``n_l`` by ``n_L``) the weights keep the form

.. math:: W_1 = F_1A_1,\quad W_l = F_lA_lF_{l-1}^\top,\quad W_L = A_LF_{L-1}^\top

and, with a batch of one and the error e, :math:`A_l \leftarrow A_l - \eta\,e z_{l-1}^\top`, where
:math:`z_0 = x`, :math:`z_1 = A_1x` and :math:`z_l = A_lF_{l-1}^\top F_{l-1}z_{l-1}`. This is our
derivation; that it is the paper's theory is recalled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from alignlab.feedback import as_tensor
from alignlab.kernels.alignment_matrix import cosine_with_identity
from alignlab.kernels.cosines import cosine
from alignlab.learner import Learner
from alignlab.rules import DFA
from alignlab.training import Moment, Recipe, train

__all__ = [
    "Trained",
    "alignment_matrices",
    "by_double_sum",
    "by_recursion",
    "cosine_to_identity",
    "gaussian_feedback",
    "linear_task",
    "squared_error",
    "trained_linear",
    "weight_alignments",
]


@dataclass(frozen=True)
class Trained:
    """A linear network after its training.

    Attributes:
        model: The network, float64.
        learner: The rule with its feedback, as the training left it.
        weights: W_1 to W_L.
        feedback: F_1 to F_{L-1}, each of shape ``(n_l, n_L)``.
        x: Inputs in the order of the first epoch's steps.
        y: Targets in the same order.
    """

    model: nn.Sequential
    learner: Learner
    weights: list[np.ndarray]
    feedback: list[np.ndarray]
    x: np.ndarray
    y: np.ndarray


def squared_error(output: Tensor, target: Tensor) -> Tensor:
    """Return the sum of squares, whose error is twice the difference."""
    return (output - target).square().sum()


def linear_task(seed: int, *, samples: int, inputs: int, outputs: int) -> tuple[Tensor, Tensor]:
    """Return normal inputs and the targets of a random linear teacher of rows of norm about 1."""
    source = np.random.default_rng([seed, 0])
    x = source.standard_normal((samples, inputs))
    y = x @ source.standard_normal((inputs, outputs)) / inputs**0.5
    return torch.from_numpy(x), torch.from_numpy(y)


def gaussian_feedback(seed: int) -> DFA:
    """Return DFA with normal feedback of variance 1/n at a layer of n units."""
    return DFA(seed=seed, normalisation="fan-out", scale=3.0**0.5)


def trained_linear(
    widths: Sequence[int],
    *,
    x: Tensor,
    y: Tensor,
    rule: DFA,
    recipe: Recipe,
) -> Trained:
    """Train a linear network without biases from zero initial weights.

    Args:
        widths: n_0 to n_L.
        x: Inputs, float64, shape ``(n_samples, n_0)``.
        y: Targets, float64, shape ``(n_samples, n_L)``.
        rule: Direct feedback.
        recipe: How it is trained.
    """
    layers = (nn.Linear(*pair, bias=False, dtype=torch.float64) for pair in pairwise(widths))
    model = nn.Sequential(*layers)
    for weight in model.parameters():
        nn.init.zeros_(weight)
    learners: list[Learner] = []

    def watch(moment: Moment) -> Mapping[str, float]:
        learners.append(moment.learner)
        return {}

    train(model, squared_error, x=x, y=y, rule=rule, recipe=recipe, watch=watch)
    state = learners[-1].state
    feedback = [
        as_tensor(state[str(number)]).T.double().numpy() for number in range(len(model) - 1)
    ]
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(recipe.order_seed))
    weights = [each.detach().numpy().copy() for each in model.parameters()]
    return Trained(model, learners[-1], weights, feedback, x[order].numpy(), y[order].numpy())


def by_recursion(
    feedback: Sequence[np.ndarray], *, x: np.ndarray, y: np.ndarray, rate: float
) -> list[np.ndarray]:
    """Return A_1 to A_L after a step on each sample, by the recursion; no weights are formed.

    Args:
        feedback: F_1 to F_{L-1}.
        x: Inputs in the order of the steps, shape ``(n_steps, n_0)``.
        y: Targets, shape ``(n_steps, n_L)``.
        rate: Learning rate on the sum of squares.
    """
    n_errors = y.shape[1]
    matrices = [np.zeros((n_errors, x.shape[1]))]
    matrices += [np.zeros((n_errors, n_errors)) for _ in feedback]
    grams = [each.T @ each for each in feedback]
    for sample, target in zip(x, y, strict=True):
        brought = [sample]
        for matrix, gram in zip(matrices, grams, strict=False):
            brought.append(gram @ (matrix @ brought[-1]))
        error = 2.0 * (matrices[-1] @ brought[-1] - target)
        # Below the first layer a matrix acts on z, behind the gram on what it brings.
        steps = [sample, *(m @ b for m, b in zip(matrices[:-1], brought[:-1], strict=False))]
        for matrix, step in zip(matrices, steps, strict=True):
            matrix[:] -= rate * np.outer(error, step)
    return matrices


def by_double_sum(
    feedback: Sequence[np.ndarray], *, x: np.ndarray, y: np.ndarray, rate: float
) -> list[np.ndarray]:
    r"""Return A_2 to A_L as sums over pairs of steps.

    .. math:: A_l = \eta^2\sum_{t'}\sum_{t''<t'}
        \langle h_{l-2}(t'), h_{l-2}(t'')\rangle\,e_{t'}e_{t''}^\top

    Activations and errors are those of the network, stepped by the rule itself.

    Args:
        feedback: F_1 to F_{L-1}.
        x: Inputs in the order of the steps.
        y: Targets.
        rate: Learning rate on the sum of squares.
    """
    sizes = [x.shape[1], *(len(each) for each in feedback), y.shape[1]]
    weights = [np.zeros((n, m)) for m, n in pairwise(sizes)]
    passed: list[list[np.ndarray]] = []
    errors = []
    for sample, target in zip(x, y, strict=True):
        h = [sample]
        for weight in weights:
            h.append(weight @ h[-1])
        error = 2.0 * (h[-1] - target)
        signals = [*(each @ error for each in feedback), error]
        for weight, signal, below in zip(weights, signals, h[:-1], strict=True):
            weight[:] -= rate * np.outer(signal, below)
        passed.append(h[:-1])
        errors.append(error)
    e = np.stack(errors)
    found = []
    for level in range(len(feedback)):
        below = np.stack([each[level] for each in passed])
        earlier = np.tril(below @ below.T, -1)
        found.append(rate**2 * e.T @ earlier @ e)
    return found


def alignment_matrices(
    weights: Sequence[np.ndarray], feedback: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """Return A_2 to A_L from weights by pseudo-inverses of the feedback."""
    inverses = [np.linalg.pinv(each) for each in feedback]
    found = []
    for level, weight in enumerate(weights[1:]):
        right = weight @ inverses[level].T
        found.append(right if level + 1 == len(feedback) else inverses[level + 1] @ right)
    return found


def weight_alignments(weights: Sequence[np.ndarray], feedback: Sequence[np.ndarray]) -> list[float]:
    """Return the cosine of W_l and F_l F_{l-1}^T, of W_L and F_{L-1}^T, for l = 2 to L."""
    found = []
    for level, weight in enumerate(weights[1:]):
        below = feedback[level].T
        target = below if level + 1 == len(feedback) else feedback[level + 1] @ below
        pair = (torch.from_numpy(np.ascontiguousarray(each)).flatten() for each in (weight, target))
        found.append(float(cosine(*pair)))
    return found


def cosine_to_identity(matrix: np.ndarray) -> float:
    """Return the signed cosine of a square matrix with the identity."""
    return float(cosine_with_identity(torch.from_numpy(matrix)))

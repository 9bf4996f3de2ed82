"""The alignment score of two weight changes: in closed form, by random inputs, by chance."""

from __future__ import annotations

import torch
from torch import Tensor

from alignlab.kernels.cosines import cosine, wide

__all__ = [
    "alignment_score",
    "estimated_score",
    "plain_cosine",
    "score_by_chance",
    "shuffled",
]


def alignment_score(first: Tensor, second: Tensor) -> Tensor:
    r"""Return the cosine of two Gram matrices of weight changes.

    With A the transpose of a change times itself it is
    :math:`\mathrm{tr}(AA')/(\|A\|_F\|A'\|_F) = \|\Delta W'\Delta W^\top\|_F^2 /
    (\|\Delta W\Delta W^\top\|_F \|\Delta W'\Delta W'^\top\|_F)` (our derivation from the code of
    Boopathy & Fiete 2022). Rotations of the output units do not change it.

    Args:
        first: A change of a weight, shape ``(n_out, n_in)``.
        second: Another, of the same shape.

    Returns:
        Scalar in [0, 1], float64; NaN where a change is zero.

    Example:
        >>> alignment_score(torch.eye(3), torch.eye(3)[[2, 0, 1]]).item()
        1.0
    """
    first, second = wide(first), wide(second)
    across = (second @ first.T).square().sum()
    own = (first @ first.T).norm() * (second @ second.T).norm()
    result: Tensor = across / own
    return result


def estimated_score(first: Tensor, second: Tensor, *, inputs: int, draws: int, seed: int) -> Tensor:
    """Return the score as the code of the paper estimates it, from products with noise.

    Both Gram matrices act on normal inputs; each batch of products is divided by its mean
    size, and inner products and squares are summed over batches before the ratio.

    Args:
        first: A change of a weight, shape ``(n_out, n_in)``.
        second: Another.
        inputs: In a batch.
        draws: Batches.
        seed: Of the inputs.

    Returns:
        Scalar, float64.
    """
    first, second = wide(first), wide(second)
    stream = torch.Generator().manual_seed(seed)
    inner, square, other = (torch.zeros((), dtype=torch.float64) for _ in range(3))
    for _ in range(draws):
        noise = torch.randn(inputs, first.shape[1], generator=stream, dtype=torch.float64)
        p, q = (noise @ w.T @ w / len(w) for w in (first, second))
        p, q = p / p.abs().mean(), q / q.abs().mean()
        inner, square, other = inner + (p * q).sum(), square + (p * p).sum(), other + (q * q).sum()
    result: Tensor = inner / (square * other).sqrt()
    return result


def score_by_chance(n_out: int, n_in: int) -> float:
    r"""Return about what two independent normal changes score: n_out / (n_out + n_in + 1).

    For A of n_out normal rows, :math:`E\,\mathrm{tr}(AA') = n_{out}^2 n_{in}` and
    :math:`E\|A\|_F^2 = n_{out} n_{in} (n_{out} + n_{in} + 1)` (our derivation).

    Example:
        >>> score_by_chance(10, 9)
        0.5
    """
    return n_out / (n_out + n_in + 1)


def shuffled(change: Tensor, *, seed: int) -> Tensor:
    """Return a change with its entries in random order."""
    stream = torch.Generator().manual_seed(seed)
    order = torch.randperm(change.numel(), generator=stream)
    result: Tensor = change.flatten()[order].reshape(change.shape)
    return result


def plain_cosine(first: Tensor, second: Tensor) -> Tensor:
    """Return the cosine of two changes as vectors, which sees the output side, too."""
    return cosine(first.flatten(), second.flatten())

"""Whether changes of weights read the same directions of the input."""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor

from alignlab.kernels.cosines import wide

__all__ = ["alignment_score", "rotated_scores", "score_of_noise"]


def alignment_score(first: Tensor, second: Tensor) -> Tensor:
    r"""Return the cosine of the input correlations of two weights, :math:`A = W^\top W`.

    .. math:: \frac{\operatorname{tr}(AA')}{\|A\|_F\|A'\|_F}
        = \frac{\|W'W^\top\|_F^2}{\|WW^\top\|_F\,\|W'W'^\top\|_F}

    It is blind to the side of the outputs: a rotation of these changes nothing. By chance it is not
    zero (``rotated_scores``). Source: Boopathy & Fiete 2022, arXiv 2106.08453 (code, where
    Gaussian inputs estimate it); the closed form is our derivation.

    Args:
        first: W, shape ``(..., n_out, n_in)``.
        second: W', likewise.

    Returns:
        Dimensionless, in [0, 1], shape ``(...)``, float64; NaN where either is zero.

    Example:
        >>> weight = torch.tensor([[1.0, 2.0], [0.0, 1.0]])
        >>> round(alignment_score(weight, -weight.flip(0)).item(), 6)
        1.0
        >>> alignment_score(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])).item()
        0.0
    """
    first, second = _scaled(first), _scaled(second)
    if first.shape[-2] <= first.shape[-1]:
        product = (second @ first.mT).square().sum((-2, -1))
    else:
        product = ((first.mT @ first) * (second.mT @ second)).sum((-2, -1))
    result: Tensor = (product / (_size(first) * _size(second))).clamp(0.0, 1.0)
    return result


def rotated_scores(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return mean and standard deviation of the score when the inputs of one are rotated.

    .. math:: \mu = \frac{\operatorname{tr}A\,\operatorname{tr}A'}{n\,\|A\|\|A'\|}, \qquad
        \sigma = \frac{\|A_0\|\|A_0'\|}{\|A\|\|A'\|} \sqrt{\frac{2}{(n-1)(n+2)}},

    over rotations of the n inputs of Haar measure, with :math:`A_0 = A - \operatorname{tr}(A) I/n`.
    Both are exact: the rotations act irreducibly on symmetric matrices without a trace. Source:
    our derivation (checked by simulation).

    Args:
        first: Shape ``(..., n_out, n_in)``.
        second: Likewise.

    Returns:
        Mean and standard deviation, dimensionless, shape ``(...)``; for one input 1 and 0, NaN
        where either weight is zero.
    """
    first, second = _scaled(first), _scaled(second)
    n = first.shape[-1]
    traces = [each.square().sum((-2, -1)) / _size(each) for each in (first, second)]
    mean = traces[0] * traces[1] / n
    if n == 1:
        return mean, mean * 0.0
    rest = [(1.0 - trace.square() / n).clamp_min(0.0).sqrt() for trace in traces]
    return mean, rest[0] * rest[1] * sqrt(2.0 / ((n - 1) * (n + 2)))


def score_of_noise(n_out: int, n_in: int) -> float:
    """Return the score that two weights of independent normal entries have, to first order.

    Source: our derivation (checked by simulation).

    Args:
        n_out: Rows.
        n_in: Columns.

    Example:
        >>> score_of_noise(10, 9)
        0.5
    """
    return n_out / (n_out + n_in + 1)


def _size(weight: Tensor) -> Tensor:
    """Return the Frobenius norm of W^T W."""
    gram = weight @ weight.mT if weight.shape[-2] <= weight.shape[-1] else weight.mT @ weight
    return torch.sqrt(gram.square().sum((-2, -1)))


def _scaled(weight: Tensor) -> Tensor:
    """Return a weight by its largest entry, so that no fourth power is too small to hold."""
    weight = wide(weight)
    return weight / weight.abs().amax((-2, -1), keepdim=True)

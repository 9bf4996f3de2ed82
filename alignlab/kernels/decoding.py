"""How well a linear readout of a representation tells the classes, on samples it has not seen."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from alignlab.kernels.cosines import wide

__all__ = [
    "PENALTIES",
    "explained_share",
    "held_out_accuracy",
    "held_out_residuals",
    "held_out_share",
    "mean_residuals",
]

PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Penalties among which a probe chooses, in units of the mean energy of a sample."""


def held_out_residuals(
    gram: Tensor, targets: Tensor, folds: Sequence[Tensor], *, penalties: Sequence[float]
) -> Tensor:
    r"""Return what ridge regression with a constant misses on the fold that it has not seen.

    With the smoother of all samples, :math:`I - S = \lambda(K + \lambda I)^{-1} - 11^\top/N`, the
    residuals of the fit without fold F are :math:`(I - S)_{FF}^{-1}\,[(I - S)\,Y]_F`, exactly.
    The penalty is chosen anew for every fold, as the one with the least squared residuals on the
    other folds. Source: the block form of leaving one out (our derivation).

    Args:
        gram: Of ``similarity.centred_gram``, shape ``(n_samples, n_samples)``.
        targets: Shape ``(..., n_samples, n_targets)``.
        folds: Indices of the samples of each fold, together all of them, at least two.
        penalties: To choose among, each positive.

    Returns:
        Target less prediction, float64, of the shape of ``targets``.
    """
    targets = wide(targets)
    found = torch.stack([_residuals(gram, targets, folds, each) for each in penalties])
    squares = torch.stack([found[..., fold, :].square().sum((-2, -1)) for fold in folds])
    others = squares.sum(0) - squares
    result = torch.empty_like(targets)
    for number, fold in enumerate(folds):
        best = others[number].argmin(0)[None, ..., None, None]
        part = found[..., fold, :]
        result[..., fold, :] = part.gather(0, best.expand(1, *part.shape[1:]))[0]
    return result


def mean_residuals(targets: Tensor, folds: Sequence[Tensor]) -> Tensor:
    """Return what the mean of the other folds misses: a readout that knows no features.

    Args:
        targets: Shape ``(..., n_samples, n_targets)``.
        folds: Indices of the samples of each fold.

    Returns:
        Target less mean, float64, of the shape of ``targets``.
    """
    targets = wide(targets)
    total, n_samples = targets.sum(-2, keepdim=True), targets.shape[-2]
    result = torch.empty_like(targets)
    for fold in folds:
        own = targets[..., fold, :]
        seen = (total - own.sum(-2, keepdim=True)) / (n_samples - len(fold))
        result[..., fold, :] = own - seen
    return result


def held_out_share(residuals: Tensor, baseline: Tensor) -> Tensor:
    """Return the share of the squared residuals of the mean that a readout removes.

    Args:
        residuals: Of ``held_out_residuals``, shape ``(..., n_samples, n_targets)``.
        baseline: Of ``mean_residuals``, likewise.

    Returns:
        Dimensionless, at most 1, shape ``(...)``; negative where the readout is worse than the
        mean, NaN where the mean misses nothing.
    """
    share: Tensor = residuals.square().sum((-2, -1)) / baseline.square().sum((-2, -1))
    return 1.0 - share


def held_out_accuracy(residuals: Tensor, targets: Tensor) -> Tensor:
    """Return how often the largest prediction is that of the true class.

    Args:
        residuals: Of ``held_out_residuals``, shape ``(..., n_samples, n_classes)``.
        targets: One column per class, 1 for the true one and 0 elsewhere, likewise.

    Returns:
        Share of the samples, in [0, 1], shape ``(...)``, float64.
    """
    targets = wide(targets)
    right = (targets - residuals).argmax(-1) == targets.argmax(-1)
    return right.double().mean(-1)


def explained_share(gram: Tensor, targets: Tensor, *, penalty: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return the share of the targets' variance that a fit to the same samples explains.

    .. math:: \frac{\operatorname{tr}[\Lambda^\top(\Sigma + \lambda I)^{-1}\Lambda]}
        {\operatorname{tr}\operatorname{Cov}(y)}

    with :math:`\Lambda` the covariance of features and targets and :math:`\Sigma` that of the
    features. It is biased upwards. Over permutations of the targets its expectation is exactly
    :math:`\operatorname{tr} S/(N-1)`, S the smoother: without a penalty n/(N - 1).

    Sources: DFA-Stall (repository; there divided by the mean variance of a class instead); the
    expectation is our derivation.

    Args:
        gram: Of ``similarity.centred_gram``, shape ``(..., n_samples, n_samples)``.
        targets: Shape ``(n_samples, n_targets)``.
        penalty: Positive, in units of the mean energy of a sample, shape ``(...)``.

    Returns:
        The share and its expectation, in [0, 1], shape ``(...)``; NaN where all targets are equal.
    """
    targets = wide(targets)
    targets = targets - targets.mean(0, keepdim=True)
    inverse = _inverse(gram, penalty)
    smoother = penalty[..., None, None] * -inverse
    smoother = smoother + torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    fitted: Tensor = (targets * (smoother @ targets)).sum((-2, -1))
    trace = torch.diagonal(smoother, dim1=-2, dim2=-1).sum(-1)
    return fitted / targets.square().sum(), trace / (gram.shape[-1] - 1)


def _residuals(gram: Tensor, targets: Tensor, folds: Sequence[Tensor], penalty: float) -> Tensor:
    apart = penalty * _inverse(gram, gram.new_tensor(penalty)) - 1.0 / gram.shape[-1]
    missed = apart @ targets
    result = torch.empty_like(missed)
    for fold in folds:
        block = apart[fold][:, fold]
        result[..., fold, :] = torch.linalg.solve_ex(block, missed[..., fold, :]).result
    return result


def _inverse(gram: Tensor, penalty: Tensor) -> Tensor:
    """Return the inverse of the Gram matrix with a penalty on its diagonal."""
    eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    factor = torch.linalg.cholesky_ex(gram + penalty[..., None, None] * eye).L
    return torch.cholesky_inverse(factor)

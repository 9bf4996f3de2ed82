"""How much of one set of rows is a linear function of another."""

from __future__ import annotations

import torch
from torch import Tensor

from alignlab.kernels.cosines import wide

__all__ = ["explained_held_out", "explained_in_sample", "row_space"]


def row_space(rows: Tensor, *, tolerance: float = 1e-6) -> Tensor:
    r"""Return an orthonormal basis of the directions that the rows occupy.

    For the errors of a softmax this leaves out the constant direction, in which they are
    zero by construction.

    Args:
        rows: Shape ``(n_samples, n)``.
        tolerance: Singular values below this share of the largest count as zero.

    Returns:
        Columns are the basis, shape ``(n, r)``, float64, strongest direction first; none
        for no rows and for zero rows.
    """
    _, values, right = torch.linalg.svd(wide(rows), full_matrices=False)
    keep = values > tolerance * values[:1]
    result: Tensor = right[keep].T
    return result


def _fit(features: Tensor, targets: Tensor) -> Tensor:
    basis = row_space(features)
    result: Tensor = basis @ torch.linalg.lstsq(features @ basis, targets).solution
    return result


def explained_in_sample(features: Tensor, targets: Tensor) -> Tensor:
    r"""Return :math:`\|P_E\Delta\|^2/\|\Delta\|^2`, the share of the targets that is linear.

    No constant term: a feedback matrix has none. Biased upwards, by about
    ``rank / n_samples``. Source: our derivation.

    Args:
        features: Errors E, shape ``(n_samples, n_classes)``.
        targets: True signals, shape ``(n_samples, n)``.

    Returns:
        Dimensionless, in [0, 1], scalar; NaN where the targets are zero.
    """
    features, targets = wide(features), wide(targets)
    left, values, _ = torch.linalg.svd(features, full_matrices=False)
    left = left[:, values > 1e-6 * values[:1]]
    result: Tensor = (left.T @ targets).square().sum() / targets.square().sum()
    return result


def explained_held_out(features: Tensor, targets: Tensor, fold: Tensor) -> Tensor:
    r"""Return the share of the held-out targets that the fit on the others explains.

    One minus residual over total energy, averaged over both directions of the two
    folds; it can be negative and is biased downwards. Source: our derivation.

    Args:
        features: Errors E, shape ``(n_samples, n_classes)``.
        targets: True signals, shape ``(n_samples, n)``.
        fold: Which samples are in the first half, boolean, shape ``(n_samples,)``.

    Returns:
        Dimensionless, at most 1, scalar; NaN where the targets are zero or a half is empty.
    """
    features, targets = wide(features), wide(targets)
    scores = []
    for train, test in ((fold, ~fold), (~fold, fold)):
        residual = targets[test] - features[test] @ _fit(features[train], targets[train])
        scores.append(1.0 - residual.square().sum() / targets[test].square().sum())
    return torch.stack(scores).mean()

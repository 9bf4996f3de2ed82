"""How much of one set of rows is a linear function of another."""

from __future__ import annotations

import torch
from torch import Tensor

from alignlab.kernels.cosines import wide

__all__ = ["explained_held_out", "explained_in_sample", "row_space"]

_COLUMNS = 512
_RIDGE = 1e-3


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


def explained_in_sample(
    features: Tensor, targets: Tensor, *, gains: Tensor | None = None
) -> Tensor:
    r"""Return :math:`\|P_E\Delta\|^2/\|\Delta\|^2`, the share of the targets that is linear.

    No constant term: a feedback matrix has none. Biased upwards, by about
    ``rank / n_samples``. Source: our derivation.

    Args:
        features: Errors E, shape ``(n_samples, n_features)``.
        targets: True signals, shape ``(n_samples, n)``.
        gains: Squared gains of every entry of the targets, at least 0, of their shape; None
            for all ones.

    Returns:
        Dimensionless, in [0, 1], scalar; NaN where the targets are zero.
    """
    everything = torch.ones(features.shape[0], dtype=torch.bool, device=features.device)
    return _explained(features, targets, gains, everything, everything)


def explained_held_out(
    features: Tensor, targets: Tensor, fold: Tensor, *, gains: Tensor | None = None
) -> Tensor:
    r"""Return the share of the held-out targets that the fit on the others explains.

    One minus residual over total energy, averaged over both directions of the two
    folds; it can be negative and is biased downwards, with gains also by a ridge of one per
    mille of the features' energy, which holds units that act on few samples. Source: our
    derivation.

    Args:
        features: Errors E, shape ``(n_samples, n_features)``.
        targets: True signals, shape ``(n_samples, n)``.
        fold: Which samples are in the first half, boolean, shape ``(n_samples,)``.
        gains: Squared gains of every entry of the targets; None for all ones.

    Returns:
        Dimensionless, at most 1, scalar; NaN where the targets are zero or a half is empty.
    """
    if fold.all() or not fold.any():
        return torch.tensor(float("nan"), dtype=torch.float64)
    pairs = ((fold, ~fold), (~fold, fold))
    return torch.stack([_explained(features, targets, gains, *pair) for pair in pairs]).mean()


def _explained(
    features: Tensor, targets: Tensor, gains: Tensor | None, train: Tensor, test: Tensor
) -> Tensor:
    """Return one minus residual over energy on some samples of the fit on others."""
    residual = torch.zeros((), dtype=torch.float64, device=features.device)
    energy = residual.clone()
    for columns in torch.arange(targets.shape[1], device=targets.device).split(_COLUMNS):
        aims = wide(targets[:, columns])
        gain = torch.ones_like(aims) if gains is None else wide(gains[:, columns])
        ridge = 0.0 if gains is None or train is test else _RIDGE
        kernel = _fit(wide(features[train]), aims[train], gain[train], ridge=ridge)
        fitted = wide(features) @ kernel
        missed = (aims - fitted).square() * gain
        residual = residual + missed[test].sum()
        energy = energy + (aims.square() * gain)[test].sum()
    result: Tensor = 1.0 - residual / energy
    return result


def _fit(features: Tensor, targets: Tensor, gains: Tensor, *, ridge: float) -> Tensor:
    """Return the weighted least-squares weights, shape ``(n_features, n)``."""
    grams = torch.einsum("ra,rn,rb->nab", features, gains, features)
    n_features = features.shape[1]
    eye = torch.eye(n_features, dtype=features.dtype, device=features.device)
    # A unit that acts on fewer samples than there are features would be fitted by anything.
    size = features.square().sum() / max(n_features, 1) * gains.amax(0)
    grams = grams + ridge * size.reshape(-1, 1, 1) * eye
    moments = features.T @ (gains * targets)
    inverses = torch.linalg.pinv(grams, hermitian=True, rtol=1e-12)
    return torch.einsum("nab,bn->an", inverses, moments)

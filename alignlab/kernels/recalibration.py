"""How much of one signal a linear map makes of another, from inner products of samples alone."""

from __future__ import annotations

import torch
from torch import Tensor

from alignlab.kernels.cosines import wide

__all__ = ["PENALTIES", "inner_products", "recalibrated"]

PENALTIES = tuple(10.0 ** (exponent / 2.0) for exponent in range(-12, 7))
"""Ridges that are tried, in mean energies of a sample's features."""


def inner_products(rows: Tensor) -> Tensor:
    r"""Return :math:`XX^\top` of rows that are scaled to a mean squared norm of one.

    Args:
        rows: Shape ``(..., n_samples, n)``.

    Returns:
        Float64, shape ``(..., n_samples, n_samples)``; NaN where all rows are zero.

    Example:
        >>> inner_products(torch.tensor([[2.0], [-2.0]])).tolist()
        [[1.0, -1.0], [-1.0, 1.0]]
    """
    matrix = wide(rows)
    matrix = matrix / matrix.abs().amax((-2, -1), keepdim=True)
    products = matrix @ matrix.mT
    mean = torch.diagonal(products, dim1=-2, dim2=-1).mean(-1)
    return products / mean[..., None, None]


def recalibrated(features: Tensor, targets: Tensor, *, split: int) -> Tensor:
    r"""Return the share of held-out targets that a linear map of the features gives.

    The map is fitted by ridge regression without constant term on one half of the samples; its
    penalty is the one of ``PENALTIES`` with the least generalised cross-validation error there
    (Golub, Heath & Wahba 1979). One minus residual over total energy on the other half, averaged
    over both ways. It is biased downwards, the more the fewer samples there are beside
    directions of the features.

    Args:
        features: Inner products of the features of samples, ``(..., n_samples, n_samples)``, as
            ``inner_products`` gives them.
        targets: The same of the targets; leading axes broadcast.
        split: How many samples the first half has, which come first.

    Returns:
        Dimensionless, at most 1, shape ``(...)``; NaN where a half is empty, or features or
        targets are zero.

    Example:
        >>> rows = torch.tensor([[1.0], [2.0], [-3.0], [1.0]])
        >>> given, wanted = inner_products(rows), inner_products(-2.0 * rows)
        >>> round(recalibrated(given, wanted, split=2).item(), 5)
        1.0
    """
    shape = torch.broadcast_shapes(features.shape[:-2], targets.shape[:-2])
    if not 0 < split < features.shape[-1]:
        return torch.full(shape, torch.nan, dtype=torch.float64, device=features.device)
    first, second = slice(split), slice(split, None)
    ways = ((first, second), (second, first))
    found = [_explained(wide(features), wide(targets), train, test) for train, test in ways]
    return torch.stack(found).mean(0)


def _explained(features: Tensor, targets: Tensor, train: slice, test: slice) -> Tensor:
    own, across = features[..., train, train], features[..., test, train]
    finite = torch.isfinite(own).all(-1).all(-1)
    own = torch.where(finite[..., None, None], own, 0.0)
    values, vectors = torch.linalg.eigh(own)
    values = values.clamp_min(0.0)
    aims = targets[..., train, train]
    shrunk = 1.0 / (values + _penalty(values, _along(vectors, aims)).unsqueeze(-1))
    hat = (across @ (vectors * shrunk.unsqueeze(-2))) @ vectors.mT
    held, mixed = targets[..., test, test], targets[..., test, train]
    energy = _trace(held)
    made = ((hat @ aims) * hat).sum((-2, -1))
    residual = energy - 2.0 * (hat * mixed).sum((-2, -1)) + made
    return torch.where(finite, 1.0 - residual / energy, torch.nan)


def _penalty(values: Tensor, aims: Tensor) -> Tensor:
    """Return the penalty of the least generalised cross-validation error, shape ``(...)``.

    Args:
        values: Eigenvalues of the features' inner products, shape ``(..., n)``.
        aims: Energies of the targets along their eigenvectors, shape ``(..., n)``.
    """
    tried = torch.tensor(PENALTIES, dtype=values.dtype, device=values.device)
    penalties = tried * values.mean(-1, keepdim=True).clamp_min(1e-300)
    kept = penalties.unsqueeze(-1) / (values.unsqueeze(-2) + penalties.unsqueeze(-1))
    error = (kept.square() * aims.unsqueeze(-2)).sum(-1) / kept.sum(-1).square()
    best = error.argmin(-1, keepdim=True)
    chosen: Tensor = penalties.expand(error.shape).gather(-1, best).squeeze(-1)
    return chosen


def _along(vectors: Tensor, aims: Tensor) -> Tensor:
    """Return the energies of the targets along eigenvectors."""
    return ((aims @ vectors) * vectors).sum(-2)


def _trace(products: Tensor) -> Tensor:
    return torch.diagonal(products, dim1=-2, dim2=-1).sum(-1)

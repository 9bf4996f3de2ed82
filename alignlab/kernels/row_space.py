r"""Rank, conditioning and pseudo-inverse of Jacobians, from the Gram matrices of their rows.

The Jacobian of a sample, :math:`J = \partial z/\partial h` of shape ``(n_errors, n)``, has far
fewer rows than columns. Whatever is asked of its row space follows from
:math:`G = JJ^\top`, shape ``(n_errors, n_errors)``, and from products :math:`Js` with signals.
"""

from __future__ import annotations

from math import pi

import torch
from torch import Tensor

from alignlab.kernels.cosines import wide

__all__ = [
    "TOLERANCE",
    "conditioning",
    "inverse",
    "rank",
    "rank_one_cosine_bound",
    "row_space_share",
    "singular_values",
    "tolerance_of",
]

TOLERANCE = 1e-5
"""Singular values below this share of the largest count as zero.

It is ten times what the rounding of rows in float32 makes of one that is zero; see ``tolerance_of``
for rows of other precision.
"""


def tolerance_of(dtype: torch.dtype) -> float:
    """Return the share of the largest below which singular values are rounding.

    Args:
        dtype: Floating type in which the rows were formed.

    Example:
        >>> tolerance_of(torch.float32), tolerance_of(torch.bfloat16)
        (1e-05, 0.078...)
    """
    return max(TOLERANCE, 10.0 * torch.finfo(dtype).eps)


def singular_values(gram: Tensor) -> Tensor:
    r"""Return :math:`\sigma(J)` from :math:`G = JJ^\top`, descending.

    Args:
        gram: Shape ``(..., n_errors, n_errors)``.

    Returns:
        At least 0, float64, shape ``(..., n_errors)``; NaN where G is not finite.

    Example:
        >>> singular_values(torch.diag(torch.tensor([1.0, 9.0]))).tolist()
        [3.0, 1.0]
    """
    finite, known = _finite(gram)
    values = torch.linalg.eigvalsh(finite).clamp_min(0.0).sqrt().flip(-1)
    return torch.where(known.unsqueeze(-1), values, torch.nan)


def rank(values: Tensor, *, tolerance: float = TOLERANCE) -> Tensor:
    """Return how many singular values are above a share of the largest.

    Args:
        values: Descending, shape ``(..., n)``.
        tolerance: That share.

    Returns:
        Count, float64, shape ``(...)``; 0 for the zero matrix, NaN where not finite.
    """
    values = wide(values)
    largest = values[..., :1]
    counted = ((values > tolerance * largest) & (largest > 0)).double().sum(-1)
    return torch.where(torch.isfinite(values).all(-1), counted, torch.nan)


def conditioning(values: Tensor, width: int, *, tolerance: float = TOLERANCE) -> Tensor:
    r"""Return :math:`\kappa(J) = \sigma_1/\sigma_{\min(n_{errors}, n)}`.

    A layer that is narrower than the error can pass on only as many directions as it has units;
    those beyond are no matter of conditioning.

    Args:
        values: Descending singular values, shape ``(..., n_errors)``.
        width: Columns of the Jacobian, n.
        tolerance: Share of the largest below which a value counts as zero.

    Returns:
        Dimensionless, at least 1, float64, shape ``(...)``; infinite where the rank is less
        than it could be, NaN for the zero matrix.

    Example:
        >>> conditioning(torch.tensor([6.0, 2.0, 0.0]), 2).item()
        3.0
    """
    values = wide(values)
    largest, smallest = values[..., 0], values[..., min(values.shape[-1], width) - 1]
    plain = torch.where(smallest > tolerance * largest, largest / smallest, torch.inf)
    return torch.where(largest > 0, plain, torch.nan)


def inverse(gram: Tensor, *, tolerance: float = TOLERANCE) -> Tensor:
    r"""Return :math:`(JJ^\top)^+`, by which :math:`J^+ = J^\top(JJ^\top)^+`.

    There is no ridge: directions of the error with a singular value of J below a share of the
    largest are left out.

    Args:
        gram: Shape ``(..., n_errors, n_errors)``.
        tolerance: That share, of singular values of J and not of G.

    Returns:
        Float64, shape as ``gram``; zero for the zero matrix, NaN where not finite.
    """
    finite, known = _finite(gram)
    values, vectors = torch.linalg.eigh(finite)
    largest = values[..., -1:]
    kept = (values > tolerance**2 * largest) & (largest > 0)
    reciprocal = torch.where(kept, 1.0 / values, 0.0)
    result = (vectors * reciprocal.unsqueeze(-2)) @ vectors.mT
    return torch.where(known[..., None, None], result, torch.nan)


def row_space_share(inverted: Tensor, products: Tensor, energy: Tensor) -> Tensor:
    r"""Return :math:`\|P_{J^\top}s\|^2/\|s\|^2`, the share of signals in the row space of J.

    :math:`P_{J^\top} = J^\top(JJ^\top)^+J`. What lies outside changes the output by nothing in
    first order. A signal of isotropic direction has the share rank(J)/n on average. Source: our
    derivation.

    Args:
        inverted: :math:`(JJ^\top)^+` of every sample, ``(..., n_errors, n_errors)``.
        products: :math:`Js`, shape ``(..., n_errors)``.
        energy: :math:`\|s\|^2`, shape ``(...)``.

    Returns:
        Dimensionless, in [0, 1], float64, shape ``(...)``; NaN for the zero signal.
    """
    products, energy = wide(products), wide(energy)
    inside = torch.einsum("...c,...cd,...d->...", products, wide(inverted), products)
    share = (inside / energy).clamp(0.0, 1.0)
    return torch.where(energy > 0, share, torch.nan)


def rank_one_cosine_bound(values: Tensor, width: int) -> Tensor:
    r"""Return what the cosine of a rank-one estimate of J with J is at least on average.

    A random direction u of the layer and what it does to the output give the estimate
    :math:`(Ju)u^\top` of J. Its cosine with J is :math:`\|Ju\|/(\|u\|\|J\|_F)`, so never
    negative, and its mean square over isotropic u is exactly :math:`1/n`. With the leading
    right singular vector v, :math:`\|Ju\| \ge \sigma_1|v^\top u|`, and
    :math:`\mathbb{E}|v^\top u|/\|u\| = \Gamma(\tfrac n2)/(\sqrt\pi\,\Gamma(\tfrac{n+1}2))
    \ge \sqrt{2/(\pi n)}`, hence

    .. math:: \mathbb{E}\cos \ge \sqrt{\tfrac{2}{\pi n}}\,\|J\|_2/\|J\|_F.

    Source: our derivation; such a bound is ascribed to GrAPE (ICLR 2026), which we have not read.

    Args:
        values: Singular values of J, descending, shape ``(..., n_errors)``.
        width: Columns of J, n.

    Returns:
        Dimensionless, in (0, 1), float64, shape ``(...)``; NaN for the zero matrix.

    Example:
        >>> round(rank_one_cosine_bound(torch.tensor([1.0, 0.0]), 200).item(), 4)
        0.0564
    """
    values = wide(values)
    result: Tensor = (2.0 / (pi * width)) ** 0.5 * values[..., 0] / values.norm(dim=-1)
    return result


def _finite(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Return a matrix that can be decomposed, and whether it is the given one."""
    gram = wide(gram)
    known = torch.isfinite(gram).flatten(-2).all(-1)
    return torch.where(known[..., None, None], gram, 0.0), known

"""How alike two representations of the same samples are, whatever their units."""

from __future__ import annotations

from math import nan, sqrt

import torch
from torch import Tensor

from alignlab.kernels.cosines import cosine, wide

__all__ = [
    "FEWEST_SAMPLES",
    "centred",
    "debiased_gram",
    "debiased_similarity",
    "dissimilarity_ranks",
    "permutation_sd",
    "permuted",
]

FEWEST_SAMPLES = 4
"""Samples below which nothing is left of a Gram matrix without its bias."""

_FLOOR = 1e-10


def centred(rows: Tensor) -> Tensor:
    """Return rows about their mean, scaled to a largest entry of one.

    Args:
        rows: One row per sample, shape ``(..., n_samples, n)``.

    Returns:
        Float64, of the same shape; zero where the rows do not differ but by rounding.
    """
    rows = wide(rows)
    size = rows.abs().amax((-2, -1), keepdim=True)
    rows = rows - rows.mean(-2, keepdim=True)
    spread = rows.abs().amax((-2, -1), keepdim=True)
    return torch.where(spread > _FLOOR * size, rows / spread, 0.0)


def debiased_gram(rows: Tensor) -> Tensor:
    r"""Return the Gram matrix of the samples without its diagonal and its means.

    .. math:: \tilde K_{ij} = K_{ij} - \frac{\sum_l K_{il}}{N-2} - \frac{\sum_l K_{lj}}{N-2}
        + \frac{\sum_{kl} K_{kl}}{(N-1)(N-2)}, \quad i \ne j,

    with :math:`K = XX^\top` but for a diagonal of zeros, and :math:`\tilde K_{ii} = 0`. All rows
    then add up to zero. Source: Székely & Rizzo 2014, Annals of Statistics 42(6) (U-centring).

    Args:
        rows: One row per sample, shape ``(..., n_samples, n)``, at least 4 samples.

    Returns:
        Symmetric, float64, shape ``(..., n_samples, n_samples)``, up to a positive factor; zero
        where the rows do not differ but by rounding.
    """
    n_samples = rows.shape[-2]
    rows = centred(rows)
    gram = rows @ rows.mT
    gram = gram - torch.diag_embed(torch.diagonal(gram, dim1=-2, dim2=-1))
    means = gram.sum(-1, keepdim=True) / (n_samples - 2)
    whole = gram.sum((-2, -1), keepdim=True) / ((n_samples - 1) * (n_samples - 2))
    level = gram - means - means.mT + whole
    result: Tensor = level - torch.diag_embed(torch.diagonal(level, dim1=-2, dim2=-1))
    return result


def debiased_similarity(first: Tensor, second: Tensor) -> Tensor:
    r"""Return debiased linear CKA, :math:`\langle\tilde K,\tilde L\rangle/(\|\tilde K\|\|\tilde L\|)`.

    The numerator is the unbiased estimate of the Hilbert-Schmidt independence criterion times
    :math:`N(N-3)`. Over permutations of the samples of one of the two its expectation is exactly
    zero (our derivation), where plain CKA of unrelated noise of n units is about
    :math:`n/(n+N)`. Sources: Kornblith et al. 2019, arXiv 1905.00414 (CKA); Song et al. 2012,
    JMLR 13 (the estimate).

    Args:
        first: Of ``debiased_gram``, shape ``(..., n_samples, n_samples)``.
        second: The same of the other representation.

    Returns:
        Dimensionless, in [-1, 1], shape ``(...)``, float64; NaN where either is zero.

    Example:
        >>> x = torch.randn(9, 5, generator=torch.Generator().manual_seed(0))
        >>> gram = debiased_gram(x)
        >>> round(debiased_similarity(gram, debiased_gram(-3.0 * x)).item(), 6)
        1.0
    """
    return cosine(first.flatten(-2), second.flatten(-2))


def dissimilarity_ranks(rows: Tensor) -> Tensor:
    r"""Return ranks of the dissimilarities of all pairs of samples, less their mean.

    The dissimilarity is one minus the correlation of two samples over the units. The cosine of
    two such vectors is the rank correlation of representational similarity analysis; ties have
    the mean of their ranks. Over permutations of the samples its expectation is zero.

    Source: Kriegeskorte, Mur & Bandettini 2008, Frontiers in Systems Neuroscience 2:4.

    Args:
        rows: One row per sample, shape ``(..., n_samples, n)``.

    Returns:
        Float64, shape ``(..., n_samples (n_samples - 1) / 2)``; zero where all pairs are alike,
        and NaN where a sample is the same in all its units.
    """
    rows = wide(rows)
    rows = rows / rows.abs().amax((-2, -1), keepdim=True)
    rows = rows - rows.mean(-1, keepdim=True)
    unit = rows / torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    n_samples = rows.shape[-2]
    above = torch.triu_indices(n_samples, n_samples, 1, device=rows.device)
    apart = 1.0 - (unit @ unit.mT)[..., above[0], above[1]]
    # Rounding would make an order of dissimilarities that are equal.
    ordered = (apart / _FLOOR).round().contiguous()
    sorted_values = ordered.sort(dim=-1).values
    low = torch.searchsorted(sorted_values, ordered)
    high = torch.searchsorted(sorted_values, ordered, right=True)
    ranks = (low + high).double() / 2.0
    ranks = torch.where(apart.isnan().any(-1, keepdim=True), nan, ranks)
    return ranks - ranks.mean(-1, keepdim=True)


def permutation_sd(n_samples: int) -> float:
    r"""Return the standard deviation of debiased CKA over permutations, exactly.

    .. math:: \sqrt{\frac{2}{N(N-3)}}

    It is one over the root of the dimension of the matrices that ``debiased_gram`` returns, and
    does not depend on the representations. Source: our derivation (checked by simulation).

    Args:
        n_samples: N, at least 4.

    Example:
        >>> permutation_sd(4)
        0.7071067811865476
    """
    return sqrt(2.0 / (n_samples * (n_samples - 3)))


def permuted(gram: Tensor, order: Tensor) -> Tensor:
    """Return a Gram matrix of the samples in another order.

    Args:
        gram: Shape ``(..., n_samples, n_samples)``.
        order: Permutation of the samples, shape ``(n_samples,)``.
    """
    return gram[..., order, :][..., order]

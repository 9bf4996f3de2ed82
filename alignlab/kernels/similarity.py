"""How alike two representations of the same samples are, whatever their units."""

from __future__ import annotations

from math import nan, sqrt

import torch
from torch import Tensor

from alignlab.kernels.cosines import cosine, wide

__all__ = [
    "FEWEST_SAMPLES",
    "centred_gram",
    "debiased_gram",
    "debiased_similarity",
    "dissimilarity_ranks",
    "permutation_sd",
    "permuted",
    "sample_products",
]

FEWEST_SAMPLES = 4
"""Samples below which nothing is left of a Gram matrix without its bias."""

_FLOOR = 1e-12
_TIE = 1e-10


def sample_products(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return products of all pairs of samples, and each sample's mean over its units.

    Args:
        rows: One row per sample, shape ``(..., n_samples, n)``.

    Returns:
        Gram matrix, shape ``(..., n_samples, n_samples)``, and means, ``(..., n_samples)``;
        float64.
    """
    rows = wide(rows)
    return rows @ rows.mT, rows.mean(-1)


def centred_gram(gram: Tensor) -> Tensor:
    """Return the Gram matrix of the samples about their mean, of mean energy one.

    Args:
        gram: Products of the samples, shape ``(..., n_samples, n_samples)``.

    Returns:
        Float64, of the same shape, its diagonal of mean 1; zero where the samples do not differ
        but by rounding of float32.
    """
    gram = wide(gram)
    energy = _energy(gram)
    means = gram.mean(-1, keepdim=True)
    centred = gram - means - means.mT + means.mean(-2, keepdim=True)
    rest = _energy(centred)
    return torch.where(rest > _FLOOR * energy, centred / rest, 0.0)


def debiased_gram(gram: Tensor) -> Tensor:
    r"""Return the Gram matrix of the samples without its diagonal and its means.

    .. math:: \tilde K_{ij} = K_{ij} - \frac{\sum_l K_{il}}{N-2} - \frac{\sum_l K_{lj}}{N-2}
        + \frac{\sum_{kl} K_{kl}}{(N-1)(N-2)}, \quad i \ne j,

    with :math:`K = XX^\top` but for a diagonal of zeros, and :math:`\tilde K_{ii} = 0`. All rows
    then add up to zero. Source: Székely & Rizzo 2014, Annals of Statistics 42(6) (U-centring).

    Args:
        gram: Products of the samples, shape ``(..., n_samples, n_samples)``, at least 4 samples.

    Returns:
        Symmetric, float64, of the same shape, up to a positive factor; zero where the samples do
        not differ but by rounding of float32.
    """
    n_samples = gram.shape[-1]
    gram = centred_gram(gram)
    gram = gram - torch.diag_embed(torch.diagonal(gram, dim1=-2, dim2=-1))
    means = gram.sum(-1, keepdim=True) / (n_samples - 2)
    whole = gram.sum((-2, -1), keepdim=True) / ((n_samples - 1) * (n_samples - 2))
    level = gram - means - means.mT + whole
    result: Tensor = level - torch.diag_embed(torch.diagonal(level, dim1=-2, dim2=-1))
    return result


def debiased_similarity(first: Tensor, second: Tensor) -> Tensor:
    r"""Return debiased linear CKA, the cosine of two debiased Gram matrices.

    .. math:: \langle\tilde K,\tilde L\rangle / (\|\tilde K\|\|\tilde L\|)

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
        >>> gram = debiased_gram(x @ x.T)
        >>> round(debiased_similarity(gram, 9.0 * gram).item(), 6)
        1.0
    """
    return cosine(first.flatten(-2), second.flatten(-2))


def dissimilarity_ranks(gram: Tensor, means: Tensor, *, n_units: int) -> Tensor:
    r"""Return ranks of the dissimilarities of all pairs of samples, less their mean.

    The dissimilarity is one minus the correlation of two samples over the units. The cosine of
    two such vectors is the rank correlation of representational similarity analysis; ties have
    the mean of their ranks. Over permutations of the samples its expectation is zero.

    Source: Kriegeskorte, Mur & Bandettini 2008, Frontiers in Systems Neuroscience 2:4.

    Args:
        gram: Products of the samples, shape ``(..., n_samples, n_samples)``.
        means: Means of the samples over their units, shape ``(..., n_samples)``.
        n_units: Units of a sample.

    Returns:
        Float64, shape ``(..., n_samples (n_samples - 1) / 2)``; zero where all pairs are alike,
        and NaN where a sample is the same in all its units but for rounding of float32.
    """
    means, gram = wide(means), wide(gram)
    covariance = gram - n_units * means.unsqueeze(-1) * means.unsqueeze(-2)
    variances, sizes = (torch.diagonal(each, dim1=-2, dim2=-1) for each in (covariance, gram))
    spreads = torch.where(variances > _FLOOR * sizes, variances, nan).sqrt()
    n_samples = gram.shape[-1]
    above = torch.triu_indices(n_samples, n_samples, 1, device=gram.device)
    correlation = covariance / spreads.unsqueeze(-1) / spreads.unsqueeze(-2)
    apart = 1.0 - correlation[..., above[0], above[1]]
    # Rounding would make an order of dissimilarities that are equal.
    ordered = (apart / _TIE).round().contiguous()
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


def _energy(gram: Tensor) -> Tensor:
    """Return the mean energy of a sample, of a shape that broadcasts against its Gram matrix."""
    mean: Tensor = torch.diagonal(gram, dim1=-2, dim2=-1).mean(-1)
    return mean[..., None, None]

r"""What the spread of gradients over disjoint parts of a batch says of the whole.

A batch of :math:`B = K b` samples is split into K chunks of b. Let the :math:`m_k` be their mean
gradients, :math:`G` the gradient of the whole distribution and :math:`\Sigma` the covariance of
the gradient of one sample. For independent samples

.. math:: E\langle m_j, m_k\rangle = \|G\|^2 + \frac{\operatorname{tr}\Sigma}{b} 1[j = k],

so that products of different chunks have the mean :math:`\|G\|^2` and their diagonal tells the
rest. Everything here follows from the Gram matrix of the chunks alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from alignlab.kernels.cosines import wide

__all__ = ["Noise", "PairwiseCosine", "gradient_noise", "pairwise_cosine"]

MOST_SIGNED = 12
"""Chunks up to which all patterns of signs are gone through: 2048 of them."""


@dataclass(frozen=True)
class Noise:
    """Estimates of the gradient of the whole distribution, all of shape ``(...)``.

    Attributes:
        squared_norm: Unbiased estimate of the squared norm of G; can be negative.
        scale: Noise scale in samples, tr(Sigma) over that; NaN where it is not positive.
        ceiling: Cosine that the gradient of the batch has with G, in (0, 1]; NaN likewise.
    """

    squared_norm: Tensor
    scale: Tensor
    ceiling: Tensor


def gradient_noise(gram: Tensor, *, samples: float) -> Noise:
    r"""Return the noise scale, and the cosine of the batch's gradient with the full one.

    .. math::

        \widehat{\|G\|^2} = \frac{\|\sum_k m_k\|^2 - \sum_k \|m_k\|^2}{K(K-1)}, \qquad
        \widehat{\operatorname{tr}\Sigma}
        = \frac{b}{K-1}\Big(\sum_k\|m_k\|^2 - \frac{\|\sum_k m_k\|^2}{K}\Big), \\
        B_{noise} = \frac{\operatorname{tr}\Sigma}{\|G\|^2}, \qquad
        c = \frac{1}{\sqrt{1 + B_{noise}/B}}
        = \sqrt{\widehat{\|G\|^2}} \Big/ \Big\|\tfrac1K\sum_k m_k\Big\|.

    Both estimates are unbiased; they are those of two batch sizes, b and B (after McCandlish et
    al. 2018). The last step is our derivation: the estimates add up to the squared norm of the
    batch's own gradient. Their ratio and its root are biased where the estimates spread.
    With noise in many directions the batch's gradient is :math:`G` plus a vector orthogonal to it,
    and c is their cosine; in general it is the mean projection on :math:`G` over the root mean
    square of the norm.

    Args:
        gram: Inner products of the chunks' gradients, shape ``(..., K, K)``, K at least 2, in any
            one unit: summed or averaged over the chunk.
        samples: Samples of a chunk, b.

    Returns:
        NaN where the estimate of the squared norm of G is not positive, or K is below 2.

    Example:
        >>> chunks = torch.tensor([[2.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
        >>> found = gradient_noise(chunks @ chunks.T, samples=4)
        >>> found.squared_norm.item(), found.scale.item()
        (2.0, 2.0)
        >>> round(found.ceiling.item(), 4)  # 1 / sqrt(1 + 2 / 8)
        0.8944
    """
    gram = wide(gram)
    count = gram.shape[-1]
    own = gram.diagonal(dim1=-2, dim2=-1).sum(-1)
    whole = gram.sum((-2, -1))
    pairs = count * (count - 1)
    squared_norm = (whole - own) / pairs
    trace = samples * (own - whole / count) / (count - 1)
    positive = squared_norm > 0
    nothing = torch.full_like(squared_norm, torch.nan)
    return Noise(
        squared_norm=squared_norm if count > 1 else nothing,
        scale=torch.where(positive, trace.clamp_min(0.0) / squared_norm, nothing),
        ceiling=torch.where(
            positive, (squared_norm * count**2 / whole).sqrt().clamp_max(1.0), nothing
        ),
    )


@dataclass(frozen=True)
class PairwiseCosine:
    """The mean cosine over all pairs, and by chance.

    Attributes:
        value: In [-1, 1], more exactly at least -1 / (K - 1), shape ``(...)``; NaN where a chunk
            has no direction.
        by_chance: The same with the chunks' signs set at random: every other pattern of signs,
            each once, shape ``(n_patterns, ...)``.
        sd: Their exact standard deviation over all patterns, about 0, shape ``(...)``.
    """

    value: Tensor
    by_chance: Tensor
    sd: Tensor


def pairwise_cosine(gram: Tensor, *, seed: int = 0) -> PairwiseCosine:
    r"""Return the mean cosine between the gradients of disjoint chunks.

    .. math:: \bar c = \frac{1}{K(K-1)}\sum_{j\ne k} c_{jk}, \qquad
        \bar c_s = \frac{1}{K(K-1)}\sum_{j\ne k} s_j s_k c_{jk}, \qquad
        \operatorname{sd} = \frac{\sqrt{2\sum_{j\ne k} c_{jk}^2}}{K(K-1)}

    Where the chunks have no common direction, each gradient is as likely as its opposite; the
    signs :math:`s_k` are then exchangeable, and the share of patterns that reach the observed
    mean is an exact p-value (our derivation). All :math:`2^{K-1} - 1` other patterns are gone
    through for up to 12 chunks, random ones above. Chunks that all agree are
    :math:`\sqrt{K(K-1)/2}` standard deviations from chance, and never more.

    Args:
        gram: Inner products of the chunks' gradients, shape ``(..., K, K)``, K at least 2.
        seed: Of the patterns of more than 12 chunks.

    Example:
        >>> chunks = torch.tensor([[2.0, 0.0], [1.0, 1.0], [0.0, 3.0]])
        >>> found = pairwise_cosine(chunks @ chunks.T)
        >>> round(found.value.item(), 4), len(found.by_chance)
        (0.4714, 3)
    """
    gram = wide(gram)
    count = gram.shape[-1]
    size = gram.diagonal(dim1=-2, dim2=-1).sqrt()
    cosines = (gram / (size.unsqueeze(-1) * size.unsqueeze(-2))).clamp(-1.0, 1.0)
    apart = cosines * (1.0 - torch.eye(count, dtype=gram.dtype, device=gram.device))
    pairs = count * (count - 1)
    signs = _signs(count, seed).to(gram)
    drawn = torch.einsum("pj,...jk,pk->p...", signs, apart, signs) / pairs
    sd = (2.0 * apart.square().sum((-2, -1))).sqrt() / pairs
    return PairwiseCosine(apart.sum((-2, -1)) / pairs, drawn, sd)


def _signs(count: int, seed: int) -> Tensor:
    """Return patterns of signs, the first of each positive, without the one that has no change."""
    if count <= MOST_SIGNED:
        patterns = list(product((1.0, -1.0), repeat=count - 1))[1:]
        rest = torch.tensor(patterns, dtype=torch.float64).reshape(-1, count - 1)
    else:
        stream = torch.Generator().manual_seed(seed)
        size = (2 ** (MOST_SIGNED - 1), count - 1)
        rest = 2.0 * torch.randint(0, 2, size, generator=stream).double() - 1.0
    return torch.cat([torch.ones(len(rest), 1, dtype=torch.float64), rest], 1)

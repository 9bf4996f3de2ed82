"""How often two gradients have the same sign, and how often Gaussian ones would."""

from __future__ import annotations

from dataclasses import dataclass
from math import pi

import torch
from torch import Tensor

from alignlab.kernels.cosines import cosine, wide

__all__ = ["SignAgreement", "gaussian_sign_agreement", "sign_agreement"]


@dataclass(frozen=True)
class SignAgreement:
    """Agreement over the entries that are zero in neither of two vectors, all of shape ``(...)``.

    What is rounding beside the largest entry is zero.

    Attributes:
        share: Share of these entries with the same sign, in [0, 1].
        weighted: The same with every entry counted by the magnitude of the true one, in [0, 1].
        cosine: Cosine of the two vectors on these entries, in [-1, 1].
        left_out: Number of entries that are zero in either.
    """

    share: Tensor
    weighted: Tensor
    cosine: Tensor
    left_out: Tensor


def sign_agreement(true: Tensor, approximate: Tensor) -> SignAgreement:
    r"""Return how often the signs of two vectors agree.

    .. math:: s = \frac{1}{|K|}\sum_{k\in K} 1[\hat g_k g_k > 0], \qquad
        s_w = \frac{\sum_{k\in K} |g_k|\,1[\hat g_k g_k > 0]}{\sum_{k\in K} |g_k|}

    K holds the entries that are zero in neither: an entry without a sign, as at a dead unit,
    neither agrees nor disagrees. What is at most four roundings of the largest entry counts as
    zero: it can be what is left of terms that cancel, such as the errors of a softmax.

    Source: Liao, Leibo & Poggio 2016 (signs of backward weights); of gradients, our derivation.

    Args:
        true: Shape ``(..., n)``.
        approximate: Shape ``(..., n)``.

    Returns:
        Both shares, dimensionless, NaN where K is empty or an entry is not finite.

    Example:
        >>> found = sign_agreement(torch.tensor([3.0, -1.0, 0.0]), torch.tensor([1.0, 2.0, 5.0]))
        >>> found.share.item(), found.weighted.item(), found.left_out.item()
        (0.5, 0.75, 1.0)
    """
    first, second = torch.broadcast_tensors(wide(true), wide(approximate))
    known = torch.isfinite(first).all(-1) & torch.isfinite(second).all(-1)
    has_sign = _known(first, true.dtype) & _known(second, approximate.dtype)
    agrees = (torch.sign(first) == torch.sign(second)) & has_sign
    counted = has_sign.double()
    # Divided by the largest first, so that the sum neither overflows nor is lost.
    size = first.abs() / first.abs().amax(-1, keepdim=True) * counted
    share = agrees.double().sum(-1) / counted.sum(-1)
    weighted = (size * agrees).sum(-1) / size.sum(-1)
    zero = torch.zeros((), dtype=torch.float64, device=first.device)
    on_counted = cosine(torch.where(has_sign, first, zero), torch.where(has_sign, second, zero))
    nothing = torch.full_like(share, torch.nan)
    return SignAgreement(
        share=torch.where(known, share, nothing),
        weighted=torch.where(known, weighted, nothing),
        cosine=torch.where(known, on_counted, nothing),
        left_out=(~has_sign).double().sum(-1),
    )


def _known(entries: Tensor, precision: torch.dtype) -> Tensor:
    """Return which entries rounding cannot have made."""
    floor = 4.0 * torch.finfo(precision).eps * entries.abs().amax(-1, keepdim=True)
    return entries.abs() > floor


def gaussian_sign_agreement(similarity: Tensor) -> Tensor:
    r"""Return how often the signs of jointly Gaussian entries agree, :math:`1-\arccos(c)/\pi`.

    Source: Sheppard 1899 (the orthant probability of two Gaussian variables).

    Args:
        similarity: Their correlation, for entries of mean zero the cosine, in [-1, 1].

    Returns:
        In [0, 1], of the same shape; 0.5 at cosine 0; NaN where the cosine is.

    Example:
        >>> gaussian_sign_agreement(torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)).tolist()
        [0.5, 0.6666666666666667, 1.0]
    """
    return 1.0 - torch.arccos(wide(similarity)) / pi

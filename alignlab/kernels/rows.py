"""Alignments of one pass from norms and inner products of its samples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Summary", "concentration", "summarized"]

SMALLEST_NORM = 1e-17
"""Norm below which squares in float32 are no longer exact, and a direction no longer known."""


@dataclass(frozen=True)
class Summary:
    r"""What a step's rows say of one comparison, all of shape ``(...)``.

    Attributes:
        cosine: Mean over samples of the cosine, in [-1, 1].
        cosine_sd: Its standard deviation over samples.
        cosine_flat: Cosine of the whole batch, in [-1, 1].
        descent_rate: Share of samples with a positive product, in [0, 1].
        norm_ratio: Norm of the approximate signal over that of the true one; NaN where that is 0.
        n_undefined: Samples of which one of the signals has no direction.
        inner_product: Inner product of both signals of the whole batch.
        squared_norm: Squared norm of the approximate signal of the whole batch.
        squared_norm_true: That of the true one.
    """

    cosine: np.ndarray
    cosine_sd: np.ndarray
    cosine_flat: np.ndarray
    descent_rate: np.ndarray
    norm_ratio: np.ndarray
    n_undefined: np.ndarray
    inner_product: np.ndarray
    squared_norm: np.ndarray
    squared_norm_true: np.ndarray


def summarized(true: np.ndarray, norm: np.ndarray, product: np.ndarray) -> Summary:
    r"""Return the alignments that rows of inner products give.

    .. math:: c_n = \langle g_n, q_n\rangle / (\|g_n\| \|q_n\|), \quad
        c_{flat} = \sum_n \langle g_n, q_n\rangle / \sqrt{\sum_n \|g_n\|^2 \sum_n \|q_n\|^2}

    Norms are multiplied after their roots are taken, in float64.

    Args:
        true: Norms of true signals, shape ``(..., n_samples)``.
        norm: Norms of approximate signals, likewise.
        product: Their inner products, likewise.

    Returns:
        NaN where no sample has both directions.

    Example:
        >>> found = summarized(np.array([1.0, 2.0]), np.array([1.0, 0.0]), np.array([0.5, 0.0]))
        >>> found.cosine.item()
        0.5
    """
    true, norm, product = np.broadcast_arrays(
        np.asarray(true, float), np.asarray(norm, float), np.asarray(product, float)
    )
    defined = (true > SMALLEST_NORM) & (norm > SMALLEST_NORM) & np.isfinite(product)
    count = defined.sum(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        cosines = np.where(defined, np.clip(product / (true * norm), -1.0, 1.0), 0.0)
        mean = cosines.sum(-1) / count
        spread = np.where(defined, cosines - mean[..., None], 0.0)
        whole_true, whole = np.sqrt((true**2).sum(-1)), np.sqrt((norm**2).sum(-1))
        flat = np.clip(product.sum(-1) / (whole_true * whole), -1.0, 1.0)
        return Summary(
            cosine=mean,
            cosine_sd=np.sqrt((spread**2).sum(-1) / np.maximum(count - 1, 0)),
            cosine_flat=flat,
            descent_rate=((cosines > 0) & defined).sum(-1) / count,
            norm_ratio=np.where(whole_true > 0, whole / whole_true, np.nan),
            n_undefined=np.where(np.isnan(norm).all(-1), np.nan, true.shape[-1] - count),
            inner_product=product.sum(-1),
            squared_norm=whole**2,
            squared_norm_true=whole_true**2,
        )


def concentration(energy: np.ndarray) -> np.ndarray:
    """Return the relative spread of squared norms over redraws, averaged over samples.

    Args:
        energy: Squared norms, shape ``(..., n_draws, n_samples)``.

    Returns:
        Shape ``(...)``; NaN for fewer than two draws.
    """
    if energy.shape[-2] < 2:
        return np.full(energy.shape[:-2], np.nan)
    mean = energy.mean(-2)
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = energy.std(-2, ddof=1) / mean
    known = np.isfinite(relative)
    total = np.where(known, relative, 0.0).sum(-1)
    result: np.ndarray = np.where(known.any(-1), total / np.maximum(known.sum(-1), 1), np.nan)
    return result

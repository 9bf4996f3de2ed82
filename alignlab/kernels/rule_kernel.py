"""The kernel by which a rule's error signals move the outputs, and the tangent kernel beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from alignlab.kernels.convolution import CONVOLUTIONS
from alignlab.kernels.cosines import wide
from alignlab.kernels.unrolled import read_positions

__all__ = [
    "Sketched",
    "centred",
    "gradient_rows",
    "kernel_cosine",
    "linear_block",
    "sketched_cosine",
    "sketched_norm",
    "smallest_share",
    "target_alignment",
]


@dataclass(frozen=True)
class Sketched:
    """A number from random directions.

    Attributes:
        value: float64, shape ``(...)``.
        standard_error: By the jackknife over directions, which overstates it by up to about a
            half, shape ``(...)``.
    """

    value: Tensor
    standard_error: Tensor


def linear_block(true: Tensor, pseudo: Tensor, inputs: Tensor, *, bias: bool) -> Tensor:
    r"""Return the kernel's part of a linear layer without positions.

    .. math:: K_{(i,c),(j,d)} = \langle\delta_{ic}, \tilde\delta_{jd}\rangle
        (\langle h_i, h_j\rangle + 1)

    with the signals :math:`\delta_{ic}` that a unit error at output c of sample i causes.

    Source: the identity is textbook; the kernel is that of Bordelon & Pehlevan 2022, arXiv
    2210.02157, at finite width.

    Args:
        true: Signals at the pre-activation under backpropagation, ``(n_samples, n_errors, n)``.
        pseudo: Those under the rule, of the same shape.
        inputs: Of the layer, shape ``(n_samples, n_inputs)``.
        bias: Whether there is a bias that learns, which gives the 1.

    Returns:
        Shape ``(n_samples * n_errors, n_samples * n_errors)``, float64; not symmetric.
    """
    signals = wide(true).flatten(0, 1) @ wide(pseudo).flatten(0, 1).T
    gram = wide(inputs) @ wide(inputs).T + float(bias)
    n_errors = true.shape[1]
    return signals * gram.repeat_interleave(n_errors, 0).repeat_interleave(n_errors, 1)


def gradient_rows(module: nn.Module, x: Tensor, signals: Tensor, *, bias: bool) -> Tensor:
    """Return the gradients of weight and bias that every signal of every sample causes.

    Args:
        module: Linear, convolution or transposed convolution.
        x: Its input, shape ``(n_samples, ...)``.
        signals: At its output, shape ``(n_samples, n_errors, ...)``.
        bias: Whether there is a bias that learns.

    Returns:
        Shape ``(n_samples * n_errors, n_parameters)``, of the type of the signals.
    """
    x = x.detach().to(signals)
    if isinstance(module, nn.Linear):
        x, signals = x.movedim(-1, 1), signals.movedim(-1, 2)
    size = signals.shape[0] * signals.shape[1]
    # Axes of samples, of errors, of channels and of positions on both sides.
    x = x.unsqueeze(1)
    read, maps = _flat(x), _flat(signals)
    if isinstance(module, CONVOLUTIONS):
        read = _patches(module, x, signals)
    elif not isinstance(module, nn.Linear):
        # A transposed convolution is read from its output.
        read, maps = _patches(module, signals, x), read
    groups = getattr(module, "groups", 1)
    left = maps.reshape(*maps.shape[:2], groups, -1, maps.shape[3])
    right = read.reshape(*read.shape[:2], groups, -1, read.shape[3])
    rows = (left @ right.mT).reshape(size, -1)
    return torch.cat([rows, _flat(signals).sum(3).flatten(0, 1)], 1) if bias else rows


def _flat(signals: Tensor) -> Tensor:
    """Return all axes of positions as one, the fourth."""
    return signals.reshape(*signals.shape[:3], -1)


def _patches(module: Any, x: Tensor, output: Tensor) -> Tensor:
    """Return what every tap reads at every position, ``(..., channels * taps, n_positions)``."""
    positions = read_positions(module, tuple(x.shape[3:]), tuple(output.shape[3:]))
    # What lies in the padding is read from the zero at the end.
    found: Tensor = functional.pad(_flat(x), (0, 1))[..., positions.T.to(x.device)]
    return found.flatten(2, 3)


def smallest_share(kernel: Tensor) -> Tensor:
    r"""Return the smallest eigenvalue of the symmetric part, over its largest magnitude.

    :math:`dL/dt = -e^\top K e` sees the symmetric part alone: where this is positive the loss
    falls for every error.

    Source: our derivation.

    Args:
        kernel: Shape ``(..., n, n)``.

    Returns:
        Dimensionless, in [-1, 1], shape ``(...)``; -1 on average for a kernel whose sign is that
        of feedback which knows nothing of the weights; 0 where rounding hides the sign, as for
        kernels of fewer parameters than errors; NaN for one without symmetric part.

    Example:
        >>> smallest_share(torch.tensor([[2.0, 5.0], [-5.0, 1.0]])).item()
        0.5
    """
    kernel = wide(kernel)
    values = torch.linalg.eigvalsh((kernel + kernel.mT) / 2.0)
    share = values[..., 0] / values.abs().amax(-1)
    rounding = kernel.shape[-1] * torch.finfo(torch.float64).eps
    return torch.where(share.abs() <= rounding, 0.0, share)


def centred(kernel: Tensor, n_samples: int) -> Tensor:
    """Return a kernel without the mean over samples of its features, output by output.

    Args:
        kernel: Shape ``(..., n, n)`` with n a multiple of the number of samples, samples first.
        n_samples: Samples.

    Returns:
        Of the same shape, float64.
    """
    kernel = wide(kernel)
    parts = kernel.unflatten(-1, (n_samples, -1)).unflatten(-3, (n_samples, -1))
    parts = parts - parts.mean(-2, keepdim=True)
    parts = parts - parts.mean(-4, keepdim=True)
    result: Tensor = parts.flatten(-4, -3).flatten(-2, -1)
    return result


def kernel_cosine(first: Tensor, second: Tensor) -> Tensor:
    """Return the cosine of two kernels as vectors.

    Args:
        first: Shape ``(..., n, n)``.
        second: Likewise.

    Returns:
        In [-1, 1], shape ``(...)``; NaN where one is zero.
    """
    one, other = wide(first).flatten(-2), wide(second).flatten(-2)
    norms = one.norm(dim=-1) * other.norm(dim=-1)
    result: Tensor = ((one * other).sum(-1) / norms).clamp(-1.0, 1.0)
    return result


def target_alignment(kernel: Tensor, targets: Tensor) -> Tensor:
    r"""Return :math:`y^\top K y / (\|K\|_F\, |y|^2)`, the cosine of a kernel with :math:`yy^\top`.

    Source: Cristianini et al. 2001 (kernel-target alignment); centred as in Cortes et al. 2012.

    Args:
        kernel: Shape ``(..., n, n)``, centred.
        targets: y, shape ``(n_samples, n_errors)``; their mean over samples is taken off.

    Returns:
        In [-1, 1], shape ``(...)``; NaN where one is zero.
    """
    y = wide(targets)
    y = (y - y.mean(0)).flatten()
    kernel = wide(kernel)
    along = (y @ kernel @ y[:, None]).squeeze(-1)
    result: Tensor = along / (torch.linalg.matrix_norm(kernel) * y.square().sum())
    return result


def sketched_cosine(first: Tensor, second: Tensor) -> Sketched:
    r"""Return the cosine of two kernels from their values on pairs of random directions.

    For independent u and v with unit covariance :math:`E[(u^\top K v)(u^\top N v)]
    = \langle K, N\rangle`, so that numerator and both squares of the cosine are unbiased from pairs
    of different directions; their ratio is so to first order.

    Source: Hutchinson 1990, Communications in Statistics 19(2), on both sides; our derivation.

    Args:
        first: :math:`v_a^\top K v_b`, shape ``(..., n, n)``; the diagonal is left out.
        second: :math:`v_a^\top N v_b`, likewise.

    Returns:
        Dimensionless, shape ``(...)``; NaN where one is zero and for fewer than 2 directions, the
        error for fewer than 3.
    """
    one, other = wide(first), wide(second)
    terms = torch.stack([one * other, one.square(), other.square()])
    return _jackknifed(terms, lambda means: means[0] / (means[1] * means[2]).sqrt())


def sketched_norm(values: Tensor) -> Sketched:
    """Return the Frobenius norm of a kernel from its values on pairs of random directions.

    Args:
        values: As the first of ``sketched_cosine``.

    Returns:
        Shape ``(...)``; its square is unbiased.
    """
    terms = wide(values).square()[None]
    return _jackknifed(terms, lambda means: means[0].sqrt())


def _jackknifed(terms: Tensor, statistic: Callable[[Tensor], Tensor]) -> Sketched:
    """Return a statistic of means over pairs of directions, with its error over directions."""
    count = terms.shape[-1]
    own = torch.diagonal(terms, dim1=-2, dim2=-1)
    lines = terms.sum(-1) + terms.sum(-2) - 2.0 * own
    total = lines.sum(-1) / 2.0
    value = statistic(total / (count * (count - 1) or torch.nan))
    # Without one direction; of two nothing is left.
    partial = statistic((total[..., None] - lines) / ((count - 1) * (count - 2) or torch.nan))
    spread = (partial - partial.mean(-1, keepdim=True)).square().sum(-1)
    return Sketched(value, (spread * (count - 1) / count).sqrt())

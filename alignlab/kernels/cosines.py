"""Cosines, angles and shares of tensors, in float64, undefined where a norm vanishes."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["angle", "cosine", "flat", "inner", "is_rounding", "norm", "scaled", "unit", "wide"]


def wide(tensor: Tensor) -> Tensor:
    """Return the tensor in float64, on the host where the device has no float64.

    Args:
        tensor: Any floating tensor.

    Returns:
        The same values, float64.
    """
    if tensor.device.type == "mps":
        tensor = tensor.cpu()
    return tensor.double()


def flat(tensor: Tensor) -> Tensor:
    """Return one row per sample.

    Args:
        tensor: Shape ``(n_samples, ...)``.

    Returns:
        Shape ``(n_samples, n)``.
    """
    return tensor.reshape(tensor.shape[0], -1)


def inner(first: Tensor, second: Tensor) -> Tensor:
    """Return inner products over the last axis, in float64.

    Args:
        first: Shape ``(..., n)``.
        second: Shape ``(..., n)``.

    Returns:
        Shape ``(...)``, float64.
    """
    return (wide(first) * wide(second)).sum(-1)


def norm(tensor: Tensor) -> Tensor:
    """Return Euclidean norms over the last axis, in float64.

    Args:
        tensor: Shape ``(..., n)``.

    Returns:
        Shape ``(...)``, float64.
    """
    result: Tensor = torch.linalg.vector_norm(wide(tensor), dim=-1)
    return result


def scaled(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """Divide every sample by its largest entry, so that squares and products do not vanish.

    Args:
        tensor: Shape ``(n_samples, ...)``, of any size that its type can hold.

    Returns:
        The tensor with largest entries of one, and what they were, shape ``(n_samples,)``, float64;
        samples that are zero stay as they are, with one.

    Example:
        >>> scaled(torch.tensor([[1e-30, 2e-30], [0.0, 0.0]]))
        (tensor([[0.5000, 1.0000],
                [0.0000, 0.0000]]), tensor([2.0000e-30, 1.0000e+00], dtype=torch.float64))
    """
    size = tensor.flatten(1).abs().amax(1)
    size = torch.where(size > 0, size, 1.0)
    return tensor / size.reshape(-1, *[1] * (tensor.dim() - 1)), wide(size)


def unit(tensor: Tensor) -> Tensor:
    """Return a tensor over its norm, which is had in float64; NaN where that is zero.

    Example:
        >>> unit(torch.tensor([3e-30, 4e-30]))
        tensor([0.6000, 0.8000])
    """
    values = wide(tensor)
    result: Tensor = (values / values.norm()).to(tensor)
    return result


def cosine(first: Tensor, second: Tensor) -> Tensor:
    r"""Return the cosine over the last axis, :math:`\langle a,b\rangle/(\|a\|\|b\|)`.

    Norms are divided out one after the other and in float64, so that gradients of any
    size that float32 can hold give the right number; nothing is clamped.

    Args:
        first: Shape ``(..., n)``.
        second: Shape ``(..., n)``.

    Returns:
        Dimensionless, in [-1, 1], shape ``(...)``, float64; NaN where either is zero or
        not finite.

    Example:
        >>> cosine(torch.tensor([1e-25, 0.0]), torch.tensor([3e-25, 4e-25])).item()
        0.6
        >>> cosine(torch.zeros(2), torch.ones(2)).item()
        nan
    """
    first, second = wide(first), wide(second)
    unit = first / torch.linalg.vector_norm(first, dim=-1, keepdim=True)
    other = second / torch.linalg.vector_norm(second, dim=-1, keepdim=True)
    result: Tensor = (unit * other).sum(-1).clamp(-1.0, 1.0)
    return result


def is_rounding(total: Tensor, size: Tensor) -> Tensor:
    """Return whether a sum has cancelled down to the rounding of float32.

    Args:
        total: The sum, shape ``(n,)``.
        size: Root of the summands' energy, scalar.

    Returns:
        Boolean scalar: whether the norm of the sum is at most 1e-5 of the size, where
        unrelated summands give about 1.
    """
    result: Tensor = wide(total).norm() <= 1e-5 * wide(size)
    return result


def angle(first: Tensor, second: Tensor) -> Tensor:
    r"""Return the angle over the last axis, :math:`2\,\mathrm{atan2}(\|u-v\|, \|u+v\|)`.

    Here u and v are the unit vectors; accurate for angles near 0 and 180 degrees, where
    the inverse cosine of a rounded cosine is not.

    Source: Kahan 2006, "How futile are mindless assessments of roundoff".

    Args:
        first: Shape ``(..., n)``.
        second: Shape ``(..., n)``.

    Returns:
        Degrees, in [0, 180], shape ``(...)``, float64; NaN where either is zero.

    Example:
        >>> angle(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0])).item()
        90.0
    """
    first, second = wide(first), wide(second)
    unit = first / torch.linalg.vector_norm(first, dim=-1, keepdim=True)
    other = second / torch.linalg.vector_norm(second, dim=-1, keepdim=True)
    apart = torch.linalg.vector_norm(unit - other, dim=-1)
    together = torch.linalg.vector_norm(unit + other, dim=-1)
    return torch.rad2deg(2.0 * torch.atan2(apart, together))

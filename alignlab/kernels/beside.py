"""Inner products and norms of two signals in one pass, in float64."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from alignlab.kernels.cosines import is_rounding, wide

__all__ = ["Beside", "angle_beside", "beside", "norms", "products"]

_CHUNK = 2**15
"""Entries that are widened at once on the host, where they then stay in its cache."""


@dataclass(frozen=True)
class Beside:
    """What two signals of the same samples say of each other, float64.

    Attributes:
        products: Inner product of every sample, shape ``(n_samples,)``; 0 where a norm is.
        first: Norms of the first signal's samples, likewise; 0 below the smallest normal number of
            the signal's type, where what is left of the digits shows no direction.
        second: Those of the second.
        mean_first: Mean of the first signal over samples, shape ``(n,)``.
        mean_second: That of the second.
    """

    products: Tensor
    first: Tensor
    second: Tensor
    mean_first: Tensor
    mean_second: Tensor

    @property
    def cosines(self) -> Tensor:
        """Cosine of every sample, in [-1, 1]; NaN where either has no direction."""
        return (self.products / self.first / self.second).clamp(-1.0, 1.0)

    @property
    def flat(self) -> Tensor:
        """Cosine of all samples as one vector; NaN where either is zero."""
        whole = self.products.sum() / self.first.norm() / self.second.norm()
        flat: Tensor = whole.clamp(-1.0, 1.0)
        return flat

    @property
    def mean_cancels(self) -> Tensor:
        """Whether a mean is what rounding leaves, as before normalisation over the batch."""
        n = len(self.products)
        first = is_rounding(self.mean_first * n, self.first.norm())
        return first | is_rounding(self.mean_second * n, self.second.norm())


def beside(first: Tensor, second: Tensor) -> Beside:
    """Compare two signals sample by sample.

    Args:
        first: Shape ``(n_samples, n)``.
        second: Likewise.

    Returns:
        Norms and products to the rounding of float64; NaN where a value is not finite.

    Example:
        >>> found = beside(torch.tensor([[1e-25, 0.0]]), torch.tensor([[3e-25, 4e-25]]))
        >>> found.cosines
        tensor([0.6000], dtype=torch.float64)
    """
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    sums: list[Tensor] = []
    for one, other in _chunks(first, second):
        sizes = (torch.linalg.vector_norm(each, dim=1) for each in (one, other))
        parts.append(((one * other).sum(1), *sizes))
        totals = [one.sum(0), other.sum(0)]
        sums = totals if not sums else [a + b for a, b in zip(sums, totals, strict=True)]
    inner, *both = [torch.cat(each) for each in zip(*parts, strict=True)]
    found = _where_known(inner, both, [_smallest(each) for each in (first, second)])
    return Beside(*found, *(each / max(len(first), 1) for each in sums))


def _smallest(signal: Tensor) -> float:
    """Return the smallest number that the signal's type holds with all its digits."""
    return float(torch.finfo(signal.dtype).tiny)


def _where_known(
    product: Tensor, sizes: Sequence[Tensor], least: Sequence[float]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return a product and two sizes, with zeros where a size is too small for a direction."""
    known = [~(size < bound) for size, bound in zip(sizes, least, strict=True)]
    one, other = (
        torch.where(is_known, size, 0.0) for is_known, size in zip(known, sizes, strict=True)
    )
    return torch.where(known[0] & known[1], product, 0.0), one, other


def products(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the inner product of two tensors and their squared norms, scalars in float64.

    Those of a tensor that is too small to show a direction are 0, as in ``Beside``.

    Args:
        first: Any shape.
        second: The same shape.

    Example:
        >>> [each.item() for each in products(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 0.0]))]
        [3.0, 5.0, 9.0]
    """
    size = _CHUNK if first.device.type == "cpu" else max(first.numel(), 1)
    parts = [
        torch.stack([torch.dot(one, other), torch.dot(one, one), torch.dot(other, other)])
        for one, other in (
            (wide(a), wide(b))
            for a, b in zip(
                first.reshape(-1).split(size), second.reshape(-1).split(size), strict=True
            )
        )
    ]
    product, *energies = torch.stack(parts).sum(0)
    return _where_known(product, energies, [_smallest(each) ** 2 for each in (first, second)])


def angle_beside(first: Tensor, second: Tensor, found: Beside) -> Tensor:
    r"""Return the angle of two signals of the whole batch from their difference at equal norms.

    With :math:`d = v - u\|v\|/\|u\|` the angle is :math:`2\,\mathrm{atan2}(\|d\|,
    \sqrt{4\|v\|^2 - \|d\|^2})`, accurate near 0 where the inverse cosine is not.

    Args:
        first: Shape ``(n_samples, n)``.
        second: Likewise.
        found: What ``beside`` says of them.

    Returns:
        Degrees, in [0, 180], scalar; NaN where either is zero.

    Example:
        >>> u, v = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])
        >>> round(angle_beside(u, v, beside(u, v)).item(), 9)
        90.0
    """
    norm = found.second.norm()
    ratio = norm / found.first.norm()
    squares = [torch.addcmul(b, a, -ratio).square().sum() for a, b in _chunks(first, second)]
    apart = torch.stack(squares).sum() / norm.square()
    result: Tensor = 2.0 * torch.atan2(apart.sqrt(), (4.0 - apart).clamp_min(0.0).sqrt())
    return torch.rad2deg(result)


def norms(signal: Tensor) -> Tensor:
    """Return the norm of every sample, float64.

    Args:
        signal: Shape ``(n_samples, n)``.

    Returns:
        Shape ``(n_samples,)``, right for every size that the signal's type can hold.

    Example:
        >>> norms(torch.tensor([[3e-30, 4e-30], [0.0, 2.0]]))
        tensor([5.0000e-30, 2.0000e+00], dtype=torch.float64)
    """
    return torch.cat([torch.linalg.vector_norm(each, dim=1) for (each,) in _chunks(signal)])


def _chunks(*signals: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield all in float64, some samples at a time on the host, all at once elsewhere."""
    first = signals[0]
    rows = len(first)
    if first.device.type == "cpu" and first.dim() > 1:
        rows = max(1, _CHUNK // max(first.shape[1], 1))
    for start in range(0, max(len(first), 1), max(rows, 1)):
        yield tuple(wide(each[start : start + rows]) for each in signals)

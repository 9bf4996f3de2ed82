r"""How far a step may go: bounds of the quadratic model, and the curvature that they need.

For a step :math:`-\eta\hat g` the loss changes to second order by
:math:`-\eta\langle g, \hat g\rangle + \tfrac12\eta^2\,\hat g^\top H \hat g`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from alignlab.kernels.cosines import wide

__all__ = ["Leading", "leading_eigenvalue", "step_bound", "step_efficiency"]

_NOTHING = 16.0
"""Times the rounding of the largest product met: what is left of a vector by rounding alone."""


def step_bound(product: Tensor, curvature: Tensor, squared_norm: Tensor) -> Tensor:
    r"""Return the step after which the quadratic model of the loss is back where it was.

    .. math:: \eta_{max} = \frac{2\langle g, \hat g\rangle}{L\,\|\hat g\|^2}

    With L the curvature along the update, :math:`\hat g^\top H\hat g/\|\hat g\|^2`, every smaller
    step lowers the quadratic model of the loss and every larger one raises it. With L the largest
    eigenvalue of H it is at most that, and holds for the model along any update of this norm and
    product. With L a bound of the curvature at all points it is the descent guarantee of smooth
    losses, which no number measured at one point gives.

    Source: textbook (descent lemma); for updates that are no gradients, our derivation.

    Args:
        product: :math:`\langle g, \hat g\rangle`, shape ``(...)``.
        curvature: L, shape ``(...)``.
        squared_norm: :math:`\|\hat g\|^2`, shape ``(...)``.

    Returns:
        In units of a learning rate, above 0, shape ``(...)``, float64; NaN where the update does
        not descend to first order, or the curvature is not positive: there is no such bound then.

    Example:
        >>> step_bound(torch.tensor(1.0), torch.tensor(4.0), torch.tensor(2.0)).item()
        0.25
    """
    product, curvature, squared_norm = wide(product), wide(curvature), wide(squared_norm)
    bound = 2.0 * product / (curvature * squared_norm)
    defined = (product > 0) & (curvature > 0) & (squared_norm > 0)
    return torch.where(defined, bound, torch.full_like(bound, torch.nan))


def step_efficiency(product: Tensor, squared_norm: Tensor, squared_norm_true: Tensor) -> Tensor:
    r"""Return the share of the gradient's best one-step decrease, :math:`\max(c, 0)^2`.

    With one curvature L in both directions the best step along :math:`\hat g` lowers the loss by
    :math:`\langle g,\hat g\rangle^2/(2L\|\hat g\|^2) = c^2\|g\|^2/(2L)`, that along g by
    :math:`\|g\|^2/(2L)`. Where the update does not descend no step along it lowers the loss.

    Source: textbook; for updates that are no gradients, our derivation.

    Args:
        product: :math:`\langle g, \hat g\rangle`, shape ``(...)``.
        squared_norm: :math:`\|\hat g\|^2`, shape ``(...)``.
        squared_norm_true: :math:`\|g\|^2`, shape ``(...)``.

    Returns:
        Dimensionless, in [0, 1], shape ``(...)``, float64; NaN where either is zero.

    Example:
        >>> step_efficiency(torch.tensor(3.0), torch.tensor(25.0), torch.tensor(1.0)).item()
        0.36
    """
    size = wide(squared_norm).sqrt() * wide(squared_norm_true).sqrt()
    similarity = wide(product) / size
    share = similarity.clamp(0.0, 1.0).square()
    return torch.where(size > 0, share, torch.full_like(share, torch.nan))


@dataclass(frozen=True)
class Leading:
    """The largest eigenvalue as far as it was found, float64 scalars.

    Attributes:
        value: At most the largest eigenvalue.
        residual: Within this distance of the value lies an eigenvalue, up to rounding.
        along_start: Curvature along the start vector.
        asymmetry: How far the products with earlier vectors are from those of a symmetric
            operator, over the largest product; 0 for a single step.
    """

    value: Tensor
    residual: Tensor
    along_start: Tensor
    asymmetry: Tensor


def leading_eigenvalue(
    apply: Callable[[Tensor], Tensor], start: Tensor, *, steps: int = 5
) -> Leading:
    r"""Return the most positive eigenvalue of a symmetric operator by Lanczos iteration.

    All vectors are kept, and each new one is made orthogonal to them twice. The value is the
    largest of the operator within the Krylov space of the start vector: a lower bound, which is
    near the largest eigenvalue after few steps where that stands out. Of an operator that is not
    symmetric, such as second derivatives by a wrong formula, it means nothing; the asymmetry
    tells.

    Source: Lanczos 1950, Journal of Research of the National Bureau of Standards 45(4).

    Args:
        apply: Takes and returns a vector of shape ``(n,)``.
        start: Where to begin, shape ``(n,)``; its direction should not be orthogonal to the
            eigenvector.
        steps: Applications of the operator, at least 1.

    Returns:
        NaN where the start vector is zero or not finite. One host synchronisation in all.

    Example:
        >>> diagonal = torch.tensor([4.0, 1.0, -9.0], dtype=torch.float64)
        >>> found = leading_eigenvalue(lambda v: diagonal * v, torch.ones(3), steps=3)
        >>> round(found.value.item(), 6)
        4.0
    """
    kept: list[Tensor] = []
    diagonal: list[Tensor] = []
    beside: list[Tensor] = []
    apart: list[Tensor] = []
    vector = wide(start) / wide(start).norm()
    for _ in range(min(steps, start.numel())):
        kept.append(vector)
        image = wide(apply(vector.to(start)))
        basis = torch.stack(kept)
        products = basis @ image
        before = torch.zeros_like(products[:-1])
        if beside:
            before[-1] = beside[-1]
        diagonal.append(products[-1])
        apart.append((products[:-1] - before).norm())
        for _ in range(2):
            image = image - basis.T @ (basis @ image)
        size = image.norm()
        beside.append(size)
        vector = torch.where(size > 0, image / size, 0.0)
    return _of_matrix(torch.stack([torch.stack(r) for r in (diagonal, beside, apart)]).cpu(), start)


def _of_matrix(rows: Tensor, start: Tensor) -> Leading:
    """Return what the tridiagonal matrix says, as far as it goes before the space is spent."""
    a, b, apart = rows
    scale = torch.cat([a.abs(), b]).amax()
    if not bool(torch.isfinite(scale)):
        nothing = torch.tensor(torch.nan, dtype=torch.float64)
        return Leading(nothing, nothing, nothing, nothing)
    spent = (b <= _NOTHING * torch.finfo(start.dtype).eps * scale).nonzero()
    count = int(spent[0]) + 1 if len(spent) else len(a)
    inner = b[: count - 1]
    matrix = torch.diag(a[:count]) + torch.diag(inner, 1) + torch.diag(inner, -1)
    values, vectors = torch.linalg.eigh(matrix)
    asymmetry = apart[:count].amax() / scale if scale > 0 else torch.zeros_like(scale)
    return Leading(values[-1], b[count - 1] * vectors[-1, -1].abs(), a[0], asymmetry)

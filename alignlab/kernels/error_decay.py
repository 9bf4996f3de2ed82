"""Decay of small output errors under a rule, from its kernel and the loss's curvature."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from alignlab.kernels.cosines import wide

__all__ = ["ErrorDecay", "error_decay"]

_RANGE = 1e-8
"""Share of the largest curvature below which a direction of the outputs has none."""


@dataclass(frozen=True)
class ErrorDecay:
    r"""How output errors change under :math:`\dot e = -H K e`.

    Attributes:
        values: Eigenvalues of K H on the range of H, smallest real part first, complex. Errors
            along one change as :math:`e^{-\lambda t}`: a negative real part grows.
        parts: Real parts of what each kernel adds to the first of them; they sum to its real
            part. NaN where the eigenvectors do not span the space.
        symmetric: Smallest eigenvalue of the symmetric part of
            :math:`H^{1/2} K H^{1/2}`; positive where no error grows even for a moment.
    """

    values: Tensor
    parts: Tensor
    symmetric: Tensor


def error_decay(kernels: Tensor, curvature: Tensor) -> ErrorDecay:
    r"""Return the eigenvalues of K H, K the sum of kernels, split over these.

    With :math:`\dot z = -K e` and :math:`\dot e = H \dot z` errors obey
    :math:`\dot e = -H K e`; H, the second derivative of the loss in the outputs, is positive
    semidefinite for a convex loss, and errors stay in its range. For half the squared error H
    is the identity. By the left and right eigenvectors of
    :math:`H^{1/2} K H^{1/2}` an eigenvalue is a sum over kernels.

    Source: our derivation.

    Args:
        kernels: Parts of K, shape ``(n_parts, n, n)``.
        curvature: H, symmetric, shape ``(n, n)``.

    Returns:
        On the host, float64, of the rank r of H; values empty and the rest NaN where H is zero.

    Example:
        >>> kernel = torch.tensor([[[1.0, 4.0], [0.0, 2.0]]])
        >>> found = error_decay(kernel, torch.eye(2))
        >>> found.values.real.tolist(), found.symmetric.item() < 0
        ([1.0, 2.0], True)
    """
    sizes, vectors = torch.linalg.eigh(wide(curvature).cpu())
    kept = sizes > _RANGE * sizes.abs().amax()
    root = vectors[:, kept] * sizes[kept].sqrt()
    parts = root.T @ wide(kernels).cpu() @ root
    if not parts.shape[-1]:
        nothing = torch.full((len(parts) + 1,), torch.nan, dtype=torch.float64)
        return ErrorDecay(torch.zeros(0, dtype=torch.complex128), nothing[1:], nothing[0])
    total = parts.sum(0)
    values, right = torch.linalg.eig(total)
    order = torch.argsort(values.real)
    first = right[:, order[0]]
    # Left eigenvectors are rows of the inverse; one of them is one solution.
    unit = torch.zeros_like(first)
    unit[order[0]] = 1.0
    left, failed = torch.linalg.solve_ex(right.mT, unit)
    split = torch.where(failed > 0, torch.nan, (left @ parts.to(left) @ first).real)
    symmetric = torch.linalg.eigvalsh((total + total.T) / 2.0)[0]
    return ErrorDecay(values[order], split, symmetric)

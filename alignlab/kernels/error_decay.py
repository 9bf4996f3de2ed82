"""Decay of small output errors under a rule, from its kernel and the loss's curvature."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import linalg
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
            along one change as :math:`e^{-\lambda t}`: a negative real part grows. Real parts of
            which rounding hides the sign are 0.
        parts: Real parts of what each kernel adds to the first of them; they sum to its real
            part. NaN where that is 0: there are then many such directions, or none to be had.
        symmetric: Smallest eigenvalue of the symmetric part of
            :math:`H^{1/2} K H^{1/2}`; positive where no error grows even for a moment, 0 where
            rounding hides its sign.
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
    values, left, right = linalg.eig(total.numpy(), left=True, right=True)
    rounding = len(total) * np.finfo(float).eps * float(total.norm())
    overlap = np.einsum("ik,ik->k", left.conj(), right)
    # An eigenvalue moves by the rounding over how far its two eigenvectors are from orthogonal.
    hidden = np.abs(values.real) * np.abs(overlap) <= rounding
    values = np.where(hidden, 0.0, values.real) + 1j * values.imag
    order = np.argsort(values.real, kind="stable")
    first = order[0]
    split = torch.full((len(parts),), torch.nan, dtype=torch.float64)
    if not hidden[first]:
        along = np.einsum("i,pij,j->p", left[:, first].conj(), parts.numpy(), right[:, first])
        split = torch.from_numpy((along / overlap[first]).real)
    symmetric = torch.linalg.eigvalsh((total + total.T) / 2.0)[0]
    symmetric = torch.where(symmetric.abs() <= rounding, 0.0, symmetric)
    return ErrorDecay(torch.from_numpy(values[order]), split, symmetric)

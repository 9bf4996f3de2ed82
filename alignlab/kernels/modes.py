"""Modes of the correlation of targets with inputs, and how far a map has learned each."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from alignlab.kernels.cosines import wide

__all__ = ["Modes", "coefficients", "correlation_modes", "cotangents"]

_NOTHING = 1e-6
"""Share of the largest singular value below which a mode is none."""


@dataclass(frozen=True)
class Modes:
    r"""Singular modes of :math:`\Sigma_{yx} = \frac1N\sum_i y_i x_i^\top`, strongest first.

    Attributes:
        outputs: u, one a column, shape ``(n_outputs, r)``.
        inputs: v, one a column, shape ``(n_inputs, r)``.
        strengths: Singular values s, shape ``(r,)``.
    """

    outputs: Tensor
    inputs: Tensor
    strengths: Tensor


def correlation_modes(x: Tensor, y: Tensor, *, count: int) -> Modes:
    """Return the strongest modes of the correlation of targets with inputs; means stay in.

    Source: Saxe, McClelland & Ganguli 2014, arXiv 1312.6120.

    Args:
        x: Inputs, shape ``(n_samples, n_inputs)``.
        y: Targets, shape ``(n_samples, n_outputs)``.
        count: How many at most.

    Returns:
        float64; fewer where the correlation has a lower rank.

    Example:
        >>> x = torch.eye(2) * 2**0.5
        >>> correlation_modes(x, x @ torch.diag(torch.tensor([3.0, 1.0])), count=5).strengths
        tensor([3., 1.], dtype=torch.float64)
    """
    correlation = wide(y).T @ wide(x) / len(x)
    left, values, right = torch.linalg.svd(correlation, full_matrices=False)
    kept = values[:count] > _NOTHING * values[:1]
    return Modes(left[:, :count][:, kept], right[:count][kept].T, values[:count][kept])


def coefficients(modes: Modes, x: Tensor, f: Tensor) -> Tensor:
    r"""Return how much of every mode a map has: :math:`a_k = u_k^\top \Sigma_{fx} v_k`.

    For a linear map W it is :math:`u_k^\top W \Sigma_{xx} v_k`, with white inputs
    :math:`u_k^\top W v_k`. Any other map has the coefficients of the linear one that is closest
    to it on these samples. Least squares have :math:`a_k = s_k`.

    Source: Saxe, McClelland & Ganguli 2014 for white inputs; for others our derivation.

    Args:
        modes: From ``correlation_modes`` on the same inputs.
        x: Inputs, shape ``(n_samples, n_inputs)``.
        f: Outputs, shape ``(n_samples, n_outputs)``.

    Returns:
        Shape ``(r,)``, float64.
    """
    return ((wide(x) @ modes.inputs) * (wide(f) @ modes.outputs)).mean(0)


def cotangents(modes: Modes, x: Tensor) -> Tensor:
    """Return the derivative of every coefficient in the outputs.

    Args:
        modes: From ``correlation_modes`` on the same inputs.
        x: Inputs, shape ``(n_samples, n_inputs)``.

    Returns:
        Shape ``(r, n_samples, n_outputs)``, float64.
    """
    along = (wide(x) @ modes.inputs).T / len(x)
    return along.unsqueeze(2) * modes.outputs.T.unsqueeze(1)

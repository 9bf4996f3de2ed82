"""How much of a weight gradient some feedback gives, one row of the weight at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from alignlab.kernels.cosines import wide

__all__ = ["RIDGE", "reached_held_out", "reached_in_sample"]

RIDGE = 1e-2
"""Share of the mean energy of a unit's directions that is added where it is scored elsewhere."""

_TOLERANCE = 1e-12


def reached_in_sample(gradient: Tensor, directions: Tensor) -> Tensor:
    r"""Return :math:`\sum_k\|P_k g_k\|^2/\sum_k\|g_k\|^2`, the largest squared cosine.

    Feedback b of unit k gives the gradient :math:`\hat g_k = \sum_c b_{kc} M_{kc}` of its weights;
    :math:`P_k` projects on the span of :math:`M_{k1}, \dots, M_{kr}`. Over all b the largest
    cosine of :math:`\hat g` with g is the root of what is returned. Source: our derivation.

    Args:
        gradient: True gradient g, shape ``(..., n_units, n_inputs)``.
        directions: Gradients M that one direction of the error alone gives, shape
            ``(..., r, n_units, n_inputs)``.

    Returns:
        Dimensionless, in [0, 1], shape ``(...)``; NaN for a zero gradient.

    Example:
        >>> gradient = torch.tensor([[3.0, 4.0]])
        >>> round(reached_in_sample(gradient, torch.tensor([[[2.0, 0.0]]])).item(), 9)
        0.36
    """
    gram, moments = _equations(wide(gradient), wide(directions))
    inverse = torch.linalg.pinv(gram, hermitian=True, rtol=_TOLERANCE)
    reached = (moments * (inverse @ moments)).sum((-3, -2, -1))
    share: Tensor = reached / wide(gradient).square().sum((-2, -1))
    return share.clamp(0.0, 1.0)


def reached_held_out(gradients: tuple[Tensor, Tensor], directions: tuple[Tensor, Tensor]) -> Tensor:
    r"""Return the squared cosine, with its sign, of feedback fitted on the other samples.

    The feedback of every unit is fitted to the gradient of one half of the samples, with
    a ridge of ``RIDGE`` times the mean energy of its directions, and makes the gradient of the
    other half; both ways, averaged. Source: our derivation.

    Args:
        gradients: True gradients of both halves, each ``(..., n_units, n_inputs)``.
        directions: M of both halves, each ``(..., r, n_units, n_inputs)``.

    Returns:
        Dimensionless, in [-1, 1], shape ``(...)``; NaN for a zero gradient or zero directions.

    Example:
        >>> gradient, directions = torch.tensor([[3.0, 4.0]]), torch.tensor([[[3.0, 4.0]]])
        >>> round(reached_held_out((gradient, gradient), (directions, directions)).item(), 9)
        1.0
    """
    ways = ((0, 1), (1, 0))
    return torch.stack(
        [
            _elsewhere(gradients[fit], directions[fit], gradients[show], directions[show])
            for fit, show in ways
        ]
    ).mean(0)


def _elsewhere(gradient: Tensor, directions: Tensor, other: Tensor, elsewhere: Tensor) -> Tensor:
    gram, moments = _equations(wide(gradient), wide(directions))
    size = torch.diagonal(gram, dim1=-2, dim2=-1).mean(-1)[..., None, None]
    eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    inverse = torch.linalg.pinv(gram + RIDGE * size * eye, hermitian=True, rtol=_TOLERANCE)
    feedback = (inverse @ moments).squeeze(-1)
    made = torch.einsum("...kr,...rkd->...kd", feedback, wide(elsewhere))
    aim = wide(other)
    product = (made * aim).sum((-2, -1))
    norms = made.square().sum((-2, -1)).sqrt() * aim.square().sum((-2, -1)).sqrt()
    cosine = (product / norms).clamp(-1.0, 1.0)
    return cosine * cosine.abs()


def _equations(gradient: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Return Gram matrices ``(..., n_units, r, r)`` and moments ``(..., n_units, r, 1)``."""
    by_unit = directions.transpose(-3, -2)
    return by_unit @ by_unit.mT, by_unit @ gradient.unsqueeze(-1)

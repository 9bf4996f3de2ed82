"""What steps do to a loss: its expansion along one, and what steps in random directions do."""

from __future__ import annotations

import torch
from torch import Tensor

from alignlab.kernels.cosines import wide

__all__ = ["averaging_weights", "chance_of_step", "interaction", "second_order"]


def second_order(before: Tensor, ahead: Tensor, behind: Tensor, share: Tensor) -> Tensor:
    r"""Return the second-order change of a loss along a step, :math:`\frac12 s^\top H s`.

    .. math:: \frac{1}{t^2} \left( \frac{f(\theta + t s) + f(\theta - t s)}{2} - f(\theta) \right)

    It is exact for losses that are cubic along the step, and off by a share of about t² of the
    fourth order else. Kinks, as those of rectified units, that lie within a share t of the step
    on either side count as curvature, as they do in the loss itself; a Hessian-vector product
    does not see them.

    Source: our derivation (a central second difference).

    Args:
        before: The loss where the step begins, shape ``(...)``.
        ahead: The loss after a share t of the step, likewise.
        behind: The loss after that share in the opposite direction, likewise.
        share: t, above 0, likewise.

    Returns:
        In units of the loss, shape ``(...)``, float64.

    Example:
        >>> values = [torch.tensor(v, dtype=torch.float64) for v in (0.0, 0.75, 0.25, 0.5)]
        >>> second_order(*values).item()
        2.0
    """
    before, ahead, behind = wide(before), wide(ahead), wide(behind)
    return ((ahead - before) + (behind - before)) / 2.0 / wide(share).square()


def interaction(joint: Tensor, alone: Tensor) -> Tensor:
    r"""Return what groups of parameters do together beyond what each does alone.

    .. math:: \Delta_{joint} - \sum_l \Delta_l, \qquad
        \text{to second order} \quad \tfrac12 \sum_{l \ne m} s_l^\top H_{lm} s_m

    Negative where moving together lowers the loss further.

    Source: our derivation; the solo steps are those of DFA-Stall (code).

    Args:
        joint: Loss change of the whole step, shape ``(...)``.
        alone: Loss changes of the step of each group by itself, shape ``(..., n_groups)``.

    Returns:
        In units of the loss, shape ``(...)``, float64.

    Example:
        >>> interaction(torch.tensor(-3.0), torch.tensor([-1.0, -2.5])).item()
        0.5
    """
    return wide(joint) - wide(alone).sum(-1)


def chance_of_step(
    norm: Tensor, length: Tensor, size: Tensor, curved: Tensor
) -> tuple[Tensor, Tensor]:
    r"""Return mean and standard deviation of the loss change of a step in a random direction.

    To first order the change along a direction u that is uniform on the sphere of radius r is
    :math:`\langle g, u\rangle`, of mean 0 and standard deviation :math:`r\|g\|/\sqrt n`, exactly.
    Drawn steps therefore need to tell only what curvature adds: their changes less
    :math:`\langle g, u\rangle`, whose mean is near :math:`r^2 \operatorname{tr} H/2n`. By the
    symmetry of the sphere both parts are uncorrelated up to fourth order.

    Source: our derivation.

    Args:
        norm: ‖g‖, shape ``(...)``.
        length: r, likewise.
        size: Entries n of g, likewise.
        curved: What is left of the changes of drawn steps, shape ``(..., n_draws)``, two at least.

    Returns:
        Both in units of the loss, shape ``(...)``, float64.

    Example:
        >>> one = torch.ones(())
        >>> mean, sd = chance_of_step(4 * one, one, 16 * one, torch.tensor([0.5, 0.5]))
        >>> mean.item(), sd.item()
        (0.5, 1.0)
    """
    rest = wide(curved)
    first = wide(length) * wide(norm) / wide(size).sqrt()
    return rest.mean(-1), (first.square() + rest.var(-1)).sqrt()


def averaging_weights(length: float, count: int) -> Tensor:
    r"""Return the weights of an exponential moving average over a few values.

    .. math:: w_k = \beta^{K-k} \Big/ \sum_j \beta^{K-j}, \qquad \beta = 1 - 1/\text{length}

    That is the average of optimizers with momentum :math:`\beta`, with its start corrected for.

    Args:
        length: Averaging length in values, at least 1.
        count: Values K there are.

    Returns:
        Weights that sum to 1, the oldest value first, shape ``(count,)``, float64.

    Example:
        >>> averaging_weights(2, 2)
        tensor([0.3333, 0.6667], dtype=torch.float64)
        >>> averaging_weights(1, 2)
        tensor([0., 1.], dtype=torch.float64)
    """
    ages = torch.arange(count - 1, -1, -1, dtype=torch.float64)
    weights = torch.tensor(1.0 - 1.0 / length, dtype=torch.float64) ** ages
    return weights / weights.sum()

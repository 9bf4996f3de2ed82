"""Classification by the outputs of a readout."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["accuracy"]


def accuracy(logits: Tensor, classes: Tensor) -> Tensor:
    """Return the share of samples of which the largest output is that of their class.

    Args:
        logits: Shape ``(n_samples, n_classes, ...)``.
        classes: Integers, shape ``(n_samples, ...)``; negative ones are left out.

    Returns:
        Dimensionless, in [0, 1], float64 scalar; NaN where every class is left out. Ties and
        outputs that are not finite count as wrong.

    Example:
        >>> accuracy(torch.tensor([[2.0, 1.0], [3.0, 4.0]]), torch.tensor([0, 0])).item()
        0.5
    """
    counted = classes >= 0
    wanted = logits.gather(1, classes.clamp(0, logits.shape[1] - 1).unsqueeze(1))
    # The wanted output is among the rest once; a second one as large is a tie.
    beaten = (logits >= wanted).sum(1) == 1
    inside = classes < logits.shape[1]
    right = beaten & inside & torch.isfinite(logits).all(1) & counted
    return right.sum().double() / counted.sum()

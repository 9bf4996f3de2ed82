"""How a model does on data that it is not trained on."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from alignlab.engine.capture import Loss
from alignlab.engine.forward import called
from alignlab.errors import InputError
from alignlab.training._random import undisturbed
from alignlab.training._recipe import Recipe

__all__ = ["evaluated", "is_out_of_patience", "least", "require_held"]

BATCH = 1000


@torch.no_grad()
def evaluated(model: nn.Module, loss_function: Loss, x: Tensor, y: Tensor) -> tuple[float, float]:
    """Return mean loss and accuracy in evaluation mode; the accuracy is NaN without classes.

    The model is left in training mode, and torch's random state as it was.
    """
    device = next((p.device for p in model.parameters()), x.device)
    has_classes = not y.is_floating_point()
    total, right = 0.0, 0.0
    model.eval()
    with undisturbed(device):
        for part, targets in zip(x.split(BATCH), y.split(BATCH), strict=True):
            target = targets.to(device)
            output = called(model, part.to(device))
            total += float(loss_function(output, target)) * len(part)
            if has_classes:
                right += float((output.argmax(1) == target).double().mean()) * len(part)
    model.train()
    return total / len(x), right / len(x) if has_classes else math.nan


def least(losses: Sequence[float]) -> int:
    """Return the first place of the least loss."""
    return losses.index(min(losses))


def is_out_of_patience(losses: Sequence[float], patience: int | None) -> bool:
    """Say whether a loss has not fallen below its least for so many epochs."""
    if patience is None or not losses:
        return False
    return len(losses) - 1 - least(losses) >= patience


def require_held(recipe: Recipe, held: tuple[Tensor, Tensor] | None) -> None:
    """Refuse patience with nothing to be patient for.

    Raises:
        InputError: There is patience and no held-out data.
    """
    if recipe.patience is not None and held is None:
        msg = "Patience needs data that are held out; give them, or leave patience out."
        raise InputError(msg)

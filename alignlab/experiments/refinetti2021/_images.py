"""Images of any data set as rows of 14 by 14 pixels, and networks for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from alignlab.datasets import load
from alignlab.experiments._alignment import drawn, network, plain_sgd, summed_cross_entropy
from alignlab.experiments._base import Setting
from alignlab.experiments._deep_digits import feedback_rule
from alignlab.rules import BP
from alignlab.schedules import Schedule, never
from alignlab.snapshot import MeasuredRule
from alignlab.training import Moment, Training, train

__all__ = ["image_network", "image_training", "images"]

_EDGE = 14


@cache
def images(data: str, samples: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return training and test samples of ten classes.

    Images are brought to 14 by 14 pixels by means over areas where they are larger, and to mean 0
    and deviation 1 over all training pixels.

    Args:
        data: Name of a data set, such as ``mnist``.
        samples: At most, of training; of test at most a fifth of it, and all of the digits.

    Returns:
        Training rows and classes, test rows and classes.
    """
    parts = [load(data, split="train", samples=samples)]
    parts.append(load(data, split="test", samples=None if data == "digits" else samples // 5))
    x, tests = (_small(part.x) for part in parts)
    shift, scale = x.mean(), x.std(correction=0)
    return (x - shift) / scale, parts[0].y, (tests - shift) / scale, parts[1].y


def _small(x: Tensor) -> Tensor:
    if x.shape[-1] > _EDGE:
        x = F.adaptive_avg_pool2d(x, _EDGE)
    return x.flatten(1)


def image_network(
    data: str, setting: Setting, *, seed: int, feedback_seed: int
) -> tuple[nn.Module, MeasuredRule]:
    """Return a fully connected network of a setting's hidden widths, and its feedback."""
    x, y, _, _ = images(data, setting["samples"])
    sizes = (x.shape[1], *setting["widths"], 10)
    model = network(sizes, activation=setting["activation"], seed=seed)
    fed = feedback_rule(feedback_seed)
    return model, drawn(fed, model, x, y, seed=feedback_seed)


def image_training(
    model: nn.Module,
    rule: str,
    data: str,
    setting: Setting,
    *,
    seed: int,
    feedback_seed: int,
    watch: Callable[[Moment], Mapping[str, Any]] | None = None,
    when: Schedule = never,
    **options: Any,
) -> Training:
    """Train a network in place by ``bp`` or ``dfa``."""
    x, y, _, _ = images(data, setting["samples"])
    recipe = plain_sgd(
        setting["lr"],
        epochs=setting["epochs"],
        batch_size=setting["batch"],
        order_seed=40_000 + seed,
        **options,
    )
    return train(
        *(model, summed_cross_entropy),
        x=x,
        y=y,
        rule=BP() if rule == "bp" else feedback_rule(feedback_seed),
        recipe=recipe,
        watch=watch,
        when=when,
    )

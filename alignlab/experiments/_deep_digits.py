"""One training of a deep network on the digits, by direct feedback or backpropagation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from alignlab.experiments._alignment import (
    drawn,
    feedback_matrices,
    gradient_alignment,
    network,
    plain_sgd,
    summed_cross_entropy,
    weight_alignment,
    weights_of,
)
from alignlab.experiments._base import Setting
from alignlab.experiments._digits import Digits, digits
from alignlab.rules import BP, DFA
from alignlab.schedules import Schedule, at, never
from alignlab.snapshot import MeasuredRule
from alignlab.training import Moment, Training, train

__all__ = ["data_of", "feedback_rule", "log_epochs", "started", "taught", "watching"]


def data_of(setting: Setting) -> Digits:
    """Return the digits as a setting wants them, with mean 0 and deviation 1 over all pixels."""
    return digits(samples=setting["samples"], scaling="global")


def feedback_rule(seed: int) -> DFA:
    """Return the rule with feedback U(-1, 1) over the root of the width."""
    return DFA(seed=seed, distribution="uniform", normalisation="fan-out")


def started(
    setting: Setting, *, activation: str, seed: int, feedback_seed: int
) -> tuple[nn.Module, MeasuredRule]:
    """Return a network with torch's initial weights, and the feedback for it."""
    model = network(setting["sizes"], activation=activation, seed=seed)
    data = data_of(setting)
    fed = feedback_rule(feedback_seed)
    return model, drawn(fed, model, data.x, data.y, seed=feedback_seed)


def taught(
    model: nn.Module,
    rule: DFA | BP,
    setting: Setting,
    *,
    seed: int,
    watch: Callable[[Moment], Mapping[str, Any]] | None = None,
    when: Schedule = never,
    images: tuple[int, ...] = (),
    **options: Any,
) -> Training:
    """Train a network in place; a setting has samples, lr, batch and epochs.

    Args:
        model: Trained in place.
        rule: Direct feedback or backpropagation.
        setting: Of the claim.
        seed: Of the order of the data.
        watch: Of the training.
        when: Likewise.
        images: Shape of one input; empty for a row of pixels.
        options: More of the recipe.
    """
    data = data_of(setting)
    recipe = plain_sgd(
        setting["lr"],
        epochs=setting["epochs"],
        batch_size=setting["batch"],
        order_seed=40_000 + seed,
        **options,
    )
    return train(
        *(model, summed_cross_entropy),
        x=data.x.unflatten(1, images) if images else data.x,
        y=data.y,
        rule=rule,
        recipe=recipe,
        watch=watch,
        when=when,
    )


def watching(
    x: Tensor, y: Tensor, measured: MeasuredRule
) -> Callable[[Moment], dict[str, np.ndarray]]:
    """Return what watches gradient and weight alignment on these samples."""

    def watch(moment: Moment) -> dict[str, np.ndarray]:
        (found,) = gradient_alignment(moment.model, summed_cross_entropy, x, y, measured)
        weights = weight_alignment(weights_of(moment.model), feedback_matrices(measured))
        return {
            "gradient": found.layers,
            "gradient_total": np.array(found.total),
            "weight": weights.layers,
            "weight_total": np.array(weights.total),
            "undefined": np.array(found.undefined),
        }

    return watch


def log_epochs(setting: Setting, count: int, *, first: float = 0.1) -> Schedule:
    """Return the schedule of log-spaced epochs from the first to the end, and of the start."""
    batches = -(-setting["samples"] // setting["batch"])
    steps: Sequence[float] = np.geomspace(first, setting["epochs"], count) * batches
    return at(0, *(round(step) for step in steps))

"""A small network that interpolates its samples, under feedback and under backpropagation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alignlab.engine.capture import Loss
from alignlab.experiments._alignment import drawn, network, plain_sgd
from alignlab.experiments._base import Setting
from alignlab.probe import Probe
from alignlab.rules import BP, DFA
from alignlab.schedules import Schedule, never
from alignlab.snapshot import MeasuredRule
from alignlab.training import Moment, Training, train

__all__ = ["feedback_rule", "interpolated", "kernel_spectrum", "samples", "squared_error"]

squared_error: Loss = partial(F.mse_loss, reduction="sum")

_CURVATURE = 2.0
"""Of that loss in the outputs: decay rates of errors are twice the eigenvalues of K."""


def samples(setting: Setting, seed: int) -> tuple[Tensor, Tensor]:
    """Return Gaussian inputs, and targets of either sign that nothing ties to them."""
    stream = torch.Generator().manual_seed(10_000 + seed)
    n, sizes = setting["samples"], setting["sizes"]
    x = torch.randn(n, sizes[0], generator=stream, dtype=torch.float64)
    signs = 2 * torch.randint(0, 2, (n, sizes[-1]), generator=stream) - 1
    return x, setting["target"] * signs.double()


def feedback_rule(setting: Setting, seed: int) -> DFA:
    """Return the rule whose feedback has entries N(0, 1) over the root of the width."""
    scale = float(setting["sizes"][1]) ** -0.5
    return DFA(seed=20_000 + seed, normalisation="none", scale=scale)


def interpolated(
    rule: str,
    setting: Setting,
    *,
    seed: int,
    watch: Callable[[Moment], Mapping[str, Any]] | None = None,
    when: Schedule = never,
) -> tuple[nn.Module, MeasuredRule, Training]:
    """Train on all samples at once until they are interpolated.

    Args:
        rule: ``bp`` or ``dfa``.
        setting: Sizes, samples, target, lr, steps, stop_loss.
        seed: Of weights, data and feedback, each in a stream of its own.
        watch: Of the training.
        when: Likewise.

    Returns:
        The network in float64, the feedback (for ``bp`` the one that it never saw), the training.
    """
    x, y = samples(setting, seed)
    model = network(setting["sizes"], activation="tanh", seed=seed).double()
    fed = feedback_rule(setting, seed)
    measured = drawn(fed, model, x, y, seed=fed.seed)
    recipe = plain_sgd(
        setting["lr"],
        epochs=setting["steps"],
        batch_size=setting["samples"],
        stop_loss=setting["stop_loss"],
    )
    found = train(
        *(model, squared_error),
        x=x,
        y=y,
        rule=fed if rule == "dfa" else BP(),
        recipe=recipe,
        watch=watch,
        when=when,
    )
    return model, measured, found


def kernel_spectrum(
    model: nn.Module, measured: MeasuredRule, x: Tensor, y: Tensor
) -> tuple[float, float]:
    r"""Return where the mixed kernel of a rule ends, at a network that interpolates its samples.

    Returns:
        Smallest real part of the eigenvalues of :math:`K = J\tilde J^\top`, and smallest eigenvalue
        of its symmetric part; NaN where the samples are not interpolated.
    """
    probe = Probe(*(model, squared_error), rules=[measured], diagnostics=["stability"], draws=32)
    with probe:
        found = probe.measure(x, y)
    if "error_decay" not in found:
        return float("nan"), float("nan")
    least = np.ravel(found["error_decay"].values)[0], np.ravel(found["error_decay_symmetric"])[0]
    return float(least[0]) / _CURVATURE, float(least[1]) / _CURVATURE

"""Bias and variance of the update over what the rule draws in a step (C1)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from alignlab.diagnostics._base import NotDefined, Reading, SnapshotDiagnostic, Variable
from alignlab.diagnostics._draws import fresh_draws
from alignlab.diagnostics._together import fetched, together
from alignlab.kernels.draws import error_parts
from alignlab.snapshot import Snapshot

__all__ = ["BiasVariance"]

_OVER = "over the squared norm of the gradient"
_PARTS: Mapping[str, tuple[str, str, str]] = {
    "bias": ("bias_update", f"Squared distance of the mean update from the gradient, {_OVER}", ""),
    "bias_best_scale": (
        "bias_update_best_scale",
        f"Squared distance of the mean update from the best multiple of the gradient, {_OVER}",
        "lower",
    ),
    "best_scale": ("best_scale_update", "That multiple; 1 for an unbiased update", ""),
    "variance": ("variance_update", f"Variance of the update, {_OVER}", "lower"),
    "variance_share": (
        "variance_share_update",
        "Share of variance in the squared distance from the best multiple of the gradient",
        "",
    ),
}
_SOURCE = "Identity: textbook; unbiased estimate: our derivation"


def _declared() -> tuple[Variable, ...]:
    found = []
    for name, text, better in _PARTS.values():
        for suffix, dims, where in (
            ("", ("rule", "layer"), ""),
            ("_network", ("rule",), ", all parameters"),
        ):
            found += [
                Variable(
                    name + suffix, dims, text + where, source=_SOURCE, better=better or "none"
                ),
                Variable(
                    f"{name}{suffix}_se",
                    dims,
                    f"{text}{where}: standard error",
                    source="Jackknife over draws",
                    better="lower",
                    valid=(0.0, None),
                ),
            ]
    return (
        *found,
        Variable("n_draws_update", ("rule",), "Draws from which these were estimated", "count"),
    )


class BiasVariance(SnapshotDiagnostic):
    r"""Is a random update wrong on average, or only noisy?

    With :math:`\hat g` a rule's update, g the gradient, and the mean over what the rule draws in
    a step at the present weights and batch,

    .. math:: E|\hat g - a g|^2 = |E\hat g - a g|^2 + \mathrm{tr\,Var}(\hat g),

    bias and variance, both in units of :math:`|g|^2`, with a = 1 and with the best a, which is
    what a step size repairs. They are estimated from 32 calls of the rule. Squares of means are
    means over pairs of different draws, so that no variance is counted as bias.

    **How to read it.** A variance share near 1: the update points along the gradient on average,
    and more draws, momentum or larger batches help. Near 0: no averaging helps, the rule itself
    has to change. A high bias with a = 1 and a low one with the best a is a matter of the step
    size. A bias below twice its standard error was not detected: of an update with variance V it
    is known to about V/32, so that small biases of very noisy updates cannot be seen.

    **Expectation.** Unbiased rules (forward gradients, evolution strategies, noise on the true
    gradient) have bias 0 and best scale 1 exactly, the forward gradient of n parameters variance
    n + 1. Estimates scatter around that, so that biases below 0 and shares above 1 occur.

    **Not defined** for rules that draw nothing in a step. Feedback that is drawn before the
    training (FA, DFA) is no such draw: redrawing it at fixed weights gives the chance level of the
    alignment, not the variance of the method. Feedback that a random rule also holds stays fixed.
    NaN where the gradient is zero. Layers are weight and bias of a module.

    Source: the identity is textbook; the estimate is our derivation.

    Example:
        >>> from alignlab.probe import Probe
        >>> from alignlab.rules import ForwardGradient
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)
        ... )
        >>> loss = torch.nn.functional.cross_entropy
        >>> rules, names = [ForwardGradient(seed=0)], ["bias-variance"]
        >>> with Probe(net, loss, rules=rules, diagnostics=names, draws=32) as probe:
        ...     recording = probe.measure(torch.randn(20, 4), torch.arange(20) % 3)
        >>> bool(recording["variance_share_update_network"] > 0.7)
        True
    """

    variables: ClassVar[tuple[Variable, ...]] = _declared()
    cost: ClassVar[float] = 25.0

    def measure(self, snapshot: Snapshot) -> Iterator[Reading | NotDefined]:
        """Yield bias and variance of every rule that draws, by layer and of the network."""
        names = [layer.name for layer in snapshot.layers]
        rows: dict[tuple[str, str], tuple[Tensor]] = {}
        for label, draws in snapshot.shared(fresh_draws).items():
            if draws.because:
                yield NotDefined(draws.because, label)
                continue
            count = float(len(draws.products[""]) - 1)
            yield Reading("n_draws_update", count, label)
            for name in ("", *names):
                if name in draws.products:
                    rows[label, name] = (draws.products[name],)
                else:
                    yield NotDefined("no parameter of it learns", label, name)
        parts = together(_parts, rows)
        for (label, layer), found in zip(parts, fetched(list(parts.values())), strict=True):
            suffix = "" if layer else "_network"
            if not np.isfinite(found[0, 0]):
                yield NotDefined("its gradient is zero", label, layer)
            for (name, _, _), value, error in zip(_PARTS.values(), *found, strict=True):
                yield Reading(name + suffix, float(value), label, layer)
                yield Reading(f"{name}{suffix}_se", float(error), label, layer)


def _parts(products: Tensor) -> Tensor:
    """Return parts and standard errors, shape ``(n, 2, len(_PARTS))``."""
    found = [torch.stack([getattr(p, key) for key in _PARTS], -1) for p in error_parts(products)]
    return torch.stack(found, 1)

"""Networks and feedback that are given, and what a probe says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn
from torch.nn import functional

from alignlab.probe import Probe
from alignlab.rules import DFA
from alignlab.snapshot import MeasuredRule

__all__ = ["given_feedback", "half_squared_error", "linear_network", "probed"]


def half_squared_error(output: Tensor, target: Tensor) -> Tensor:
    return 0.5 * functional.mse_loss(output, target, reduction="sum")


def linear_network(weights: Sequence[Any]) -> nn.Sequential:
    """Return a linear network without biases, in float64, layers ``0``, ``1``, ..."""
    layers = []
    for weight in weights:
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=torch.float64)
        with torch.no_grad():
            layer.weight.copy_(torch.as_tensor(weight))
        layers.append(layer)
    return nn.Sequential(*layers)


def given_feedback(matrices: Mapping[str, Any], *, origin: str = "checkpoint") -> MeasuredRule:
    """Return DFA with matrices of shape (units, errors) by layer."""
    feedback = {name: torch.as_tensor(np.asarray(m).T.copy()) for name, m in matrices.items()}
    return MeasuredRule(DFA(), feedback, origin)


def probed(
    model: nn.Module,
    loss: Any,
    batch: tuple[Any, Any],
    *rules: Any,
    diagnostics: Sequence[str] | None = None,
    draws: int = 32,
) -> xr.Dataset:
    """Return the one step of a recording."""
    x, y = (torch.as_tensor(each) for each in batch)
    with Probe(model, loss, rules=rules, diagnostics=diagnostics, draws=draws) as probe:
        return probe.measure(x, y).isel(step=0)

"""Mean pre-activations of the layers of a forward pass, and what moves them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from alignlab.diagnostics._activations import by_unit, output_of
from alignlab.kernels.cosines import wide
from alignlab.kernels.drift import by_output, mean_input

if TYPE_CHECKING:
    from alignlab.engine.capture import Capture
    from alignlab.sites import Layer
    from alignlab.snapshot import Snapshot

__all__ = ["Mean", "input_changes", "means", "means_of", "same_layers", "spreads_of"]


@dataclass(frozen=True)
class Mean:
    """What makes the mean pre-activations of one layer, copied, in float64.

    Attributes:
        weight: One row per output unit, shape ``(n_out, fan_in)``.
        bias: Shape ``(n_out,)``; zeros without one.
        input: What each unit reads on average over samples and positions, like ``weight``.
    """

    weight: Tensor
    bias: Tensor
    input: Tensor

    @property
    def values(self) -> Tensor:
        """The mean pre-activations, shape ``(n_out,)``."""
        return (self.weight * self.input).sum(1) + self.bias


def means(capture: Capture) -> dict[str, Mean]:
    """Return the means of every layer of a forward pass."""
    return {layer.name: _mean(capture, layer) for layer in capture.layers}


def means_of(snapshot: Snapshot) -> dict[str, Mean]:
    """Return the means of a snapshot; for ``Snapshot.shared``."""
    return means(snapshot.capture)


def spreads_of(snapshot: Snapshot) -> dict[str, Tensor]:
    """Return root sums over units of the pre-activations' variance; for ``Snapshot.shared``.

    NaN where they do not vary but by rounding: nothing can be given in units of it.
    """
    means = snapshot.shared(means_of)
    return {
        layer.name: _spread(snapshot.capture, layer, means[layer.name])
        for layer in snapshot.capture.layers
    }


def _spread(capture: Capture, layer: Layer, mean: Mean) -> Tensor:
    rows = by_unit(output_of(capture, layer), layer.channel_axis)
    spread = wide(torch.var(rows, 0, correction=0)).sum().sqrt()
    rounding = 16.0 * torch.finfo(rows.dtype).eps * mean.values.norm().to(spread.device)
    return torch.where(spread > rounding, spread, torch.nan)


def same_layers(first: Capture, second: Capture) -> bool:
    """Return whether two forward passes called the same layers."""
    called = [[(layer.name, layer.shape) for layer in each.layers] for each in (first, second)]
    return called[0] == called[1]


def input_changes(before: Capture, after: Capture) -> dict[str, Tensor]:
    """Return the changes of the mean inputs, by layer, shape ``(n_out, fan_in)``.

    Inputs are subtracted before they are averaged, so that small changes are not lost.
    """
    return {
        layer.name: mean_input(
            after.module_of(layer), after.input_of(layer) - before.input_of(layer)
        )
        for layer in before.layers
    }


def _mean(capture: Capture, layer: Layer) -> Mean:
    module = capture.module_of(layer)
    # Parameters may get other values in the same memory later on.
    weight = by_output(module, capture.weight_of(layer)).clone()
    bias = module.bias
    return Mean(
        weight,
        wide(bias.detach()).clone() if isinstance(bias, Tensor) else weight.new_zeros(len(weight)),
        mean_input(module, capture.input_of(layer)),
    )

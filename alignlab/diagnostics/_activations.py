"""What the layers of a captured forward pass hand on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from alignlab.kernels.cosines import flat
from alignlab.kernels.layers import linear_part
from alignlab.kernels.similarity import sample_products

if TYPE_CHECKING:
    from alignlab.engine.capture import Capture
    from alignlab.sites import Layer
    from alignlab.snapshot import Snapshot

__all__ = ["Products", "Representations", "by_unit", "output_of", "representations"]


@dataclass(frozen=True)
class Products:
    """What is kept of activations: products of all pairs of samples.

    Attributes:
        gram: Shape ``(n_samples, n_samples)``, float64.
        means: Mean of each sample over its units, shape ``(n_samples,)``.
        n_units: Units of a sample; maps are flattened.
    """

    gram: Tensor
    means: Tensor
    n_units: int


@dataclass(frozen=True)
class Representations:
    """Products of the activations of a forward pass.

    Attributes:
        inputs: Of the input of every layer, by layer.
        activations: Of what every layer hands on, by layer: of a hidden layer what its consumer
            reads, after nonlinearity, normalisation and pooling, where the entry site is; of an
            output layer its pre-activations.
    """

    inputs: Mapping[str, Products]
    activations: Mapping[str, Products]

    @classmethod
    def of(cls, capture: Capture) -> Representations:
        """Read them off a forward pass."""
        inputs = {layer.name: _products(capture.input_of(layer)) for layer in capture.layers}
        handed = {
            layer.name: _products(output_of(capture, layer))
            if layer.is_output
            else inputs[layer.consumer]
            for layer in capture.layers
        }
        return cls(inputs, handed)


def representations(snapshot: Snapshot) -> Representations:
    """Return those of a snapshot; for ``Snapshot.shared``."""
    return Representations.of(snapshot.capture)


def _products(activity: Tensor) -> Products:
    rows = flat(activity)
    return Products(*sample_products(rows), rows.shape[1])


def output_of(capture: Capture, layer: Layer) -> Tensor:
    """Return the pre-activations of a layer, shape ``(n_samples, *shape)``."""
    module = capture.module_of(layer)
    found = linear_part(module, capture.input_of(layer), capture.weight_of(layer))
    bias = module.bias
    if not isinstance(bias, Tensor):
        return found
    ones = [1] * (found.ndim - 1)
    ones[layer.channel_axis] = -1
    return found + bias.detach().to(found).reshape(ones)


def by_unit(signal: Tensor, axis: int) -> Tensor:
    """Return a tensor with one column per unit, one row per sample and position.

    Args:
        signal: Shape ``(n_samples, ...)``.
        axis: Axis of the units in the shape of one sample, as ``Layer.channel_axis``.

    Returns:
        Shape ``(n_samples * n_positions, n_units)``.
    """
    moved = signal.movedim(axis if axis < 0 else axis + 1, -1)
    return moved.reshape(-1, moved.shape[-1])

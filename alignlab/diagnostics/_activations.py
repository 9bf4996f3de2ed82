"""What the layers of a captured forward pass hand on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from alignlab.engine.capture import Capture
from alignlab.kernels.cosines import flat
from alignlab.kernels.layers import linear_part

if TYPE_CHECKING:
    from alignlab.sites import Layer
    from alignlab.snapshot import Snapshot

__all__ = ["activations", "activations_of", "output_of"]


def activations(capture: Capture) -> dict[str, Tensor]:
    """Return the activations h of every layer, one row per sample, by layer.

    A hidden layer's are what its consumer reads, after nonlinearity, normalisation and pooling:
    they are where the entry site is. An output layer's are its pre-activations.

    Args:
        capture: Any forward pass.

    Returns:
        Each of shape ``(n_samples, n)``.
    """
    by_name = {layer.name: layer for layer in capture.layers}
    return {
        layer.name: flat(
            output_of(capture, layer)
            if layer.is_output
            else capture.input_of(by_name[layer.consumer])
        )
        for layer in capture.layers
    }


def activations_of(snapshot: Snapshot) -> dict[str, Tensor]:
    """Return the activations of a snapshot; for ``Snapshot.shared``."""
    return activations(snapshot.capture)


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

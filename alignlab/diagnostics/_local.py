"""The local backward map from an entry to a pre-activation, where it is a gain per unit."""

from __future__ import annotations

import torch
from torch import Tensor

from alignlab.errors import MeasurementError
from alignlab.sites import Layer
from alignlab.snapshot import Snapshot

__all__ = ["by_channel", "gains"]

_SAME = 1e-3


def gains(snapshot: Snapshot, layer: Layer) -> Tensor | None:
    """Return the diagonal of V^T V, V the local backward map of a layer.

    For gates, pooling of separate regions and normalisation with fixed statistics V^T V is
    diagonal, and least squares at the pre-activation are weighted least squares at the entry.

    Args:
        snapshot: The probing.
        layer: Any hidden layer.

    Returns:
        At least 0, shape ``(n_samples, *entry_shape)``; None where V^T V is not diagonal or not
        to be had (fused kernels), or where the true signal also comes around the entry.
    """
    capture = snapshot.capture
    if capture.layout.is_bypassed(layer):
        return None
    shape = (snapshot.error.shape[0], *layer.entry_shape)
    ones = torch.ones(shape, dtype=snapshot.error.dtype, device=snapshot.error.device)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(ones)
    try:
        diagonal = capture.to_entry(layer, capture.to_preactivation(layer, ones))
        image = capture.to_entry(layer, capture.to_preactivation(layer, noise))
    except MeasurementError:
        return None
    if not bool((image - diagonal * noise).norm() <= _SAME * image.norm()):
        return None
    return diagonal.clamp_min(0.0)


def by_channel(signal: Tensor, layer: Layer) -> Tensor:
    """Return an entry-shaped tensor as ``(n_samples, n_channels, n_places)``."""
    if len(layer.entry_shape) == 1:
        return signal.reshape(signal.shape[0], -1, 1)
    return signal.reshape(signal.shape[0], layer.entry_shape[0], -1)

"""The local backward map from an entry to a pre-activation, where it is a gain per unit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from alignlab.diagnostics._together import fetched
from alignlab.errors import MeasurementError

if TYPE_CHECKING:
    from alignlab.engine.capture import Capture
    from alignlab.sites import Layer
    from alignlab.snapshot import Snapshot

__all__ = ["by_channel", "diagonal", "gains", "why_no_gains", "without_gains"]

_SAME = 1e-3

BYPASSED = "the error also reaches it around its entry"
NO_SECOND = "the way to its entry has no second derivative"
MIXED = "the way to its entry mixes units or samples"


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
    if why_no_gains(snapshot)[layer.name]:
        return None
    return diagonal(snapshot.capture, layer)


def why_no_gains(snapshot: Snapshot) -> Mapping[str, str]:
    """Return by hidden layer why ``gains`` gives none, a clause; empty where it does.

    It is found out for all layers together, once for all diagnostics.
    """
    return snapshot.shared(_of_snapshot)


def _of_snapshot(snapshot: Snapshot) -> Mapping[str, str]:
    return without_gains(snapshot.capture)


def without_gains(capture: Capture) -> dict[str, str]:
    """Return by hidden layer of a forward pass why V^T V is not diagonal; empty where it is."""
    found: dict[str, str] = {}
    apart: dict[str, Tensor] = {}
    for layer in capture.layers:
        if layer.is_output:
            continue
        found[layer.name] = ""
        if capture.layout.is_bypassed(layer):
            found[layer.name] = BYPASSED
            continue
        try:
            apart[layer.name] = _mixing(capture, layer)
        except MeasurementError:
            found[layer.name] = NO_SECOND
    for name, share in zip(apart, fetched(list(apart.values())), strict=True):
        # A dead layer has 0 / 0 and mixes nothing.
        found[name] = MIXED if share > _SAME else ""
    return found


def diagonal(capture: Capture, layer: Layer) -> Tensor:
    """Return the diagonal of V^T V where it is one, shape ``(n_samples, *entry_shape)``."""
    ones = _entry_like(capture, layer, random=False)
    return capture.to_entry(layer, capture.to_preactivation(layer, ones)).clamp_min(0.0)


def _mixing(capture: Capture, layer: Layer) -> Tensor:
    """Return how far V^T V of noise is from its diagonal times the noise, as a share."""
    noise = _entry_like(capture, layer, random=True)
    image = capture.to_entry(layer, capture.to_preactivation(layer, noise))
    rest = image - diagonal(capture, layer) * noise
    return rest.norm() / image.norm()


def _entry_like(capture: Capture, layer: Layer, *, random: bool) -> Tensor:
    """Return ones or reproducible noise in the shape of the entry with its samples."""
    shape = (capture.n_samples, *layer.entry_shape)
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(0)) if random else None
    like = capture.layout.call(layer).weight
    ones = torch.ones(shape, dtype=like.dtype, device=like.device)
    return ones if drawn is None else drawn.to(ones)


def by_channel(signal: Tensor, layer: Layer) -> Tensor:
    """Return an entry-shaped tensor as ``(n_samples, n_channels, n_places)``."""
    if len(layer.entry_shape) == 1:
        return signal.reshape(signal.shape[0], -1, 1)
    return signal.reshape(signal.shape[0], layer.entry_shape[0], -1)

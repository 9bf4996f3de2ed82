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

__all__ = ["by_channel", "diagonal", "gains_of", "local_gains", "why_no_gains"]

_SAME = 1e-3

BYPASSED = "the error also reaches it around its entry"
NO_SECOND = "the way to its entry has no second derivative"
MIXED = "the way to its entry mixes units or samples"


def local_gains(snapshot: Snapshot) -> dict[str, Tensor | str]:
    """Return the diagonal of V^T V by hidden layer, V the local backward map, or why not.

    For gates, pooling of separate regions and normalisation with fixed statistics V^T V is
    diagonal, and least squares at the pre-activation are weighted least squares at the entry.
    To be asked for by ``snapshot.shared(local_gains)``.

    Returns:
        At least 0, shape ``(n_samples, *entry_shape)``; a clause where V^T V is not diagonal or
        not to be had (fused kernels), or where the true signal also comes around the entry.
    """
    return _gains(snapshot.capture, why_no_gains(snapshot))


def gains_of(capture: Capture) -> dict[str, Tensor | str]:
    """Return the same of any forward pass; see ``local_gains``."""
    return _gains(capture, _without_gains(capture))


def _gains(capture: Capture, reasons: Mapping[str, str]) -> dict[str, Tensor | str]:
    layers = (layer for layer in capture.layers if not layer.is_output)
    return {each.name: reasons[each.name] or diagonal(capture, each) for each in layers}


def why_no_gains(snapshot: Snapshot) -> Mapping[str, str]:
    """Return by hidden layer why there are no gains, a clause; empty where it does.

    It is found out for all layers together, once for all diagnostics.
    """
    return snapshot.shared(_of_snapshot)


def _of_snapshot(snapshot: Snapshot) -> Mapping[str, str]:
    return _without_gains(snapshot.capture)


def _without_gains(capture: Capture) -> dict[str, str]:
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
    share: Tensor = rest.norm() / image.norm()
    return share


def _entry_like(capture: Capture, layer: Layer, *, random: bool) -> Tensor:
    """Return ones or reproducible noise in the shape of the entry with its samples."""
    shape = (capture.n_samples, *layer.entry_shape)
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(0)) if random else None
    like = capture.layout.call(layer).weight
    ones = torch.ones(shape, dtype=like.dtype, device=like.device)
    return ones if drawn is None else drawn.to(ones)


def by_channel(signal: Tensor, layer: Layer) -> Tensor:
    """Return an entry-shaped tensor as ``(n_samples, n_channels, n_places)``."""
    shaped = signal.reshape(-1, *layer.entry_shape)
    axis = layer.entry_channel_axis
    found = shaped.movedim(axis if axis < 0 else axis + 1, 1)
    return found.reshape(*found.shape[:2], -1)

"""Local gains of all hidden layers, worked out once for all who fit behind them."""

from __future__ import annotations

import torch
from torch import Tensor

from alignlab.diagnostics._together import fetched
from alignlab.errors import MeasurementError
from alignlab.snapshot import Snapshot

__all__ = ["local_gains"]

_SAME = 1e-3


def local_gains(snapshot: Snapshot) -> dict[str, Tensor | str]:
    """Return the diagonal of V^T V by hidden layer, V the local backward map, or why not.

    For gates, pooling of separate regions and normalisation with fixed statistics V^T V is
    diagonal, and least squares at the pre-activation are weighted least squares at the entry.
    To be asked for by ``snapshot.shared(local_gains)``.

    Returns:
        At least 0, shape ``(n_samples, *entry_shape)``; a clause where V^T V is not diagonal or
        not to be had, or where the true signal also comes around the entry.
    """
    capture = snapshot.capture
    found: dict[str, Tensor | str] = {}
    missed: dict[str, Tensor] = {}
    stream = torch.Generator().manual_seed(0)
    for layer in snapshot.hidden:
        if capture.layout.is_bypassed(layer):
            found[layer.name] = "the true signal also comes around its entry"
            continue
        shape = (snapshot.error.shape[0], *layer.entry_shape)
        ones = torch.ones(shape, dtype=snapshot.error.dtype, device=snapshot.error.device)
        signs = 2.0 * torch.randint(0, 2, shape, generator=stream).to(ones) - 1.0
        try:
            diagonal = capture.to_entry(layer, capture.to_preactivation(layer, ones))
            image = capture.to_entry(layer, capture.to_preactivation(layer, signs))
        except MeasurementError:
            found[layer.name] = "its local backward map cannot be differentiated again"
            continue
        missed[layer.name] = (image - diagonal * signs).norm() / image.norm()
        found[layer.name] = diagonal.clamp_min(0.0)
    for name, share in zip(missed, fetched(list(missed.values())), strict=True):
        if not share <= _SAME:
            found[name] = "its local backward map mixes units, or is zero"
    return found

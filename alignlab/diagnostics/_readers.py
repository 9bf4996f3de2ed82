"""The layers that read an entry, and whether their weights are all there is of its true signal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from alignlab.diagnostics._feedback import MOST_ERRORS
from alignlab.diagnostics._together import fetched
from alignlab.kernels.convolution import CONVOLUTIONS
from alignlab.kernels.cosines import wide
from alignlab.kernels.layers import transposed

if TYPE_CHECKING:
    from alignlab.sites import Layer
    from alignlab.snapshot import Snapshot

__all__ = ["n_features", "readers"]

_SAME = 1e-3


def readers(snapshot: Snapshot) -> tuple[dict[str, list[Layer]], dict[str, str]]:
    """Return the layers that read every entry, and why some are not all there is."""
    capture = snapshot.capture
    found = {layer.name: capture.layout.consumers_of(layer) for layer in snapshot.hidden}
    because, missed = {}, {}
    for layer in snapshot.hidden:
        reasons = [_unfit(snapshot, reader) for reader in found[layer.name]]
        features = sum(n_features(snapshot, reader) for reader in found[layer.name])
        kinds = {isinstance(capture.module_of(r), nn.Linear) for r in found[layer.name]}
        if any(reasons):
            because[layer.name] = next(filter(None, reasons))
        elif len(kinds) > 1:
            because[layer.name] = "layers of several kinds read its entry"
        elif features > MOST_ERRORS:
            because[layer.name] = f"{features:,} features are more than {MOST_ERRORS:,}"
        else:
            missed[layer.name] = _missed(snapshot, layer, found[layer.name])
    for name, share in zip(missed, fetched(list(missed.values())), strict=True):
        if not share <= _SAME:
            because[name] = "a path around the layers that read its entry adds to the true signal"
    return found, because


def _unfit(snapshot: Snapshot, reader: Layer) -> str:
    module = snapshot.capture.module_of(reader)
    if not isinstance(module, (nn.Linear, *CONVOLUTIONS)):
        return f"{reader.name}, which reads its entry, is a {reader.kind}"
    if getattr(module, "groups", 1) > 1:
        return f"{reader.name}, which reads its entry, has groups"
    return ""


def n_features(snapshot: Snapshot, reader: Layer) -> int:
    """Return how many weights one input of a layer has."""
    weight = snapshot.capture.weight_of(reader)
    return weight.numel() // max(weight.shape[1], 1)


def _missed(snapshot: Snapshot, layer: Layer, readers: Sequence[Layer]) -> Tensor:
    """Return how far the true signal is from what the readers' own weights bring."""
    capture, true = snapshot.capture, snapshot.true.entry[layer.name]
    rebuilt = torch.zeros_like(true)
    for reader in readers:
        signal = snapshot.true.preactivation[reader.name]
        shape = capture.input_of(reader).shape
        brought = transposed(capture.module_of(reader), signal, capture.weight_of(reader), shape)
        rebuilt = rebuilt + brought.reshape(true.shape)
    result: Tensor = wide(rebuilt - true).norm() / wide(true).norm()
    return result

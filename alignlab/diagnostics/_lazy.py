"""How weights have moved, and how those of the network linearised at its start would have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from alignlab.diagnostics._base import NotDefined
from alignlab.diagnostics._means import same_layers
from alignlab.engine.error import carried, direct_errors
from alignlab.errors import MeasurementError
from alignlab.kernels.drift import by_output
from alignlab.snapshot import INITIAL, Snapshot

if TYPE_CHECKING:
    from alignlab.sites import Layer

__all__ = ["Forms", "Moved", "lazy_updates", "moved_weight"]

Forms = tuple[Mapping[str, Tensor], Mapping[str, Tensor]]
"""Gradients of the linearised network by parameter name, of all samples and of one half."""


@dataclass(frozen=True)
class Moved:
    """One layer's change of weights beside the linearised network's, a row per output unit.

    Attributes:
        change: Present less initial weights, shape ``(n_out, fan_in)``, float64.
        form: Align-zero update of the batch, against the gradient, likewise.
        half: That of one half of the samples.
    """

    change: Tensor
    form: Tensor
    half: Tensor


def lazy_updates(snapshot: Snapshot) -> Forms | NotDefined:
    """Return what the initial network makes of the mean error of all known states, or why not."""
    known = [direct_errors(snapshot.capture.layout, snapshot.capture.loss)[0]]
    for label in snapshot.earlier:
        with snapshot.at(label) as capture:
            if not same_layers(capture, snapshot.capture):
                return NotDefined(f"the {label} network calls other layers on the batch")
            known.append(direct_errors(capture.layout, capture.loss)[0])
    errors = {
        name: torch.stack([each[name] for each in known]).mean(0)
        for name in known[0]
        if all(name in each for each in known)
    }
    with snapshot.at(INITIAL) as start:
        fold = snapshot.fold.to(snapshot.error.device)
        half = {
            name: e * fold.reshape(-1, *(1 for _ in e.shape[1:])).to(e)
            for name, e in errors.items()
        }
        try:
            found = [carried(start.layout, start.model, each) for each in (errors, half)]
        except MeasurementError as error:
            return NotDefined(f"the errors cannot be carried through the initial network: {error}")
    return found[0].parameters, found[1].parameters


def moved_weight(snapshot: Snapshot, layer: Layer, forms: Forms) -> Moved | str:
    """Return a layer's change and form, or why there is none."""
    capture = snapshot.capture
    module = capture.module_of(layer)
    if layer.name != layer.module:
        return f"its weight is that of {layer.module}, where it is measured"
    if getattr(module, "groups", 1) > 1:
        return "its groups of units read different inputs"
    weight = module._parameters.get("weight")
    names = {id(p): name for name, p in capture.model.named_parameters()}
    if weight is None:
        return "its weight is computed from other tensors"
    name = names[id(weight)]
    if name not in forms[0]:
        return "its weight is frozen"
    assert snapshot.initial is not None
    change = weight.detach() - snapshot.initial[name].to(weight)
    parts = (change, -forms[0][name], -forms[1][name])
    return Moved(*(by_output(module, part) for part in parts))

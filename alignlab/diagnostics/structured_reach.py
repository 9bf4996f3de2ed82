"""How much of the true signal feedback can give that is the same at many positions (F6)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from alignlab.diagnostics._base import NotDefined, Reading, SnapshotDiagnostic, Variable
from alignlab.diagnostics._feedback import error_space
from alignlab.diagnostics._local import by_channel, local_gains
from alignlab.kernels.cosines import wide
from alignlab.kernels.structured_regression import explained_by_region, regions_of
from alignlab.sites import ENTRY, PREACTIVATION
from alignlab.snapshot import Snapshot

if TYPE_CHECKING:
    from alignlab.sites import Layer

__all__ = ["StructuredReach"]

_DIMS = ("layer", "site")
_SAMPLES_PER_DIRECTION = 20
_PARTS = 2


class StructuredReach(SnapshotDiagnostic):
    r"""Reach of feedback with one value a channel, and with one a channel and quarter of a map.

    ``reach`` fits the true signal by feedback B with a value of its own for every unit. Here the
    values of a channel are tied at all positions (``structure=channel``), or within each half of
    every axis (quarters of an image):

    .. math:: R^2 = \max_b \Big(1 - \frac{\sum_{ikp}(\delta_{ikp} - e_i^\top b_{k\rho(p)})^2}
        {\sum_{ikp}\delta_{ikp}^2}\Big),

    fitted on one half of the samples and read on the other, both ways, and in sample.
    ``reach_dense`` is the same fit without ties, to be compared on equal terms, held out.

    How to read it: where tied feedback reaches about as much as dense (behind a pooled head),
    feedback that is the same at all positions suffices, has far fewer numbers and makes positions
    coherent. Where it reaches next to nothing (behind a flattened head) the credit of positions
    differs, and such feedback would lose it.

    Chance: for signals unrelated to the error r/N in sample and about -2r/N held out, with r
    the directions of the error and N the samples, times the share of the energy that tied values
    can hold: 1/P of white noise.

    Undefined for layers at whose entry there are no positions (read by a Linear layer, so also
    behind a flattening), for fewer than 20 samples per direction of the error, for zero signals,
    and at pre-activations as for ``reach``.

    Source: our derivation.

    Example:
        >>> from torch.nn import AdaptiveAvgPool1d, Conv1d, Flatten, Linear, Sequential
        >>> from torch.nn.functional import cross_entropy
        >>> from alignlab import Probe
        >>> _ = torch.manual_seed(0)
        >>> net = Sequential(Conv1d(2, 4, 1), Conv1d(4, 4, 1), AdaptiveAvgPool1d(1), Flatten(),
        ...                  Linear(4, 3))
        >>> with Probe(net, cross_entropy, draws=32, diagnostics=["structured-reach"]) as probe:
        ...     found = probe.measure(torch.randn(90, 2, 8), torch.arange(90) % 3)
        >>> round(found["reach_by_channel_held_out"].sel(layer="0", site="entry").item(), 6)
        1.0
    """

    variables: ClassVar[tuple[Variable, ...]] = (
        Variable(
            "reach_by_channel_in_sample",
            _DIMS,
            "Share of the true signal that feedback gives with one value a channel, in sample",
            better="higher",
            valid=(0.0, 1.0),
        ),
        Variable(
            "reach_by_channel_held_out",
            _DIMS,
            "That share on samples that the fit has not seen",
            better="higher",
            valid=(None, 1.0),
        ),
        Variable(
            "reach_by_region_held_out",
            _DIMS,
            "The same with one value a channel and half of every axis, held out",
            better="higher",
            valid=(None, 1.0),
        ),
        Variable(
            "reach_dense_held_out",
            _DIMS,
            "The same with one value a unit, held out",
            better="higher",
            valid=(None, 1.0),
        ),
    )
    cost: ClassVar[float] = 5.0

    def measure(self, snapshot: Snapshot) -> Iterator[Reading | NotDefined]:
        """Yield tied and free reach of every layer whose entry has positions."""
        errors = wide(snapshot.exact_error)
        errors = errors @ error_space(errors)
        n_samples, directions = errors.shape
        if not directions or directions * _SAMPLES_PER_DIRECTION > n_samples:
            because = "the errors are zero"
            if directions:
                because = (
                    f"the errors have {directions} directions and {n_samples} samples, fewer "
                    f"than {_SAMPLES_PER_DIRECTION} for each; measure more samples"
                )
            yield NotDefined(because)
            return
        local = snapshot.shared(local_gains)
        for number, layer in enumerate(snapshot.layers):
            snapshot.progress("reach by channel", number + 1, len(snapshot.layers))
            if layer.is_output:
                yield NotDefined("it is the output layer, whose error is exact", layer=layer.name)
                continue
            if len(layer.entry_shape) == 1:
                yield NotDefined("its entry has no positions", layer=layer.name)
                continue
            signal = by_channel(snapshot.true.entry[layer.name], layer)
            gains: dict[str, Tensor | None] = {ENTRY: None}
            own = local[layer.name]
            if isinstance(own, str):
                yield NotDefined(f"at its pre-activation {own}", layer=layer.name)
            else:
                gains[PREACTIVATION] = by_channel(own, layer)
            for site, gain in gains.items():
                for name, value in _shares(errors, signal, layer, snapshot.fold, gain):
                    yield Reading(name, value, layer=layer.name, site=site)


def _shares(
    errors: Tensor, signal: Tensor, layer: Layer, fold: Tensor, gain: Tensor | None
) -> Iterator[tuple[str, Tensor]]:
    axis = layer.entry_channel_axis
    places = layer.entry_shape[1:] if axis == 0 else layer.entry_shape[:-1]
    whole = regions_of(places, per_axis=1)
    inside, outside = explained_by_region(errors, signal, whole, fold=fold, gains=gain)
    yield "reach_by_channel_in_sample", inside
    yield "reach_by_channel_held_out", outside
    parts = regions_of(places, per_axis=_PARTS)
    _, outside = explained_by_region(errors, signal, parts, fold=fold, gains=gain)
    yield "reach_by_region_held_out", outside
    alone = torch.eye(signal.shape[2], dtype=torch.float64)
    _, outside = explained_by_region(errors, signal, alone, fold=fold, gains=gain)
    yield "reach_dense_held_out", outside

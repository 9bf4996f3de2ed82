"""Spatial mean and spectrum of the error signals of convolutions (F4)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from alignlab.diagnostics._base import NotDefined, Reading, SnapshotDiagnostic, Variable
from alignlab.kernels.convolution import radial_power, spatial_mean_share
from alignlab.snapshot import Snapshot

__all__ = ["SpatialSpectrum"]


class SpatialSpectrum(SnapshotDiagnostic):
    r"""Which spatial frequencies true and approximate pre-activation signals hold.

    .. math:: \frac{P\sum_{i,k}\bar\delta_{ik}^2}{\sum_{i,k,p}\delta_{ikp}^2}, \qquad
        \bar\delta_{ik} = \frac1P\sum_p\delta_{ikp}

    is the share of the energy that is the same at all positions (``spatial_dc_fraction``), and
    ``spatial_power`` the share in every band of radial frequency, in cycles per position, of the
    discrete Fourier transform; the first band is the mean, and all sum to 1.

    How to read it: behind a pooled head the true signal is smooth, all of it constant at the top
    and less further down; what dense feedback sends is white. Where the rule's fraction lies at
    ``spatial_dc_fraction_chance`` and the true one far above, most of the rule's signal is in
    frequencies that the true one does not hold: feedback that is the same at all positions
    (``structure=channel``) puts it all into the mean.

    Expectation: 1/P for white noise.

    Undefined for layers that are no convolutions, whose positions have no grid, and for zero
    signals. Of drawn feedback nothing is given.

    Source: our derivation.

    Example:
        >>> import torch
        >>> from torch.nn import AdaptiveAvgPool1d, Conv1d, Flatten, Linear, Sequential
        >>> from torch.nn.functional import cross_entropy
        >>> from alignlab import Probe
        >>> from alignlab.rules import DFA
        >>> net = Sequential(Conv1d(2, 4, 1), AdaptiveAvgPool1d(1), Flatten(), Linear(4, 3))
        >>> with Probe(net, cross_entropy, rules=[DFA()], draws=32,
        ...            diagnostics=["spatial-spectrum"]) as probe:
        ...     found = probe.measure(torch.randn(9, 2, 16), torch.arange(9) % 3).sel(layer="0")
        >>> round(found["spatial_dc_fraction_true"].item(), 6)
        1.0
    """

    variables: ClassVar[tuple[Variable, ...]] = (
        Variable(
            "spatial_dc_fraction_true",
            ("layer",),
            "Share of the true signal's energy that is the same at all positions",
            valid=(0.0, 1.0),
        ),
        Variable(
            "spatial_dc_fraction",
            ("rule", "layer"),
            "Share of the approximate signal's energy that is the same at all positions",
            valid=(0.0, 1.0),
        ),
        Variable(
            "spatial_dc_fraction_chance",
            ("layer",),
            "That share for white noise, one over the number of positions",
            valid=(0.0, 1.0),
        ),
        Variable(
            "spatial_power_true",
            ("layer", "frequency"),
            "Share of the true signal's energy by spatial frequency",
            valid=(0.0, 1.0),
        ),
        Variable(
            "spatial_power",
            ("rule", "layer", "frequency"),
            "Share of the approximate signal's energy by spatial frequency",
            valid=(0.0, 1.0),
        ),
    )
    cost: ClassVar[float] = 1.0

    def measure(self, snapshot: Snapshot) -> Iterator[Reading | NotDefined]:
        """Yield spatial mean and spectrum of every convolution."""
        for measured in snapshot.rules:
            if measured.is_drawn:
                yield NotDefined("the feedback was drawn", measured.label)
            elif not measured.rule.has_signals:
                yield NotDefined("the rule has no error signals", measured.label)
        for layer in snapshot.layers:
            name = layer.name
            if not layer.is_convolution:
                yield NotDefined(f"it is no convolution ({layer.kind})", layer=name)
                continue
            if layer.is_output:
                yield NotDefined("it is the output layer, whose signal is exact", layer=name)
                continue
            true = snapshot.true.preactivation[name]
            yield Reading("spatial_dc_fraction_true", spatial_mean_share(true), layer=name)
            yield Reading("spatial_dc_fraction_chance", 1.0 / layer.positions, layer=name)
            yield Reading("spatial_power_true", radial_power(true), layer=name)
            for measured in snapshot.rules:
                if measured.is_drawn or not measured.rule.has_signals:
                    continue
                signal = snapshot.passes[measured.label].preactivation.get(name)
                if signal is None:
                    yield NotDefined("no signal of the rule reaches it", measured.label, name)
                    continue
                share = spatial_mean_share(signal)
                yield Reading("spatial_dc_fraction", share, measured.label, name)
                yield Reading("spatial_power", radial_power(signal), measured.label, name)

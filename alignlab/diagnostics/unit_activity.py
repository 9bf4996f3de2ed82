"""How many units of a layer get no signal at all, and so have no direction (G2)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from torch import Tensor

from alignlab.diagnostics._activations import by_unit
from alignlab.diagnostics._base import NotDefined, Reading, SnapshotDiagnostic, Variable
from alignlab.diagnostics._together import together
from alignlab.kernels.gates import silent_units
from alignlab.sites import ENTRY, Layer
from alignlab.snapshot import Snapshot

__all__ = ["UnitActivity"]

_DIMS = ("layer", "site")


class UnitActivity(SnapshotDiagnostic):
    r"""Units whose error signal is exactly zero on every sample, under the truth and a rule.

    .. math:: \#\{k : \delta_{ik} = 0 \text{ for all samples (and positions) } i\}

    Units are the features or channels of the layer (at the entry, those of the entry), of which
    there are ``units_total``. At the pre-activation such a unit's weights have no gradient.

    *Reading.* Alignments speak of the other units alone: zero entries change no cosine, and where
    most units are silent a high one says little of the layer. ``units_missed`` counts those that
    have a true signal and get none from the rule: they do not learn whatever the cosine is. Units
    that are silent under both are dead; ``gates`` tells whether a closed gate is the cause. The
    chance level by output rotation is a lower bar, the more units are silent.

    *Expectation.* 0 in a layer of smooth activations. A unit of a ReLU layer that is off with
    probability ½ on N independent samples is silent with probability :math:`2^{-N}`.

    *Undefined* for rules without error signals; where feedback was drawn for this measurement
    nothing was observed.

    Source: our derivation; the need for it is a tool that scores dead samples as aligned (TinyDFA,
    code).

    Example:
        >>> import torch
        >>> from alignlab.probe import Probe
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)
        ... )
        >>> _ = net[0].bias.data[:2].fill_(-100.0)
        >>> with Probe(
        ...     net, torch.nn.functional.cross_entropy, diagnostics=["unit-activity"], draws=32
        ... ) as probe:
        ...     ds = probe.measure(torch.randn(40, 6), torch.arange(40) % 3)
        >>> ds["silent_units_true"].sel(layer="0", site="preactivation").item() >= 2
        True
    """

    variables: ClassVar[tuple[Variable, ...]] = (
        Variable(
            "silent_units_true",
            _DIMS,
            "Units whose true error signal is zero on every sample",
            units="count",
            better="lower",
            valid=(0.0, None),
        ),
        Variable(
            "silent_units",
            ("rule", *_DIMS),
            "Units whose approximate error signal is zero on every sample",
            units="count",
            better="lower",
            valid=(0.0, None),
        ),
        Variable(
            "units_missed",
            ("rule", *_DIMS),
            "Units with a true error signal that have no approximate one on any sample",
            units="count",
            better="lower",
            valid=(0.0, None),
        ),
        Variable(
            "units_total",
            _DIMS,
            "Units of which the silent ones are counted",
            units="count",
            valid=(1.0, None),
        ),
    )
    cost: ClassVar[float] = 1.0

    def measure(self, snapshot: Snapshot) -> Iterator[Reading | NotDefined]:
        """Yield the counts of every layer and site."""
        signals: dict[tuple[str, str, str], tuple[Tensor]] = {}
        for layer in snapshot.layers:
            true = snapshot.true
            for site in snapshot.sites(layer):
                held = true.entry if site == ENTRY else true.preactivation
                signals["", layer.name, site] = (by_unit(held[layer.name], _axis(layer, site)),)
        for measured in snapshot.rules:
            because = ""
            if measured.is_drawn:
                because = (
                    "its feedback was drawn for this measurement, so that nothing was observed"
                )
            elif not measured.rule.has_signals:
                because = "the rule yields updates of parameters and no error signals"
            if because:
                yield NotDefined(because, rule=measured.label)
                continue
            found = snapshot.passes[measured.label]
            for layer in snapshot.layers:
                for site in snapshot.sites(layer):
                    signal = (found.entry if site == ENTRY else found.preactivation).get(layer.name)
                    if signal is not None:
                        place = (measured.label, layer.name, site)
                        signals[place] = (by_unit(signal, _axis(layer, site)),)
        yield from _readings(together(silent_units, signals))


def _readings(silent: dict[tuple[str, str, str], Tensor]) -> Iterator[Reading]:
    for (rule, name, site), here in silent.items():
        if not rule:
            yield Reading("silent_units_true", here.sum(), layer=name, site=site)
            yield Reading("units_total", float(here.numel()), layer=name, site=site)
            continue
        missed = here & ~silent["", name, site]
        yield Reading("silent_units", here.sum(), rule, name, site)
        yield Reading("units_missed", missed.sum(), rule, name, site)


def _axis(layer: Layer, site: str) -> int:
    """Return the axis of the units at a site, in the shape of one sample."""
    return layer.entry_channel_axis if site == ENTRY else layer.channel_axis

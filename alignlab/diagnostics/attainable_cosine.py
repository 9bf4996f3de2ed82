"""The best alignment that the next layer's weights could reach with this feedback (F1b)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from scipy import special
from torch import Tensor

from alignlab.diagnostics._base import NotDefined, Reading, SnapshotDiagnostic, Variable
from alignlab.diagnostics._feedback import at_entries
from alignlab.diagnostics._local import by_channel, local_gains
from alignlab.diagnostics._readers import n_features, readers
from alignlab.diagnostics._together import fetched
from alignlab.feedback import Feedback, project
from alignlab.kernels.attainable import Attainable, chosen_halves
from alignlab.kernels.convolution import design
from alignlab.kernels.cosines import cosine
from alignlab.rules._base import DirectRule
from alignlab.sites import ENTRY, PREACTIVATION, Layer
from alignlab.snapshot import MeasuredRule, Snapshot

__all__ = ["AttainableCosine"]

_DIMS = ("rule", "layer", "site")
_DRAWS = 8
_NOISE = 0.02
_FEWEST = 2


class AttainableCosine(SnapshotDiagnostic):
    r"""Largest flattened cosine over all weights of the layers that read an entry.

    The true signal at an entry is the transposed weight of the next layer applied to the next
    layer's own signal. With that signal as it is, which weight K would bring the true signal
    closest to the rule's?

    .. math:: \max_K \cos\big(V K^\top\delta_{l+1},\; V B_l e\big)

    with V the local backward map at the pre-activation, the identity at the entry; K is fitted
    on one half of the samples and read on the other, both ways.

    How to read it: no training of the next layer's weights alone brings the cosine at this layer
    above it. Where it is low, weights are too few for the feedback (taps times channels against
    errors times positions): feedback of a simpler structure (``structure=channel``), pooling or
    more channels lift it. Where it is high and the observed share is low, weights have not moved.
    It is no promise that training gets there. With fewer than five rows for each weight only
    the strongest directions are fitted, and it is a lower bound.

    Chance: none; it is a ceiling, from above compared with the observed cosine. With feedback
    that was drawn, the median over 8 draws, and a band of mean and spread over them.

    Undefined where a path around the next layer adds to the true signal, for grouped layers,
    at pre-activations whose local backward map mixes entries (normalisation in training mode,
    overlapping pools), for more features (taps times outputs of the next layers) than 4,096, for a
    single sample, and where the observed cosine is above it, so that too little was fitted.

    Source: our derivation. A test finds the least-squares kernel and sets it as the weight.

    Example:
        >>> from torch.nn import Conv1d, Flatten, Linear, Sequential
        >>> from torch.nn.functional import cross_entropy
        >>> from alignlab import Probe
        >>> from alignlab.rules import DFA
        >>> _ = torch.manual_seed(0)
        >>> net = Sequential(Conv1d(2, 8, 3), Conv1d(8, 2, 3), Flatten(), Linear(8, 3))
        >>> with Probe(net, cross_entropy, rules=[DFA()], draws=32,
        ...            diagnostics=["attainable-cosine"]) as probe:
        ...     found = probe.measure(torch.randn(90, 2, 8), torch.arange(90) % 3)
        >>> round(found["attainable_cosine"].sel(layer="0", site="entry").item(), 2)
        0.76
    """

    variables: ClassVar[tuple[Variable, ...]] = (
        Variable(
            "attainable_cosine",
            _DIMS,
            "Largest flattened cosine over the next layer's weights, on held-out samples",
            better="higher",
            valid=(-1.0, 1.0),
        ),
        Variable(
            "attainable_cosine_low",
            _DIMS,
            "Lower edge of the central 95% of it over draws of the feedback",
            valid=(-1.0, 1.0),
        ),
        Variable(
            "attainable_cosine_high",
            _DIMS,
            "Upper edge of the central 95% of it over draws of the feedback",
            valid=(-1.0, 1.0),
        ),
        Variable(
            "attainable_share",
            _DIMS,
            "Flattened cosine over the attainable one",
            better="higher",
        ),
    )
    cost: ClassVar[float] = 11.0

    def measure(self, snapshot: Snapshot) -> Iterator[Reading | NotDefined]:
        """Yield ceilings of every hidden layer under every direct rule."""
        rules = [m for m in snapshot.rules if _enters_everywhere(m)]
        for measured in snapshot.rules:
            if measured not in rules:
                yield NotDefined(
                    "it does not send an error directly to every layer", measured.label
                )
        if not rules:
            yield NotDefined("no rule is measured that sends an error directly to every layer")
            return
        yield from (
            NotDefined("an output layer has its true error", layer=layer.name)
            for layer in snapshot.capture.layout.outputs
        )
        if snapshot.capture.n_samples < _FEWEST:
            yield NotDefined("one sample has no half to be fitted on")
            return
        by_entry, because = readers(snapshot)
        found: list[_Found] = []
        fits: dict[str, _Fits] = {}
        targets = {m.label: _drawn(snapshot, m) for m in rules}
        for number, layer in enumerate(snapshot.hidden):
            snapshot.progress("attainable alignment", number + 1, len(snapshot.hidden))
            if layer.name in because:
                yield NotDefined(because[layer.name], layer=layer.name)
                continue
            if layer.consumer not in fits:
                fits = {layer.consumer: _fitted(snapshot, layer, by_entry[layer.name])}
            by_site = _sites(snapshot, layer, fits[layer.consumer])
            if isinstance(by_site[PREACTIVATION], str):
                where = f"at the pre-activation {by_site[PREACTIVATION]}"
                yield NotDefined(where, layer=layer.name)
            found += _of_layer(snapshot, layer, fits[layer.consumer], by_site, rules, targets)
        yield from _readings(found)


@dataclass(frozen=True)
class _Fits:
    """What is fitted at an entry: the samples of both halves, and the fit to their features."""

    halves: tuple[Tensor, Tensor]
    entry: Attainable
    n_features: int


@dataclass(frozen=True)
class _Found:
    """The ceilings of one place over draws, and what was observed there."""

    place: Mapping[str, str]
    is_drawn: bool
    ceilings: Tensor
    observed: Tensor


def _enters_everywhere(measured: MeasuredRule) -> bool:
    rule = measured.rule
    return isinstance(rule, DirectRule) and getattr(rule, "granularity", "") == "micro"


def _drawn(snapshot: Snapshot, measured: MeasuredRule) -> list[Mapping[str, Feedback]]:
    """Return the feedback by layer: that of the rule, or of several draws."""
    drawn = snapshot.redrawn(measured, _DRAWS) if measured.is_drawn else [measured]
    return [dict(at_entries(snapshot, each.feedback)) for each in drawn]


def _fitted(snapshot: Snapshot, layer: Layer, own: Sequence[Layer]) -> _Fits:
    capture = snapshot.capture
    count = sum(n_features(snapshot, reader) for reader in own)
    places = layer.entry_width // layer.entry_shape[layer.entry_channel_axis]
    halves = chosen_halves(snapshot.fold, count, places)
    features = []
    for half in halves:
        parts = []
        for reader in own:
            signal = snapshot.true.preactivation[reader.name][half.to(snapshot.error.device)]
            shape = torch.Size((len(half), *capture.input_of(reader).shape[1:]))
            parts.append(design(capture.module_of(reader), signal, shape))
        features.append(parts[0] if len(parts) == 1 else torch.cat(parts, 1))
    return _Fits(halves, Attainable((features[0], features[1])), count)


def _sites(snapshot: Snapshot, layer: Layer, fits: _Fits) -> dict[str, Attainable | str]:
    """Return the fit at each site, or why there is none."""
    gains = snapshot.shared(local_gains)[layer.name]
    if isinstance(gains, str):
        return {ENTRY: fits.entry, PREACTIVATION: gains}
    channels = layer.entry_shape[layer.entry_channel_axis]
    rows = min(map(len, fits.halves)) * layer.entry_width // channels
    if not Attainable.is_affordable(fits.n_features, channels, rows):
        return {ENTRY: fits.entry, PREACTIVATION: "its channels and features are too many to fit"}
    return {ENTRY: fits.entry, PREACTIVATION: fits.entry.gated(_cut(gains, layer, fits.halves))}


def _cut(signal: Tensor, layer: Layer, halves: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return an entry-shaped tensor of both halves as ``(n_samples, n_channels, n_places)``."""
    whole = by_channel(signal, layer)
    first, second = (whole[half.to(signal.device)] for half in halves)
    return first, second


def _of_layer(
    snapshot: Snapshot,
    layer: Layer,
    fits: _Fits,
    by_site: Mapping[str, Attainable | str],
    rules: Sequence[MeasuredRule],
    feedback: Mapping[str, Sequence[Mapping[str, Feedback]]],
) -> Iterator[_Found]:
    for measured in rules:
        rule = measured.rule
        assert isinstance(rule, DirectRule)
        sent = rule.sent(snapshot.error, snapshot.y)
        targets = []
        for drawn in feedback[measured.label]:
            signal = project(sent, drawn[layer.name], (len(sent), *layer.entry_shape))
            targets.append(_cut(signal, layer, fits.halves))
        for site, fit in by_site.items():
            if isinstance(fit, Attainable):
                place = {"rule": measured.label, "layer": layer.name, "site": site}
                observed = _observed(snapshot, layer, measured, site)
                yield _Found(place, measured.is_drawn, fit.cosines(targets), observed)


def _observed(snapshot: Snapshot, layer: Layer, measured: MeasuredRule, site: str) -> Tensor:
    """Return the flattened cosine; minus infinity for drawn feedback, which shows nothing."""
    if measured.is_drawn:
        return torch.tensor(-torch.inf)
    true = snapshot.view(layer, snapshot.true).site(site)
    signal = snapshot.view(layer, snapshot.passes[measured.label]).site(site)
    assert true is not None
    assert signal is not None
    return cosine(true.flatten(), signal.flatten())


def _readings(found: Sequence[_Found]) -> Iterator[Reading | NotDefined]:
    values = fetched([each for one in found for each in (one.ceilings, one.observed)])
    for one, ceilings, observed in zip(found, values[::2], values[1::2], strict=True):
        median = float(np.median(ceilings))
        rule, layer, site = one.place["rule"], one.place["layer"], one.place["site"]
        if not np.isfinite(ceilings).all():
            yield NotDefined(f"at the {site} a signal is zero", rule, layer)
        elif observed > median + _NOISE:
            yield NotDefined(f"at the {site} the observed cosine is above the fit", rule, layer)
        else:
            yield Reading("attainable_cosine", median, **one.place)
            if one.is_drawn:
                low, high = _band(ceilings)
                yield Reading("attainable_cosine_low", low, **one.place)
                yield Reading("attainable_cosine_high", high, **one.place)
            elif observed <= median and median > 0:
                yield Reading("attainable_share", float(observed) / median, **one.place)


def _band(values: np.ndarray) -> tuple[float, float]:
    """Return the central 95% of a further draw, by Student's t."""
    n = values.size
    half = float(special.stdtrit(n - 1, 0.975)) * values.std(ddof=1) * (1.0 + 1.0 / n) ** 0.5
    centre = float(values.mean())
    return max(-1.0, centre - half), min(1.0, centre + half)

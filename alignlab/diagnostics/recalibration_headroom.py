"""How much better a linear map after a rule's signal would make it (E4)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from alignlab.diagnostics._base import NotDefined, Reading, SnapshotDiagnostic, Variable
from alignlab.feedback import generator
from alignlab.kernels.cosines import cosine, flat, wide
from alignlab.kernels.recalibration import inner_products, recalibrated
from alignlab.rules._base import ReplacedWeightRule
from alignlab.snapshot import MeasuredRule, Snapshot

if TYPE_CHECKING:
    from alignlab.sites import Layer

__all__ = ["RecalibrationHeadroom"]

_DIMS = ("rule", "layer")

PERMUTATIONS = 4
"""Permutations of the samples over which the chance level is averaged."""

FEWEST = 4
"""Samples below which there is nothing to fit on one half and to score on the other."""

MOST = 512
"""Samples that are used; work grows with their third power."""


class RecalibrationHeadroom(SnapshotDiagnostic):
    r"""Share of the true signal that a linear map of the rule's signal gives, less what it has.

    .. math:: h_l = R^2(\Delta_l \mid \hat\Delta_l) - \max(c_l, 0)^2,

    :math:`R^2` the share of the true entry signal that ridge regression on the rule's signal
    explains on the half of the samples that it was not fitted on, both ways averaged, its penalty
    by generalised cross-validation on the other half; :math:`c_l` the flattened cosine. A cosine
    below zero counts as nothing, for a map may turn the sign. Under a rule with other backward
    weights (feedback alignment, sign-symmetry) the regressor is the signal at the
    pre-activation of the layer that reads the entry, after its gate, to which those weights are
    applied: recalibrating replaces them. Where a shortcut also reads the entry, and under all
    other rules, it is the rule's signal at the entry itself.

    Reading: large, the information about the truth is in the signal but linearly scrambled, and
    a calibrated map (other backward weights, a corrected transfer matrix of an analog device)
    brings it back; near zero with a low cosine, it is lost before, and no map helps. With
    more directions in the regressor than samples in a half the share is biased down and the
    headroom can fall below zero even under backpropagation: measure more samples, of which the
    first 256 of each half are used.

    Chance: ``recalibration_reach_chance``, the mean share over 4 permutations of the samples of
    the truth; above 0 where both signals have a common mean.

    Undefined under a rule without error signals, with feedback that was drawn for the
    analysis (nothing is observed), for fewer than 4 samples, and for signals that are zero.

    Source: our derivation; generalised cross-validation of Golub, Heath & Wahba 1979.

    Example:
        >>> from alignlab.probe import Probe
        >>> from alignlab.rules import DFA
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 3))
        >>> loss, names = torch.nn.functional.cross_entropy, ["recalibration-headroom"]
        >>> with Probe(net, loss, rules=[DFA(seed=0)], diagnostics=names, draws=32) as probe:
        ...     recording = probe.measure(torch.randn(60, 4), torch.arange(60) % 3)
        >>> round(recording["recalibration_reach"].sel(layer="0").item(), 4)
        1.0
    """

    variables: ClassVar[tuple[Variable, ...]] = (
        Variable(
            "recalibration_reach",
            _DIMS,
            "Share of the true entry signal that a linear map of the rule's gives, held out",
            better="higher",
            valid=(None, 1.0),
        ),
        Variable(
            "recalibration_reach_chance",
            _DIMS,
            "That share for true signals that are permuted among the samples, on average",
            valid=(None, 1.0),
        ),
        Variable(
            "recalibration_headroom",
            _DIMS,
            "That share less the squared flattened cosine that the rule has",
            valid=(None, 1.0),
        ),
    )
    cost: ClassVar[float] = 1.0

    def measure(self, snapshot: Snapshot) -> Iterator[Reading | NotDefined]:
        """Yield share, chance level and headroom of every rule and hidden layer."""
        if snapshot.capture.n_samples < FEWEST:
            for layer in snapshot.hidden:
                yield NotDefined(f"there are fewer than {FEWEST} samples", layer=layer.name)
            return
        judged = {measured.label: _why_not(measured) for measured in snapshot.rules}
        for label, because in judged.items():
            for layer in snapshot.hidden if because else ():
                yield NotDefined(because, label, layer.name)
        chosen, split = _first(snapshot.fold)
        chosen = chosen.to(snapshot.error.device)
        rules = [measured for measured in snapshot.rules if not judged[measured.label]]
        for number, layer in enumerate(snapshot.hidden if rules else ()):
            snapshot.progress("recalibration", number + 1, len(snapshot.hidden))
            truth = inner_products(_used(snapshot.true.entry[layer.name], chosen))
            orders = _permuted(truth, snapshot)
            for measured in rules:
                signals = _signals(snapshot, measured, layer)
                if signals is None:
                    yield NotDefined("it yields no signal there", measured.label, layer.name)
                    continue
                features = inner_products(_used(signals[1], chosen))
                shares = recalibrated(features, orders, split=split)
                place = (measured.label, layer.name)
                yield Reading("recalibration_reach", shares[0], *place)
                yield Reading("recalibration_reach_chance", shares[1:].mean(), *place)
                true = snapshot.true.entry[layer.name].flatten()
                had = cosine(true, signals[0].flatten()).clamp_min(0.0).square()
                yield Reading("recalibration_headroom", shares[0] - had, *place)


def _why_not(measured: MeasuredRule) -> str:
    if not measured.rule.has_signals:
        return "it yields updates alone"
    return "its feedback was drawn, so that nothing is observed" if measured.is_drawn else ""


def _signals(
    snapshot: Snapshot, measured: MeasuredRule, layer: Layer
) -> tuple[Tensor, Tensor] | None:
    """Return a rule's signal at an entry and what is to be recalibrated."""
    own = snapshot.passes[measured.label].entry.get(layer.name)
    if own is None:
        return None
    if isinstance(measured.rule, ReplacedWeightRule):
        return own, _incoming(snapshot, layer, measured, otherwise=own)
    return own, own


def _incoming(
    snapshot: Snapshot, layer: Layer, measured: MeasuredRule, *, otherwise: Tensor
) -> Tensor:
    """Return the signal to which the backward weights that lead to an entry are applied."""
    layout = snapshot.capture.layout
    signals = snapshot.passes[measured.label].preactivation
    readers = layout.consumers_of(layer)
    if len(readers) > 1 or not layout.has_one_reader(layer):
        return otherwise
    return signals.get(readers[0].name, otherwise)


def _first(fold: Tensor) -> tuple[Tensor, int]:
    """Return which samples are used, the first half's first, and how many these are."""
    half = len(fold) // 2
    order = torch.argsort(fold.int(), descending=True, stable=True)
    split = min(half, MOST // 2)
    return torch.cat([order[:split], order[half:][: MOST // 2]]), split


def _used(signal: Tensor, chosen: Tensor) -> Tensor:
    return flat(signal).index_select(0, chosen)


def _permuted(products: Tensor, snapshot: Snapshot) -> Tensor:
    """Return inner products of samples as they are and permuted, on a new first axis."""
    stream = generator(snapshot.seed, "permuted samples")
    found = [wide(products)]
    for _ in range(PERMUTATIONS):
        order = torch.randperm(len(products), generator=stream).to(products.device)
        found.append(found[0].index_select(0, order).index_select(1, order))
    return torch.stack(found)

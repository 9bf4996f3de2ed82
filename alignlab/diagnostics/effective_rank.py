"""Effective dimensions of errors, signals, activations and weight gradients (E5, E6)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar, NamedTuple

from torch import Tensor

from alignlab.diagnostics._base import NotDefined, Reading, SnapshotDiagnostic, Variable
from alignlab.diagnostics._feedback import at_entries
from alignlab.diagnostics._together import together
from alignlab.feedback import project
from alignlab.kernels.ranks import (
    entropy_rank,
    isotropic_participation_ratio,
    participation_ratio,
    relative_energies,
    scaled_grams,
    spectral_rank,
    stable_rank,
)
from alignlab.layer_view import LayerView
from alignlab.rules._base import DirectRule
from alignlab.sites import ENTRY, SITES
from alignlab.snapshot import MeasuredRule, Snapshot

__all__ = ["EffectiveRank"]

_MEASURES = {
    "participation_ratio": ("Participation ratio", "Gao et al. 2017"),
    "participation_ratio_centred": ("Participation ratio about the mean", "Gao et al. 2017"),
    "entropy_rank": ("Entropy rank", "Roy & Vetterli 2007 (of energies here)"),
    "stable_rank": ("Stable rank", "Rudelson & Vershynin 2007"),
}
_OBJECTS = {
    "error": ((), "of the error"),
    "true_signal": (("layer", "site"), "of the true error signal"),
    "signal": (("rule", "layer", "site"), "of the approximate error signal"),
    "activation": (("layer",), "of the layer's input"),
    "true_weight_gradient": (("layer",), "of the true weight gradient"),
    "weight_gradient": (("rule", "layer"), "of the approximate weight gradient"),
}
_WITH_CHANCE = ("error", "true_signal", "activation", "true_weight_gradient")
_SENT, _FORMED = "sent", "formed"
"""Matrices of which only the rank is recorded: what a rule sends, and its signal in float64."""


class Place(NamedTuple):
    """Which matrix it is: what it holds, and where in the recording it belongs."""

    what: str
    rule: str = ""
    layer: str = ""
    site: str = ""


def _declared() -> Iterator[Variable]:
    for name, (dims, phrase) in _OBJECTS.items():
        for measure, (title, source) in _MEASURES.items():
            yield Variable(
                f"{measure}_{name}", dims, f"{title} {phrase}", source=source, valid=(0.0, None)
            )
    for name in _WITH_CHANCE:
        dims, phrase = _OBJECTS[name]
        yield Variable(
            f"participation_ratio_{name}_chance",
            dims,
            f"Participation ratio of isotropic noise of the shape {phrase}",
            valid=(1.0, None),
        )


class EffectiveRank(SnapshotDiagnostic):
    r"""In how many dimensions errors, signals, activations and gradients live.

    Of the eigenvalues :math:`\lambda` of :math:`X^\top X`, X a matrix of samples (or a weight
    gradient with its units as rows): the participation ratio
    :math:`(\sum\lambda)^2/\sum\lambda^2`, also about the mean over samples, the entropy rank
    :math:`\exp H(\lambda/\sum\lambda)` and the stable rank :math:`\sum\lambda/\lambda_1`.

    Direct feedback sends what the error holds: :math:`\operatorname{rank}\hat\Delta_l \le
    \operatorname{rank} E \le C` at the entry, one less with a softmax, whatever the width; linear
    layers pass that on to the weight gradient, gates lift it. ``signal_rank_bound`` is that
    bound, ``true_signal_outside_top`` the share of the true signal's energy outside its C
    strongest directions: what no such signal can have.

    Reading: a rule's participation ratio far below that of the true signal is rank collapse. It
    is read against chance and not against the width, for a batch has no more directions than
    samples.

    Chance: :math:`(Nn + 2)/(N + n + 1)`, the participation ratio of isotropic noise of the same
    shape (N x n); that of an approximate signal or gradient is that of the true one. The
    other measures of noise lie above it.

    Undefined for matrices that are zero, and of rules whose feedback was drawn for the analysis;
    signals also of rules that yield updates alone.

    Example:
        >>> import torch
        >>> from alignlab.probe import Probe
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 3))
        >>> loss = torch.nn.functional.cross_entropy
        >>> with Probe(net, loss, diagnostics=["effective-rank"], draws=32) as probe:
        ...     recording = probe.measure(torch.randn(60, 4), torch.arange(60) % 3)
        >>> recording["error_rank"].item()
        2.0
    """

    variables: ClassVar[tuple[Variable, ...]] = (
        *_declared(),
        Variable("error_rank", (), "Numerical rank of the errors of the batch", valid=(0.0, None)),
        Variable(
            "signal_rank",
            ("rule", "layer"),
            "Numerical rank of the approximate signal at the entry",
            valid=(0.0, None),
        ),
        Variable(
            "signal_rank_bound",
            ("rule", "layer"),
            "Largest rank that direct feedback of what is sent can have at the entry",
            source="algebra",
            valid=(0.0, None),
        ),
        Variable(
            "true_signal_outside_top",
            ("layer",),
            "Share of the true entry signal's energy outside as many directions as outputs",
            better="lower",
            valid=(0.0, 1.0),
        ),
    )
    cost: ClassVar[float] = 2.7

    def measure(self, snapshot: Snapshot) -> Iterator[Reading | NotDefined]:
        """Yield the effective dimensions of everything that is at hand."""
        for measured in snapshot.rules:
            yield from _silent(snapshot, measured)
        plain: dict[Place, tuple[Tensor]] = {}
        centred: dict[Place, tuple[Tensor]] = {}
        for place, matrix in _matrices(snapshot):
            yield from _chance(place, matrix)
            gram, about_mean = scaled_grams(matrix)
            plain[place] = (gram,)
            if place.what in _OBJECTS:
                centred[place] = (about_mean,)
        spectra = together(relative_energies, plain)
        spread = together(relative_energies, centred)
        yield Reading("error_rank", spectral_rank(spectra[Place("error")]))
        for place, values in spread.items():
            yield from _dimensions(place, spectra[place], values)
        yield from _ranks(snapshot, spectra)


def _matrices(snapshot: Snapshot) -> Iterator[tuple[Place, Tensor]]:
    """Yield everything that is measured, one after the other."""
    yield Place("error"), snapshot.exact_error
    yield from _true(snapshot)
    for measured in snapshot.rules:
        yield from _of_rule(snapshot, measured)


def _true(snapshot: Snapshot) -> Iterator[tuple[Place, Tensor]]:
    for layer in snapshot.layers:
        x = snapshot.capture.input_of(layer)
        yield Place("activation", layer=layer.name), x.flatten(1)
        yield from _of_view("true_", snapshot.view(layer, snapshot.true), rule="")


def _of_rule(snapshot: Snapshot, measured: MeasuredRule) -> Iterator[tuple[Place, Tensor]]:
    if measured.is_drawn:
        return
    updates, rule = snapshot.passes[measured.label], measured.rule
    for layer in snapshot.hidden if rule.has_signals else snapshot.compared(measured):
        yield from _of_view("", snapshot.view(layer, updates), rule=measured.label)
    if isinstance(rule, DirectRule):
        # Of float32 signals the rounding alone would fill all directions.
        sent = rule.sent(snapshot.exact_error, snapshot.y)
        yield Place(_SENT, measured.label), sent.flatten(1)
        feedback = at_entries(snapshot, measured.feedback)
        for layer in snapshot.hidden:
            if layer.name in feedback:
                shape = (len(sent), *layer.entry_shape)
                formed = project(sent, feedback[layer.name], shape)
                yield Place(_FORMED, measured.label, layer.name), formed.flatten(1)


def _of_view(prefix: str, view: LayerView, *, rule: str) -> Iterator[tuple[Place, Tensor]]:
    name = view.layer.name
    for site in SITES:
        rows = view.site(site)
        if rows is not None:
            yield Place(f"{prefix}signal", rule, name, site), rows
    weight = view.gradients[0]
    if weight is not None:
        yield Place(f"{prefix}weight_gradient", rule, name), weight.flatten(1)


def _silent(snapshot: Snapshot, measured: MeasuredRule) -> Iterator[NotDefined]:
    """Yield why a rule's own signals are not measured."""
    because = "" if measured.rule.has_signals else "it yields updates alone and no signals"
    if measured.is_drawn:
        because = "its feedback was drawn, so that its signals are nothing observed"
    for layer in snapshot.hidden if because else ():
        yield NotDefined(because, measured.label, layer.name)


def _chance(place: Place, matrix: Tensor) -> Iterator[Reading]:
    if place.what in _WITH_CHANCE:
        value = isotropic_participation_ratio(*matrix.shape)
        yield Reading(f"participation_ratio_{place.what}_chance", value, *place[1:])


def _dimensions(place: Place, plain: Tensor, centred: Tensor) -> Iterator[Reading]:
    found = {
        "participation_ratio": participation_ratio(plain),
        "participation_ratio_centred": participation_ratio(centred),
        "entropy_rank": entropy_rank(plain),
        "stable_rank": stable_rank(plain),
    }
    for measure, value in found.items():
        yield Reading(f"{measure}_{place.what}", value, *place[1:])


def _ranks(snapshot: Snapshot, spectra: Mapping[Place, Tensor]) -> Iterator[Reading]:
    """Yield ranks of entry signals, their bounds, and what of the truth lies beyond them."""
    widths = {layer.name: layer.entry_width for layer in snapshot.hidden}
    for place, values in spectra.items():
        if place.what == "true_signal" and place.site == ENTRY:
            outside = values[snapshot.capture.n_errors :].sum() / values.sum()
            yield Reading("true_signal_outside_top", outside, layer=place.layer)
        is_formed = Place(_FORMED, place.rule, place.layer) in spectra
        if place.what == _FORMED or (
            place.what == "signal" and place.site == ENTRY and not is_formed
        ):
            yield Reading("signal_rank", spectral_rank(values), place.rule, place.layer)
        if place.what == _FORMED:
            sent = spectral_rank(spectra[Place(_SENT, place.rule)])
            bound = sent.clamp_max(float(widths[place.layer]))
            yield Reading("signal_rank_bound", bound, place.rule, place.layer)

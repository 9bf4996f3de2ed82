"""Effective dimensions of errors, signals, activations and weight gradients (E5, E6)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from torch import Tensor

from alignlab.diagnostics._base import Reading, SnapshotDiagnostic, Variable
from alignlab.diagnostics._feedback import at_entries
from alignlab.feedback import project
from alignlab.kernels.cosines import wide
from alignlab.kernels.ranks import (
    energies,
    entropy_rank,
    isotropic_participation_ratio,
    numerical_rank,
    participation_ratio,
    stable_rank,
)
from alignlab.layer_view import LayerView
from alignlab.rules._base import DirectRule
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


def _declared() -> tuple[Variable, ...]:
    return tuple(
        Variable(f"{measure}_{name}", dims, f"{title} {phrase}", source=source, valid=(0.0, None))
        for name, (dims, phrase) in _OBJECTS.items()
        for measure, (title, source) in _MEASURES.items()
    )


class EffectiveRank(SnapshotDiagnostic):
    """In how many dimensions errors and signals live, and what of the truth that leaves out."""

    variables: ClassVar[tuple[Variable, ...]] = (
        *_declared(),
        Variable(
            "participation_ratio_true_signal_chance",
            ("layer", "site"),
            "Participation ratio of isotropic noise of the same shape",
            valid=(1.0, None),
        ),
        Variable("error_rank", (), "Numerical rank of the errors of the batch", valid=(0.0, None)),
        Variable(
            "signal_rank",
            ("rule", "layer"),
            "Numerical rank of the approximate signal at the entry",
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
    cost: ClassVar[float] = 0.5

    def measure(self, snapshot: Snapshot) -> Iterator[Reading]:
        """Yield the effective dimensions of everything that is at hand."""
        error = snapshot.exact_error
        yield Reading("error_rank", numerical_rank(error))
        yield from _of("error", error)
        for layer in snapshot.layers:
            view = snapshot.view(layer, snapshot.true)
            name = layer.name
            x = snapshot.capture.input_of(layer)
            yield from _placed("activation", x.reshape(x.shape[0], -1), layer=name)
            yield from _of_view("true_signal", "true_weight_gradient", view, layer=name)
            if layer.is_output:
                continue
            yield from _chance(view)
            entry = view.site("entry")
            assert entry is not None
            spectrum = energies(entry, centred=False)
            outside = spectrum[snapshot.capture.n_errors :].sum() / spectrum.sum()
            yield Reading("true_signal_outside_top", outside, layer=name)
        for measured in snapshot.rules:
            if measured.is_drawn:
                continue
            for layer in snapshot.hidden if measured.rule.has_signals else ():
                view = snapshot.view(layer, snapshot.passes[measured.label])
                place = {"rule": measured.label, "layer": layer.name}
                yield from _of_view("signal", "weight_gradient", view, **place)
                entry = view.site("entry")
                if entry is not None:
                    rank = _signal_rank(snapshot, measured, view, entry)
                    yield Reading("signal_rank", rank, **place)


def _signal_rank(
    snapshot: Snapshot, measured: MeasuredRule, view: LayerView, entry: Tensor
) -> Tensor:
    """Return the rank of the entry signal, of direct rules formed again in float64."""
    feedback = at_entries(snapshot, measured.feedback).get(view.layer.name)
    if isinstance(measured.rule, DirectRule) and feedback is not None:
        sent = measured.rule.sent(snapshot.exact_error, snapshot.y)
        entry = project(sent, feedback, entry.shape)
    return numerical_rank(entry)


def _of_view(signal: str, gradient: str, view: LayerView, **place: str) -> Iterator[Reading]:
    for site in ("entry", "preactivation"):
        rows = view.site(site)
        if rows is not None:
            yield from _placed(signal, rows, site=site, **place)
    weight = view.gradients[0]
    if weight is not None:
        yield from _placed(gradient, weight.reshape(weight.shape[0], -1), **place)


def _chance(view: LayerView) -> Iterator[Reading]:
    for site in ("entry", "preactivation"):
        rows = view.site(site)
        assert rows is not None
        value = isotropic_participation_ratio(*rows.shape)
        name = "participation_ratio_true_signal_chance"
        yield Reading(name, value, layer=view.layer.name, site=site)


def _placed(name: str, rows: Tensor, **place: str) -> Iterator[Reading]:
    for reading in _of(name, rows):
        yield Reading(reading.name, reading.value, **place)


def _of(name: str, rows: Tensor) -> Iterator[Reading]:
    rows = wide(rows)
    plain = energies(rows, centred=False)
    centred = energies(rows, centred=True)
    yield Reading(f"participation_ratio_{name}", participation_ratio(plain))
    yield Reading(f"participation_ratio_centred_{name}", participation_ratio(centred))
    yield Reading(f"entropy_rank_{name}", entropy_rank(plain))
    yield Reading(f"stable_rank_{name}", stable_rank(plain))

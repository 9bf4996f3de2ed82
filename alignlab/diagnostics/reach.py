"""How much of the true error signal some fixed feedback could give, now and later (E1, E3)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from alignlab.diagnostics._base import NotDefined, Reading, SnapshotDiagnostic, Variable
from alignlab.diagnostics._feedback import error_space
from alignlab.diagnostics._local import gains_of, local_gains
from alignlab.kernels.cosines import flat, wide
from alignlab.kernels.regression import (
    explained_elsewhere,
    explained_held_out,
    explained_in_sample,
)
from alignlab.sites import ENTRY, PREACTIVATION
from alignlab.snapshot import Snapshot

if TYPE_CHECKING:
    from alignlab.engine.updates import Updates
    from alignlab.sites import Layer

__all__ = ["Reach"]

_DIMS = ("layer", "site")

SAMPLES_PER_DIRECTION = 20
"""Samples for every direction of the error below which the two ends say nothing."""


class Reach(SnapshotDiagnostic):
    r"""Share of the true signal that some fixed feedback of the error gives: a bracket.

    With errors E and true signals :math:`\Delta_l`,

    .. math:: R_l^2 = \max_B \Big(1 - \frac{\|\Delta_l - E B^\top\|^2}{\|\Delta_l\|^2}\Big)
        = \frac{\|P_E \Delta_l\|^2}{\|\Delta_l\|^2}.

    No fixed feedback has a flattened cosine above the root of it; of the mean over samples of
    their cosines it is no ceiling. At the entry B is fitted by least squares, at the
    pre-activation through the local backward map, as the rule's signal passes it, so that each
    site's reach stands beside that site's cosine.

    Reading: in sample it is biased up, held out (fitted on one half of the samples, scored on the
    other, both ways averaged) biased down; the truth lies between. Near 1 as in linear networks
    and below the readout, feedback could work and it is for the weights to move; where both ends
    are low no B can do it: change the architecture, or let the feedback depend on the state.
    A bracket that is wide needs more samples.

    ``reach_horizon`` tells whether one B can serve a whole run: B is fitted to errors and
    signals at an earlier state on one half of the samples and sends the present errors of the
    other. It is :math:`c|c|` with c the cosine that this B has now, at its best scale; compare it
    with ``reach_held_out``.

    Chance: for signals unrelated to the error r/N in sample, with r the directions of the error
    and N the samples, and about -2r/N held out; c of the horizon has mean 0.

    Undefined for fewer than 20 samples per direction of the error (the horizon also for the
    error of then), for a signal that is zero, and at pre-activations whose local backward map
    mixes units or samples (normalisation in training mode, overlapping pools), has no second
    derivative, or is not the only way.

    Source: our derivation.

    Example:
        >>> from alignlab.probe import Probe
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 3))
        >>> loss = torch.nn.functional.cross_entropy
        >>> with Probe(net, loss, diagnostics=["reach"], draws=32) as probe:
        ...     recording = probe.measure(torch.randn(60, 4), torch.arange(60) % 3)
        >>> round(recording["reach_in_sample"].sel(layer="0", site="entry").item(), 6)
        1.0
    """

    variables: ClassVar[tuple[Variable, ...]] = (
        Variable(
            "reach_in_sample",
            _DIMS,
            "Share of the true signal that fixed feedback can give, fitted on these samples",
            better="higher",
            valid=(0.0, 1.0),
        ),
        Variable(
            "reach_held_out",
            _DIMS,
            "That share on samples that the fit has not seen",
            better="higher",
            valid=(None, 1.0),
        ),
        Variable(
            "reach_horizon",
            (*_DIMS, "earlier"),
            "Squared cosine now, with its sign, of feedback that was fitted at an earlier state",
            better="higher",
            valid=(-1.0, 1.0),
        ),
    )
    cost: ClassVar[float] = 5.0

    def measure(self, snapshot: Snapshot) -> Iterator[Reading | NotDefined]:
        """Yield both ends of the bracket, and what feedback of earlier states has left."""
        errors = wide(snapshot.exact_error)
        errors = errors @ error_space(errors)
        because = _too_few(errors)
        if because:
            for layer in snapshot.hidden:
                yield NotDefined(because, layer=layer.name)
            return
        fold = snapshot.fold.to(errors.device)
        gains = snapshot.shared(local_gains)
        horizons = {label: _horizon(snapshot, label, fold) for label in snapshot.earlier}
        for layer in snapshot.hidden:
            if isinstance(gains[layer.name], str):
                yield NotDefined(f"at its pre-activation {gains[layer.name]}", layer=layer.name)
            for label, each in horizons.items():
                if isinstance(each, str):
                    yield NotDefined(f"at {label!r} {each}", layer=layer.name)
            for site, signal, gain in _places(layer, snapshot.true, gains):
                inside = explained_in_sample(errors, signal, gains=gain)
                outside = explained_held_out(errors, signal, fold, gains=gain)
                yield Reading("reach_in_sample", inside, layer=layer.name, site=site)
                yield Reading("reach_held_out", outside, layer=layer.name, site=site)
                if horizons:
                    nothing = torch.full_like(inside, torch.nan)
                    then = [
                        nothing if isinstance(each, str) else each.get((layer.name, site), nothing)
                        for each in horizons.values()
                    ]
                    yield Reading("reach_horizon", torch.stack(then), layer=layer.name, site=site)


def _too_few(errors: Tensor) -> str:
    """Return why errors in their own space cannot be fitted, empty where they can."""
    n_samples, directions = errors.shape
    if not directions:
        return "the errors are zero"
    if directions * SAMPLES_PER_DIRECTION > n_samples:
        return (
            f"the errors have {directions} directions and {n_samples} samples, fewer than "
            f"{SAMPLES_PER_DIRECTION} for each; measure more samples"
        )
    return ""


def _places(
    layer: Layer, true: Updates, gains: Mapping[str, Tensor | str]
) -> Iterator[tuple[str, Tensor, Tensor | None]]:
    """Yield the sites of a layer, its true signal at the entry and the squared gains."""
    signal = flat(true.entry[layer.name])
    yield ENTRY, signal, None
    local = gains[layer.name]
    if isinstance(local, Tensor):
        yield PREACTIVATION, signal, flat(local)


def _horizon(snapshot: Snapshot, label: str, fold: Tensor) -> dict[tuple[str, str], Tensor] | str:
    """Return by layer and site the scores of feedback of an earlier state, or why there is none."""
    found = {}
    now = snapshot.shared(local_gains)
    with snapshot.at(label) as capture:
        true, then = capture.reference(), gains_of(capture)
        errors = wide(capture.layout.joined(true.preactivation).flatten(1))
        basis = error_space(errors)
        because = _too_few(errors @ basis)
        if because:
            return because
        fitted, shown = errors @ basis, wide(snapshot.exact_error) @ basis
        for layer in snapshot.hidden:
            if layer.name not in true.entry:
                continue
            present = {
                site: (shown, signal, gain)
                for site, signal, gain in _places(layer, snapshot.true, now)
            }
            for site, signal, gain in _places(layer, true, then):
                if site in present:
                    found[layer.name, site] = explained_elsewhere(
                        (fitted, signal, gain), present[site], fold
                    )
    return found

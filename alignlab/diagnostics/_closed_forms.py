r"""First-order chance levels of direct feedback, from few redraws.

By chance a product with the true signal is :math:`\langle B, T^\top E\rangle`: its standard
deviation is :math:`\sigma_B\|T^\top E\|_F`, and redraws are needed only for what it is divided by
and for how much that varies. E is what is sent, the error unless a rule says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from alignlab.diagnostics._base import Adjoint, AlignmentDiagnostic, Key
from alignlab.diagnostics._chance import largest_spread
from alignlab.diagnostics._null_views import direct_views
from alignlab.diagnostics._together import fetched
from alignlab.errors import MeasurementError
from alignlab.feedback import generator
from alignlab.kernels.cosines import wide
from alignlab.kernels.halfspaces import positive_shares
from alignlab.layer_view import LayerView, LocalMap
from alignlab.rules._base import DirectRule
from alignlab.rules._drawn import DrawnFeedback
from alignlab.snapshot import MeasuredRule, Snapshot

__all__ = ["Null", "Place", "closed_forms", "spread"]

STAGES = (4, 8, 16)
"""Redraws after which norms are looked at; what has not concentrated by then has no closed form."""

RATE_DRAWS = 1000
"""Draws of the signs of all samples for the chance level of a share of samples."""

_LARGEST_PRODUCT = 2**24
"""Entries of a product of two signals above which only Gram matrices of the samples are formed."""

_FEW_UNITS = 1024

Place = tuple[int, str, Key]
"""Number of a diagnostic, name of a layer, statistic."""

Views = Mapping[str, LayerView]


@dataclass(frozen=True)
class Null:
    """What is known of a statistic by chance.

    Attributes:
        concentration: Relative spread of what it is divided by.
        draws: Values under redraws; empty where the closed form holds.
        closed_form: First-order standard deviation; NaN where there is none.
    """

    concentration: float
    draws: np.ndarray = field(default_factory=lambda: np.zeros(0))
    closed_form: float = float("nan")


def spread(energies: Sequence[Tensor]) -> Tensor:
    """Return the relative spread of energies over redraws, averaged over samples.

    Args:
        energies: At least two, scalars or one number for each sample.

    Returns:
        Scalar; NaN where all are zero, infinite where one is negative on average.
    """
    stacked = torch.stack([wide(energy) for energy in energies])
    mean = stacked.mean(0)
    relative = torch.where(mean >= 0, stacked.std(0) / mean, torch.inf)
    return relative.nanmean()


def closed_forms(
    snapshot: Snapshot,
    measured: MeasuredRule,
    true: Views,
    diagnostics: Sequence[AlignmentDiagnostic],
) -> dict[Place, Null]:
    """Return the chance levels that need few redraws.

    They hold for feedback of independent entries that acts at every layer by itself, so not for
    factored feedback nor for what is repeated over positions, and where norms concentrate. Where
    the way to the entry has no second derivative there are none either.

    Args:
        snapshot: The probing.
        measured: The rule.
        true: All layers under backpropagation; what is found out of their local maps is left
            there.
        diagnostics: What is compared.
    """
    rule = measured.rule
    chosen = {
        number: diagnostic
        for number, diagnostic in enumerate(diagnostics)
        if type(diagnostic).adjoints is not AlignmentDiagnostic.adjoints
    }
    if not chosen or not isinstance(rule, DrawnFeedback) or not isinstance(rule, DirectRule):
        return {}
    if rule.granularity != "micro" or rule.structure != "dense" or rule.rank:
        return {}
    sent = rule.sent(snapshot.error, snapshot.y).flatten(1)
    # Of unit size, so that squares of small signals do not vanish in float32.
    sent = sent / sent.norm().clamp_min(torch.finfo(sent.dtype).tiny)
    means, spreads = _energies(snapshot, measured, true, chosen, sent)
    deviations: dict[Place, Tensor] = {}
    shares: dict[Place, Tensor] = {}
    for number, diagnostic in chosen.items():
        for layer in snapshot.hidden:
            view = true[layer.name]
            own = {
                key: mean
                for (n, name, key), mean in means.items()
                if (n, name) == (number, layer.name)
            }
            sigma = rule.entry_sd(layer, snapshot.capture.n_errors)
            stream = generator(snapshot.seed, "signs", layer.name)
            for key, adjoint in _adjoints(diagnostic, view, own).items():
                place = number, layer.name, key
                if not adjoint.is_counted:
                    deviations[place] = sigma * _product_norm(adjoint, sent)
                elif rule.distribution == "normal":
                    shares[place] = _shares(adjoint, sent, stream)
    numbers = fetched([*deviations.values(), *shares.values()])
    found = dict(zip([*deviations, *shares], numbers, strict=True))
    nulls = {
        place: Null(spreads[place], closed_form=float(found[place]))
        for place in deviations
        if place in spreads
    }
    return nulls | {place: Null(0.0, draws=found[place]) for place in shares}


def _adjoints(
    diagnostic: AlignmentDiagnostic, true: LayerView, energies: Mapping[Key, Tensor]
) -> Mapping[Key, Adjoint]:
    """Return a diagnostic's; none where the way to the entry has no second derivative."""
    try:
        return diagnostic.adjoints(true, energies)
    except MeasurementError:
        return {}


def _energies(
    snapshot: Snapshot,
    measured: MeasuredRule,
    true: Views,
    chosen: Mapping[int, AlignmentDiagnostic],
    sent: Tensor,
) -> tuple[dict[Place, Tensor], dict[Place, float]]:
    """Return mean energies, and spreads where they are small enough, after few redraws."""
    drawn: dict[Place, list[Tensor]] = {}
    settled: dict[Place, float] = {}
    pending = {(number, layer.name) for number in chosen for layer in snapshot.hidden}
    redraws = snapshot.redrawn(measured, min(STAGES[-1], snapshot.draws))
    done = 0
    for stage in STAGES:
        views = []
        for redrawn in islice(redraws, stage - done):
            names = {name for _, name in pending}
            views.append(direct_views(snapshot, redrawn, sent, names))
            for number, name in pending:
                for key, energy in chosen[number].energies(true[name], views[-1][name]).items():
                    drawn.setdefault((number, name, key), []).append(energy)
            if done == 0 and len(views) == 2:
                _find_local_maps(snapshot, true, *views)
            views = views[:2]
        done = stage
        looked_at = [place for place in drawn if place[:2] in pending]
        spreads = fetched([spread(drawn[place]) for place in looked_at])
        for place, found in zip(looked_at, spreads, strict=True):
            settled.pop(place, None)
            if not found > largest_spread(len(drawn[place])):
                settled[place] = float(found)
        pending = {place[:2] for place in looked_at if place not in settled}
    return {place: torch.stack(each).mean(0) for place, each in drawn.items()}, settled


def _find_local_maps(snapshot: Snapshot, true: Views, first: Views, second: Views) -> None:
    """Find out from two redraws what the way from every entry to the pre-activation is like.

    A gain that the first redraw shows is one where the second is multiplied by it too.
    """
    gains, errors = {}, {}
    for name, view in first.items():
        entry, image = view.entry, view.preactivation
        other, other_image = second[name].entry, second[name].preactivation
        assert entry is not None
        assert image is not None
        assert other is not None
        assert other_image is not None
        if entry.numel() == image.numel():
            gain = torch.nan_to_num(image / entry.reshape(image.shape), 0.0, 0.0, 0.0)
            off = other_image - gain * other.reshape(image.shape)
            gains[name] = gain
            errors[name] = _share(off, other_image)
    is_gain = {
        name: float(error) <= _rounding(gains[name])
        for name, error in zip(errors, fetched(list(errors.values())), strict=True)
    }
    leaks = {}
    for layer in snapshot.hidden:
        if layer.name in first and not is_gain.get(layer.name, False):
            view = second[layer.name]
            assert view.entry is not None
            assert view.preactivation is not None
            image = snapshot.capture.to_preactivation(layer, view.in_first_half(view.entry))
            leaks[layer.name] = _share(image - view.in_first_half(view.preactivation), image)
    for name, leak in zip(leaks, fetched(list(leaks.values())), strict=True):
        view = true[name]
        assert view.preactivation is not None
        true[name].local = LocalMap(mixes_samples=not float(leak) <= _rounding(view.preactivation))
    for name, is_one in is_gain.items():
        if is_one:
            true[name].local = LocalMap(gains[name], mixes_samples=False)


def _share(part: Tensor, whole: Tensor) -> Tensor:
    """Return the energy of a part over that of the whole."""
    return wide(part.square().sum()) / wide(whole.square().sum())


def _rounding(signal: Tensor) -> float:
    """Return the share of energy up to which two signals are the same but for rounding."""
    return float(8.0 * torch.finfo(signal.dtype).eps) ** 2


def _product_norm(adjoint: Adjoint, sent: Tensor) -> Tensor:
    r"""Return :math:`\|T^\top E\|_F`, by way of the smaller of the product and the Grams."""
    rows, errors = adjoint.rows.flatten(1), _weighted(adjoint, sent)
    if len(rows) == 1:
        alone: Tensor = wide(rows).norm() * errors.sum(0).norm()
        return alone
    if rows.shape[1] * errors.shape[1] <= _LARGEST_PRODUCT:
        # Factors that bring small rows to size one have no room in float32.
        size = errors.norm().clamp_min(torch.finfo(torch.float64).tiny)
        product: Tensor = wide(rows.T @ (errors / size).to(rows)).norm() * size
        return product
    return _products(rows, errors).sum().clamp_min(0.0).sqrt()


def _shares(adjoint: Adjoint, sent: Tensor, stream: torch.Generator) -> Tensor:
    """Return how many samples have a positive product with fresh Gaussian feedback, by draw."""
    rows = adjoint.rows.flatten(1)
    # Few units give products that are tied, which only float64 keeps so.
    rows = wide(rows) if rows.shape[1] <= _FEW_UNITS else rows
    covariance = _products(rows, _weighted(adjoint, sent))
    return positive_shares(covariance, count=RATE_DRAWS, stream=stream)


def _weighted(adjoint: Adjoint, sent: Tensor) -> Tensor:
    """Return what is sent, times the factors of the samples, in float64."""
    errors = wide(sent)
    return errors if adjoint.factors is None else errors * adjoint.factors.unsqueeze(1).to(errors)


def _products(rows: Tensor, errors: Tensor) -> Tensor:
    """Return the products of all samples' outer products of row and error, in float64."""
    found = wide(rows @ rows.T)
    return found * (errors @ errors.T).to(found.device)

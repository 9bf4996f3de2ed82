"""How much of the true weight gradient some fixed feedback could give (E2, E3)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import torch
from torch import Tensor

from alignlab.diagnostics._base import NotDefined, Reading, SnapshotDiagnostic, Variable
from alignlab.diagnostics._feedback import error_space
from alignlab.diagnostics._local import local_gains
from alignlab.diagnostics._together import fetched
from alignlab.diagnostics._unit_gradients import by_unit, carried, gradients, mixing
from alignlab.feedback import generator
from alignlab.kernels.cosines import cosine, flat, wide
from alignlab.kernels.gradient_reach import reached_held_out, reached_in_sample
from alignlab.kernels.regression import fitted_held_out
from alignlab.layer_view import LayerView
from alignlab.snapshot import Snapshot

__all__ = ["WeightGradientReach"]

_DIMS = ("layer",)
_SAME = 1e-3

MOST_DIRECTIONS = 64
"""Directions of the error above which as many weight gradients for each layer cost too much."""

LARGEST = 2**26
"""Numbers in all these gradients, or in their signals, that take too much memory."""


class WeightGradientReach(SnapshotDiagnostic):
    r"""Share of the true weight gradient that some fixed feedback of the error gives.

    Feedback b of unit k gives its weights the gradient :math:`\hat g_k = \sum_c b_{kc} M_{kc}`
    with :math:`M_{kc} = \sum_i \varphi'_{ik} e_{ic} x_i`, the gradient that direction c of the
    error alone gives through the local backward map and the layer's input x. Over all fixed
    feedback the largest squared cosine of weight gradients is therefore

    .. math:: \frac{\sum_k \|P_k g_k\|^2}{\|g\|^2},

    :math:`P_k` the projector on the span of :math:`M_{k1}, \dots, M_{kr}` and r the directions
    of the error. Where weights are shared over positions (convolutions, tokens) feedback that
    differs between positions has r unknowns for each of them, often more than a filter has
    weights, and fits anything in sample: the feedback is then the same at all positions of a
    unit. ``weight_gradient_reach_dense`` is that of feedback without this constraint, fitted to
    the error signals of one half of the samples and scored on the weight gradient of the other.

    Reading: the root is the best cosine of weight gradients. It can be high where ``reach`` of
    the signals is low, because the sum over samples averages out what no feedback can give. In
    sample it means little by itself: behind rectified units all inputs share a mean, every
    :math:`M_{kc}` has a part along it, and feedback of errors of *other* samples reaches nearly
    as much. Read it beside ``weight_gradient_reach_chance``, and read the held-out ones, which
    are squared cosines with their sign, biased down. Low at all three ends: no fixed feedback
    can train this layer as backpropagation does.

    Chance: ``weight_gradient_reach_chance`` is the in-sample value with the errors of the samples
    permuted; for isotropic gradients it would be r over the inputs of a unit. Held out the cosine
    has mean 0.

    Undefined where the weight is frozen, where the way from the units to the entry mixes units
    (normalisation over units, shuffled or concatenated channels), for errors of more than 64
    directions, and where those gradients or signals of a layer are more than 2^26 numbers. Where
    a unit has no more inputs than the error has directions the in-sample value is 1, and so is
    chance.

    Source: our derivation.

    Example:
        >>> from alignlab.probe import Probe
        >>> net = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Linear(8, 3))
        >>> loss = torch.nn.functional.cross_entropy
        >>> with Probe(net, loss, diagnostics=["weight-gradient-reach"], draws=32) as probe:
        ...     recording = probe.measure(torch.randn(60, 6), torch.arange(60) % 3)
        >>> round(recording["weight_gradient_reach_in_sample"].sel(layer="0").item(), 6)
        1.0
    """

    variables: ClassVar[tuple[Variable, ...]] = (
        Variable(
            "weight_gradient_reach_in_sample",
            _DIMS,
            "Share of the true weight gradient that fixed feedback of every unit can give",
            better="higher",
            valid=(0.0, 1.0),
        ),
        Variable(
            "weight_gradient_reach_held_out",
            _DIMS,
            "Squared cosine, with its sign, of such feedback on samples that its fit has not seen",
            better="higher",
            valid=(-1.0, 1.0),
        ),
        Variable(
            "weight_gradient_reach_chance",
            _DIMS,
            "Share in sample for errors that are permuted among the samples",
            valid=(0.0, 1.0),
        ),
        Variable(
            "weight_gradient_reach_dense",
            _DIMS,
            "Squared cosine, held out, of feedback of every entry that fits the error signals",
            better="higher",
            valid=(-1.0, 1.0),
        ),
    )
    cost: ClassVar[float] = 16.0

    def measure(self, snapshot: Snapshot) -> Iterator[Reading | NotDefined]:
        """Yield the shares of every hidden layer, and their chance level."""
        errors = wide(snapshot.exact_error)
        basis = error_space(errors)
        errors = errors / errors.abs().amax().clamp_min(torch.finfo(torch.float64).tiny) @ basis
        views = {layer.name: snapshot.view(layer, snapshot.true) for layer in snapshot.hidden}
        because, keeping = _unfit(views, errors)
        first = snapshot.fold.int().argsort(descending=True, stable=True).to(errors.device)
        halves = (first[: len(first) // 2], first[len(first) // 2 :])
        for number, (name, view) in enumerate(views.items()):
            snapshot.progress("reach of weight gradients", number + 1, len(views))
            if because[name]:
                yield NotDefined(because[name], layer=name)
                continue
            found = _of_layer(snapshot, view, errors, halves, keeps_samples=name in keeping)
            for variable, value in found.items():
                yield Reading(f"weight_gradient_reach_{variable}", value, layer=name)


def _of_layer(
    snapshot: Snapshot,
    view: LayerView,
    errors: Tensor,
    halves: tuple[Tensor, Tensor],
    *,
    keeps_samples: bool,
) -> dict[str, Tensor]:
    """Return the four numbers of a layer by the ends of their names."""
    whole, aims = view.gradients[0], view.weight_halves
    assert whole is not None
    assert aims is not None
    true, parts = by_unit(view, whole), (by_unit(view, aims[0]), by_unit(view, aims[1]))
    order = torch.randperm(len(errors), generator=generator(snapshot.seed, "permuted errors"))
    permuted = errors[order.to(errors.device)]
    others = gradients(
        view, carried(view, permuted, keeps_samples=keeps_samples), torch.cat(halves)
    )
    signals = carried(view, errors, keeps_samples=keeps_samples)
    first, second = (gradients(view, signals, half) for half in halves)
    return {
        "in_sample": reached_in_sample(true, first + second),
        "held_out": reached_held_out(parts, (first, second)),
        "chance": reached_in_sample(true, others),
        "dense": _dense(snapshot, view, errors, halves, parts),
    }


def _dense(
    snapshot: Snapshot,
    view: LayerView,
    errors: Tensor,
    halves: tuple[Tensor, Tensor],
    aims: tuple[Tensor, Tensor],
) -> Tensor:
    """Return the held-out score of feedback that fits the error signals."""
    assert view.entry is not None
    local = snapshot.shared(local_gains)[view.layer.name]
    signal = fitted_held_out(
        *(errors, flat(view.entry), snapshot.fold.to(errors.device)),
        gains=flat(local) if isinstance(local, Tensor) else None,
    )
    made = view.capture.to_preactivation(view.layer, signal.reshape(view.entry.shape))
    found = []
    for aim, half in zip(aims, halves, strict=True):
        (own,) = gradients(view, made.unsqueeze(0), half)
        similarity = cosine(aim.flatten(), own.flatten())
        found.append(similarity * similarity.abs())
    return torch.stack(found).mean(0)


def _unfit(views: Mapping[str, LayerView], errors: Tensor) -> tuple[dict[str, str], set[str]]:
    """Return why layers have no such reach, clauses, and those that keep samples apart."""
    found = {name: _too_much(view, errors.shape[1]) for name, view in views.items()}
    mixed = {
        name: share
        for name, view in views.items()
        if not found[name]
        for share in [mixing(view)]
        if share is not None
    }
    shares = dict(zip(mixed, fetched(list(mixed.values())), strict=True))
    for name in views:
        # A dead layer has 0 / 0 and mixes nothing.
        if not found[name] and (name not in shares or shares[name][0] > _SAME):
            found[name] = "the way to its entry mixes units"
    return found, {name for name, share in shares.items() if share[1] <= _SAME}


def _too_much(view: LayerView, directions: int) -> str:
    weight = view.gradients[0]
    if weight is None:
        return "its weight is frozen"
    assert view.preactivation is not None
    if not directions:
        return "the errors are zero"
    if directions > MOST_DIRECTIONS:
        return f"the errors have {directions} directions, more than {MOST_DIRECTIONS}"
    if directions * max(weight.numel(), view.preactivation.numel()) > LARGEST:
        return f"its signals along {directions} directions of the error have too many numbers"
    return ""

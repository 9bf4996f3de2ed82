"""How much of the true weight gradient some fixed feedback could give (E2, E3)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from alignlab.diagnostics._base import NotDefined, Reading, SnapshotDiagnostic, Variable
from alignlab.diagnostics._feedback import error_space
from alignlab.diagnostics._local import gains
from alignlab.diagnostics._together import fetched
from alignlab.feedback import generator
from alignlab.kernels.cosines import cosine, flat, wide
from alignlab.kernels.gradient_reach import reached_held_out, reached_in_sample
from alignlab.kernels.regression import fitted_held_out
from alignlab.layer_view import LayerView
from alignlab.sites import Layer
from alignlab.snapshot import Snapshot

__all__ = ["WeightGradientReach"]

_DIMS = ("layer",)
_SAME = 1e-3

MOST_DIRECTIONS = 64
"""Directions of the error above which as many weight gradients for each layer cost too much."""

LARGEST = 2**26
"""Numbers in all these gradients of a layer above which they take too much memory."""


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
    directions, and where all those gradients of a layer are more than 2^26 numbers. Where a unit
    has no more inputs than the error has directions the in-sample value is 1, and so is chance.

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
    cost: ClassVar[float] = 10.0

    def measure(self, snapshot: Snapshot) -> Iterator[Reading | NotDefined]:
        """Yield the shares of every hidden layer, and their chance level."""
        errors = wide(snapshot.exact_error)
        errors = errors @ error_space(errors)
        errors = errors / errors.abs().amax().clamp_min(torch.finfo(torch.float64).tiny)
        views = {layer.name: snapshot.view(layer, snapshot.true) for layer in snapshot.hidden}
        because = _unfit(views, errors)
        for number, view in enumerate(views.values()):
            snapshot.progress("reach of weight gradients", number + 1, len(views))
            name = view.layer.name
            if because[name]:
                yield NotDefined(because[name], layer=name)
                continue
            for variable, value in _of_layer(snapshot, view, errors).items():
                yield Reading(f"weight_gradient_reach_{variable}", value, layer=name)


def _of_layer(snapshot: Snapshot, view: LayerView, errors: Tensor) -> dict[str, Tensor]:
    """Return the four numbers of a layer by the ends of their names."""
    whole, halves = view.gradients[0], view.weight_halves
    assert whole is not None
    assert halves is not None
    order = torch.randperm(len(errors), generator=generator(snapshot.seed, "permuted errors"))
    permuted = errors[order.to(errors.device)]
    both, first, others = [], [], []
    for direction, other in zip(errors.T, permuted.T, strict=True):
        signal = _carried(view, direction)
        both.append(_gradient(view, signal))
        first.append(_gradient(view, signal * _chosen(snapshot, signal)))
        others.append(_gradient(view, _carried(view, other)))
    all_samples, half = torch.stack(both), torch.stack(first)
    aims = (_by_unit(view, halves[0]), _by_unit(view, halves[1]))
    return {
        "in_sample": reached_in_sample(_by_unit(view, whole), all_samples),
        "held_out": reached_held_out(aims, (half, all_samples - half)),
        "chance": reached_in_sample(_by_unit(view, whole), torch.stack(others)),
        "dense": _dense(snapshot, view, errors, aims),
    }


def _dense(
    snapshot: Snapshot, view: LayerView, errors: Tensor, aims: tuple[Tensor, Tensor]
) -> Tensor:
    """Return the held-out score of feedback that fits the error signals."""
    assert view.entry is not None
    local = gains(snapshot, view.layer)
    signal = fitted_held_out(
        *(errors, flat(view.entry), snapshot.fold.to(errors.device)),
        gains=None if local is None else flat(local),
    )
    made = view.capture.to_preactivation(view.layer, signal.reshape(view.entry.shape))
    first = _gradient(view, made * _chosen(snapshot, made))
    found = []
    for aim, half in zip(aims, (first, _gradient(view, made) - first), strict=True):
        similarity = cosine(aim.flatten(), half.flatten())
        found.append(similarity * similarity.abs())
    return torch.stack(found).mean(0)


def _unfit(views: Mapping[str, LayerView], errors: Tensor) -> dict[str, str]:
    """Return by layer why it has no such reach, a clause; empty where it has."""
    found = {name: _too_much(view, errors.shape[1]) for name, view in views.items()}
    mixed = {
        name: share
        for name, view in views.items()
        if not found[name]
        for share in [_mixing(view)]
        if share is not None
    }
    shares = dict(zip(mixed, fetched(list(mixed.values())), strict=True))
    for name in views:
        if not found[name] and (name not in shares or shares[name] > _SAME):
            found[name] = "the way to its entry mixes units"
    return found


def _too_much(view: LayerView, directions: int) -> str:
    weight = view.gradients[0]
    if weight is None:
        return "its weight is frozen"
    if not directions:
        return "the errors are zero"
    if directions > MOST_DIRECTIONS:
        return f"the errors have {directions} directions, more than {MOST_DIRECTIONS}"
    if directions * weight.numel() > LARGEST:
        return f"its gradients along {directions} directions of the error have too many numbers"
    return ""


def _mixing(view: LayerView) -> Tensor | None:
    """Return how far the way from the units to the entry is from acting on each by itself."""
    layer, units = view.layer, _unit_of_entries(view.layer)
    if units is None:
        return None
    drawn = torch.randn(layer.channels, generator=generator(0, "signs", layer.name))
    like = view.preactivation
    assert like is not None
    signs = drawn.sign().to(like)
    plain = _carried(view, torch.ones(len(like)).to(like))
    given = signs[units.to(like.device)].expand(len(like), *layer.entry_shape)
    image = view.capture.to_preactivation(layer, given.contiguous())
    shape = [1] * like.dim()
    shape[1 if layer.is_convolution else -1] = -1
    # A dead layer has 0 / 0 and mixes nothing.
    return (image - plain * signs.reshape(shape)).norm() / plain.norm()


def _unit_of_entries(layer: Layer) -> Tensor | None:
    """Return which unit (channel) every place of the entry belongs to, in the entry's shape."""
    shape, units = layer.entry_shape, torch.arange(layer.channels)
    if shape[layer.entry_channel_axis] == layer.channels:
        view = [1] * len(shape)
        view[layer.entry_channel_axis] = -1
        return units.reshape(view).expand(shape)
    if len(shape) > 1 or shape[0] % layer.channels:
        return None
    # Flattened: channels come first for a convolution, last for linear layers on positions.
    places = shape[0] // layer.channels
    return units.repeat_interleave(places) if layer.is_convolution else units.repeat(places)


def _carried(view: LayerView, direction: Tensor) -> Tensor:
    """Return what one number a sample, the same at all entries, is at the pre-activation."""
    assert view.entry is not None
    column = direction.reshape(-1, *(1 for _ in view.layer.entry_shape)).to(view.entry)
    return view.capture.to_preactivation(view.layer, column.expand_as(view.entry).contiguous())


def _chosen(snapshot: Snapshot, signal: Tensor) -> Tensor:
    return snapshot.fold.reshape(-1, *(1 for _ in signal.shape[1:])).to(signal)


def _gradient(view: LayerView, signal: Tensor) -> Tensor:
    weight, _ = view.capture.weight_gradient(view.layer, signal)
    assert weight is not None
    return _by_unit(view, weight)


def _by_unit(view: LayerView, weight: Tensor) -> Tensor:
    """Return a weight's gradient with one row for every unit, ``(n_units, n_inputs)``."""
    module = view.capture.module_of(view.layer)
    if isinstance(module, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
        groups = weight.unflatten(0, (module.groups, -1)).transpose(1, 2)
        return groups.flatten(0, 1).flatten(1)
    return weight.flatten(1)

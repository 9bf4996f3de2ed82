"""What narrow layers and frozen weights leave of the alignment, and what would lift it (E7)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from alignlab.diagnostics._base import NotDefined, Reading, SnapshotDiagnostic, Variable
from alignlab.diagnostics._widths import narrowest_below, spectra
from alignlab.feedback import generator
from alignlab.kernels.bottleneck import (
    bounds_by_rank,
    expected_masked_cosine,
    masked_cosine,
    sufficient_rank,
    trained_bound,
    trained_share,
)
from alignlab.kernels.ranks import numerical_rank
from alignlab.rules._base import DirectRule
from alignlab.sites import Layer
from alignlab.snapshot import MeasuredRule, Snapshot

__all__ = ["Bottleneck"]

SHARES = (1.0, 0.5, 0.25, 0.1, 0.05, 0.01)
"""Shares of trained entries at which the masked gradients are compared."""

LIFTED = 0.99
"""Bound from which a layer counts as not limited; a heuristic of ours."""

_EXACT = "our derivation; exact for linear networks"
_RL, _L = ("rule", "layer"), ("layer",)
_SHARE = (0.0, 1.0)


def _bounds() -> Iterator[Variable]:
    phrase = "Largest flattened cosine that the narrowest width above the layer allows"
    yield Variable("width_bound", _RL, phrase, source=_EXACT, better="higher", valid=_SHARE)
    for edge, name in (("low", "Lower"), ("high", "Upper")):
        yield Variable(
            f"width_bound_{edge}",
            _RL,
            f"{name} edge of the central 95% of that bound over draws of the feedback",
            source=_EXACT,
            valid=_SHARE,
        )
    yield Variable(
        "width_bound_by_rank",
        (*_RL, "component"),
        "That bound for a narrowest width above of 1, 2, ...",
        source=_EXACT,
        valid=_SHARE,
    )
    yield Variable(
        "width_that_lifts",
        _RL,
        f"Smallest width above at which that bound is at least {LIFTED:g}",
        source="our heuristic",
        valid=(1.0, None),
    )
    yield Variable(
        "width_without_limit",
        ("rule",),
        "Directions of what is sent: the width from which there is no limit at all",
        source=_EXACT,
        valid=(0.0, None),
    )
    yield Variable(
        "width_limit_from_below",
        _RL,
        "Cosine that weights grown from small ones keep to above the narrowest width below",
        source="our derivation; linear networks, features of fixed directions",
        valid=_SHARE,
    )


def _places() -> Iterator[Variable]:
    for side, way in (
        ("above", "between the layer's entry and the output"),
        ("below", "between the input and what the layer reads"),
    ):
        yield Variable(
            f"narrowest_width_{side}", _L, f"Units at the narrowest place {way}", valid=(1.0, None)
        )
        yield Variable(
            f"narrowest_layer_{side}",
            _L,
            "Layer at whose output or entry that place is",
            units="",
            dtype="string",
        )
    yield Variable(
        "width_bound_scope",
        _L,
        "Networks for which the width bound is exact",
        units="",
        dtype="string",
    )


def _frozen() -> Iterator[Variable]:
    yield Variable(
        "trained_share",
        _RL,
        "Share of the weight's entries with a true gradient that the update moves",
        better="higher",
        valid=_SHARE,
    )
    yield Variable(
        "trained_bound",
        _RL,
        "Largest cosine of the weight gradient that an update of these entries alone can have",
        source="algebra",
        better="higher",
        valid=_SHARE,
    )
    yield Variable(
        "cosine_weight_gradient_masked",
        (*_RL, "share"),
        "Cosine of the weight gradients with that share of the approximate one's entries left",
        source="Launay, Poli & Krzakala 2019 (code: the mask)",
        valid=(-1.0, 1.0),
    )
    yield Variable(
        "cosine_weight_gradient_masked_expected",
        (*_RL, "share"),
        "That cosine on average over masks",
        valid=(-1.0, 1.0),
    )


class Bottleneck(SnapshotDiagnostic):
    r"""Two bottlenecks, which act in opposite ways: a narrow layer and frozen weights.

    **Narrow layer.** The true signal of the layers below a place of r units has rank r at most,
    direct feedback sends one of as many directions as the error has, so that

    .. math:: \cos(\Delta_l, \hat\Delta_l) \le
        \sqrt{\textstyle\sum_{j\le r} s_j^2 / \sum_j s_j^2},

    s the singular values of :math:`E B_l^\top`. It is reached by the best weights, and exact in
    linear networks; behind gates only where the narrow place is the pre-activation of the layer
    that reads the entry (``width_bound_scope``): gates further up lift the rank. Reach does not
    see it. The layer's *own* cosine stays. The layers above it learn from features
    of r directions: weights that grow from small ones by the rule's own updates stay near rank r,
    and ``width_limit_from_below`` is the same root for the narrowest width below. It is no bound
    of the weights there are: what they are initially, and features that turn, may exceed it.

    **Frozen weights.** An update of some entries of a weight only. ``trained_share`` and
    ``trained_bound`` read it off the update: entries that it leaves exactly zero although the true
    gradient there is not. Launay's protocol masks the gradient of a layer of any width at random:
    the cosine **at** the layer then falls as :math:`\sqrt p\,c` with the share p of trained
    entries (``cosine_weight_gradient_masked`` for one mask, ``_expected`` on average), that of all
    other layers is untouched at that step. With the same mask on the true gradient it would be c,
    with another one :math:`p\,c`.

    Reading: a layer whose cosine is at its bound is limited by width and not by its weights:
    widen the named place to ``width_that_lifts`` (bound .99), or to ``width_without_limit``,
    the directions of the error, one less than classes under a softmax. A cosine far below the
    bound has another cause.

    Chance: the bounds are exact and have none; for drawn feedback they are the median over
    draws with the central 95%. Chance levels of masked cosines fall as they do themselves.

    Undefined: bounds for rules that do not send the error directly, and where what is sent is
    zero; masks where the weight is frozen or the feedback was drawn for the analysis, and their
    expectation where fewer than four entries' worth of gradient would be left.

    Source: our derivation; the truncated matrix is Eckart & Young 1936.

    Example:
        >>> from alignlab.probe import Probe
        >>> from alignlab.rules import DFA
        >>> layers = [torch.nn.Linear(a, b) for a, b in ((6, 8), (8, 1), (1, 4))]
        >>> net, loss = torch.nn.Sequential(*layers), torch.nn.functional.cross_entropy
        >>> names = ["bottleneck"]
        >>> with Probe(net, loss, rules=[DFA(seed=0)], diagnostics=names, draws=32) as probe:
        ...     found = probe.measure(torch.randn(60, 6), torch.arange(60) % 4).sel(layer="0")
        >>> found["narrowest_layer_above"].item(), found["width_without_limit"].item()
        ('1', 3.0)
    """

    variables: ClassVar[tuple[Variable, ...]] = (*_bounds(), *_places(), *_frozen())
    cost: ClassVar[float] = 1.0
    coords: ClassVar[Mapping[str, Sequence[float]]] = {"share": SHARES}

    def measure(self, snapshot: Snapshot) -> Iterator[Reading | NotDefined]:
        """Yield places and bounds, and what frozen weights leave under every rule."""
        for layer in snapshot.hidden:
            yield from _places_of(snapshot, layer)
            if not snapshot.rules:
                yield NotDefined("no rule is measured", layer=layer.name)
        for measured in snapshot.rules:
            yield from _limits(snapshot, measured)
        yield from _masked(snapshot)


def _places_of(snapshot: Snapshot, layer: Layer) -> Iterator[Reading]:
    above = snapshot.capture.layout.narrowest_above(layer)
    for side, place in (("above", above), ("below", narrowest_below(snapshot, layer))):
        if place is not None:
            yield Reading(f"narrowest_width_{side}", float(place[0]), layer=layer.name)
            yield Reading(f"narrowest_layer_{side}", place[1], layer=layer.name)
    if above is not None:
        reader = next(each for each in snapshot.layers if each.name == layer.consumer)
        is_next = above == (reader.width, reader.name)
        is_only = snapshot.capture.layout.has_one_reader(layer)
        scope = "any network" if is_next and is_only else "linear networks"
        yield Reading("width_bound_scope", scope, layer=layer.name)


def _limits(snapshot: Snapshot, measured: MeasuredRule) -> Iterator[Reading | NotDefined]:
    """Yield what widths allow under a direct rule."""
    if not isinstance(measured.rule, DirectRule):
        because = "it does not send the error directly, and width sets no such bound"
        yield from (NotDefined(because, measured.label, layer.name) for layer in snapshot.hidden)
        return
    sent = measured.rule.sent(snapshot.exact_error, snapshot.y).flatten(1)
    yield Reading("width_without_limit", numerical_rank(sent), measured.label)
    found = spectra(snapshot, measured)
    for layer in snapshot.hidden:
        if layer.name not in found:
            because = "no feedback enters there"
            yield NotDefined(because, measured.label, layer.name)
            continue
        bounds = bounds_by_rank(found[layer.name])
        above = snapshot.capture.layout.narrowest_above(layer)
        below = narrowest_below(snapshot, layer)
        middle = bounds.quantile(0.5, 0)
        numbers = {
            "width_bound": _at(middle, above),
            "width_bound_by_rank": middle,
            "width_that_lifts": sufficient_rank(middle, level=LIFTED),
            "width_limit_from_below": _at(middle, below),
        }
        if measured.is_drawn:
            edges = torch.tensor([0.025, 0.975]).to(bounds)
            low, high = _at(bounds.T, above).quantile(edges).unbind()
            numbers |= {"width_bound_low": low, "width_bound_high": high}
        for name, value in numbers.items():
            yield Reading(name, value, measured.label, layer.name)


def _at(bounds: Tensor, place: tuple[int, str] | None) -> Tensor:
    """Return the bound of the rank of a place, along the first axis."""
    return bounds[-1 if place is None else min(place[0], len(bounds)) - 1]


def _masked(snapshot: Snapshot) -> Iterator[Reading | NotDefined]:
    """Yield what is trained of every weight, and what random masks would leave."""
    shares = torch.tensor(SHARES, dtype=torch.float64)
    for layer in snapshot.layers:
        rules = [each for each in snapshot.rules if layer in snapshot.compared(each)]
        order: Tensor | None = None
        true = snapshot.view(layer, snapshot.true)
        for measured in rules:
            place = (measured.label, layer.name)
            view = snapshot.view(layer, snapshot.passes[measured.label])
            exact, update = true.gradients_beside(view)[0], view.gradients[0]
            if exact is None or update is None:
                yield NotDefined("its weight is frozen", *place)
                continue
            first, second = exact.flatten(), update.flatten()
            yield Reading("trained_share", trained_share(first, second), *place)
            yield Reading("trained_bound", trained_bound(first, second), *place)
            if measured.is_drawn:
                yield NotDefined("its feedback was drawn, so that no cosine is observed", *place)
                continue
            if order is None:
                drawn = torch.rand(first.numel(), generator=generator(snapshot.seed, "mask"))
                order = drawn.to(first.device)
            left = masked_cosine(first, second, order, shares.to(first.device))
            mean = expected_masked_cosine(first, second, shares.to(first.device))
            yield Reading("cosine_weight_gradient_masked", left, *place)
            yield Reading("cosine_weight_gradient_masked_expected", mean, *place)

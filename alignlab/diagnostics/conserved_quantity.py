"""What gradient flow with fixed feedback conserves, and alignment by construction (D4)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import ClassVar

import torch
from torch import Tensor

from alignlab.diagnostics._base import NotDefined, Reading, SnapshotDiagnostic, Variable
from alignlab.diagnostics._conserved import (
    MATRIX,
    UNITS,
    State,
    feedback_between,
    laws,
    refused_rule,
    terms,
)
from alignlab.diagnostics._feedback import error_space, matrices_at_entries, paths
from alignlab.diagnostics._together import together
from alignlab.diagnostics._weights import UNKNOWN_START, initial_weights
from alignlab.kernels.alignment_matrix import restricted, symmetric_minimum
from alignlab.kernels.conservation import drift, drift_of_change
from alignlab.rules._base import DirectRule, ReplacedWeightRule
from alignlab.sites import Layer
from alignlab.snapshot import MeasuredRule, Snapshot

__all__ = ["ConservedQuantity"]

_DIMS = ("rule", "layer")
_DRAWS = 32

Terms = tuple[Tensor, Tensor]


class ConservedQuantity(SnapshotDiagnostic):
    r"""Drift of what feedback alignment conserves between a layer and the next.

    Under gradient flow with fixed feedback :math:`s = R\delta'` from the next layer,

    .. math:: RW' + W'^\top R^\top - WW^\top = \text{const}

    in linear networks of any depth, for any loss and data; W' is the weight of the next layer,
    and the bias of the lower one is a column of W. Where each unit is positively homogeneous of
    its own pre-activation (ReLU, max pooling) the diagonal is conserved, twice
    :math:`(RW')_{kk} - \tfrac12\|W_k\|^2` of every unit; of convolutions every channel.
    ``conserved_quantity_law`` says which. With direct feedback :math:`R = B_{L-1}` below the
    output layer, and :math:`R = B_lB_{l+1}^+` below a linear layer of as many units as errors.

    **Reading.** ``..._drift`` is the change of the difference over the sizes of its terms,
    ``..._drift_of_change`` over how far the terms themselves have moved, in [0, 1]: 0 for
    gradient flow. Steps of finite size drift in proportion to their size; momentum, weight
    decay, adaptive step sizes and clipping break the law, and so does feedback that is not the
    training's: ``..._drift_chance`` is the median of the latter over redraws of the feedback.

    From small weights the constant is about 0, so that :math:`RW'` must have a positive
    semidefinite symmetric part: alignment by construction. ``alignment_dominance`` is the smallest
    eigenvalue of the symmetric part of :math:`U^\top P_lQ_l^\top U` over the largest singular
    value. :math:`P_l` is the product of the forward weights above the layer and :math:`Q_l` what
    feedback brings, both as (errors, units) and without nonlinearities, U the directions that the
    errors of the batch occupy. Where it is positive, :math:`e^\top P_lQ_l^\top e > 0` for each of
    these errors, Lillicrap's condition: the layer's signal descends whatever the error. Its chance
    is the median over redraws.

    **Undefined**, each with its reason: without the weights at which the training began (drift
    alone), for drawn or learned feedback, for shortcuts, shared, frozen or computed weights, for
    tanh and normalisation, for direct feedback below gates; ``alignment_dominance`` where sizes
    change on the way to the output.

    Source: our derivation; for two linear layers the law is that of Lillicrap et al. 2016
    (supplement, known to us from others). Robertson & Koyejo 2024 (abstract) have a conservation
    law and the term alignment dominance, of which this is our reconstruction.

    Example:
        >>> import copy
        >>> from alignlab.probe import Probe
        >>> from alignlab.rules import FA
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 3))
        >>> loss, earlier = torch.nn.functional.cross_entropy, {"initial": net.state_dict()}
        >>> name = "conserved-quantity"
        >>> with Probe(
        ...     net, loss, rules=[FA()], diagnostics=[name], draws=32, earlier=earlier
        ... ) as probe:
        ...     recording = probe.measure(torch.randn(20, 4), torch.arange(20) % 3)
        >>> recording["conserved_quantity_law"].sel(layer="0").item()
        'matrix'
        >>> recording["conserved_quantity_drift"].sel(layer="0").item()
        0.0
    """

    variables: ClassVar[tuple[Variable, ...]] = (
        Variable(
            "conserved_quantity_law",
            _DIMS,
            "What is conserved: a matrix of units by units, or one number for every unit",
            units="",
            dtype="string",
        ),
        Variable(
            "conserved_quantity_drift",
            _DIMS,
            "Change of the conserved difference over the sizes of its terms",
            better="lower",
            valid=(0.0, None),
        ),
        Variable(
            "conserved_quantity_drift_of_change",
            _DIMS,
            "Change of the conserved difference over the changes of its terms",
            better="lower",
            valid=(0.0, 1.0),
        ),
        Variable(
            "conserved_quantity_drift_chance",
            _DIMS,
            "Median of the drift over the changes, for redrawn feedback",
            valid=(0.0, 1.0),
        ),
        Variable(
            "alignment_dominance",
            _DIMS,
            "Smallest eigenvalue of the symmetric part of forward times feedback path on the "
            "error space, over the largest singular value",
            better="higher",
            valid=(-1.0, 1.0),
        ),
        Variable(
            "alignment_dominance_chance",
            _DIMS,
            "Median of that over redraws of the feedback",
            valid=(-1.0, 1.0),
        ),
    )
    cost: ClassVar[float] = 1.5

    def measure(self, snapshot: Snapshot) -> Iterator[Reading | NotDefined]:
        """Yield drifts and dominance of every rule with fixed feedback."""
        for layer in snapshot.capture.layout.outputs:
            yield NotDefined("no layer lies above it", layer=layer.name)
        if snapshot.initial is None:
            yield NotDefined(f"nothing is said of drifts: {UNKNOWN_START}")
        for measured in snapshot.rules:
            because = refused_rule(measured)
            if because:
                yield NotDefined(because, measured.label)
            elif snapshot.initial is not None:
                yield from _drifts(snapshot, measured)
            if isinstance(measured.rule, (DirectRule, ReplacedWeightRule)):
                yield from _dominance(snapshot, measured)


def _states(snapshot: Snapshot) -> tuple[State, State]:
    """Return weights and biases of now and of the start."""
    assert snapshot.initial is not None
    names = {id(p): name for name, p in snapshot.capture.model.named_parameters()}
    biases = {
        layer.module: bias
        for layer in snapshot.layers
        for bias in [snapshot.capture.module_of(layer)._parameters.get("bias")]
        if bias is not None
    }
    now = {module: bias.detach() for module, bias in biases.items()}
    then = {m: snapshot.initial[names[id(bias)]].to(bias) for m, bias in biases.items()}
    return (
        State(snapshot.capture.module_weights(), now),
        State(snapshot.shared(initial_weights), {m: bias.detach() for m, bias in then.items()}),
    )


def _drifts(snapshot: Snapshot, measured: MeasuredRule) -> Iterator[Reading | NotDefined]:
    now, then = _states(snapshot)
    found = laws(snapshot, measured)
    lawful = []
    for layer in snapshot.hidden:
        if found[layer.name] in {MATRIX, UNITS}:
            lawful.append(layer)
            yield Reading("conserved_quantity_law", found[layer.name], measured.label, layer.name)
        else:
            yield NotDefined(found[layer.name], measured.label, layer.name)

    def both(layer: Layer, feedback: Mapping[str, Tensor]) -> tuple[Terms, Terms]:
        law, held = found[layer.name], feedback[layer.name]
        return (
            terms(snapshot, layer, law, now, held),
            terms(snapshot, layer, law, then, held),
        )

    own = feedback_between(snapshot, measured, lawful)
    drawn: dict[str, list[Tensor]] = {layer.name: [] for layer in lawful}
    for each in snapshot.redrawn(measured, min(snapshot.draws, _DRAWS) if lawful else 0):
        feedback = feedback_between(snapshot, each, lawful)
        for layer in lawful:
            drawn[layer.name].append(drift_of_change(*both(layer, feedback)))
    for layer in lawful:
        pair, place = both(layer, own), (measured.label, layer.name)
        yield Reading("conserved_quantity_drift", drift(*pair), *place)
        yield Reading("conserved_quantity_drift_of_change", drift_of_change(*pair), *place)
        chance = torch.stack(drawn[layer.name]).median()
        yield Reading("conserved_quantity_drift_chance", chance, *place)


def _dominance(snapshot: Snapshot, measured: MeasuredRule) -> Iterator[Reading | NotDefined]:
    basis = error_space(snapshot.exact_error)
    if not basis.shape[1]:
        return
    forward = paths(snapshot, snapshot.capture.module_weights())
    has_draws = snapshot.chance_kind(measured) != "output_rotation"
    redrawn = snapshot.redrawn(measured, min(snapshot.draws, _DRAWS) if has_draws else 0)
    rows = _products(snapshot, forward, chain([measured], redrawn), basis)
    for name, minima in together(symmetric_minimum, rows).items():
        place = measured.label, name
        if has_draws:
            yield Reading("alignment_dominance_chance", minima[1:].median(), *place)
        if not measured.is_drawn:
            yield Reading("alignment_dominance", minima[0], *place)
    for layer in snapshot.hidden:
        if layer.name not in rows:
            because = "the way from it to the output is no product of weights of fixed sizes"
            yield NotDefined(because, measured.label, layer.name)


def _products(
    snapshot: Snapshot,
    forward: Mapping[str, Tensor],
    rules: Iterable[MeasuredRule],
    basis: Tensor,
) -> dict[str, tuple[Tensor]]:
    """Return forward times feedback path on the error space under each rule, by layer."""
    found: dict[str, list[Tensor]] = {}
    for each in rules:
        if isinstance(each.rule, DirectRule):
            feedback = matrices_at_entries(snapshot, each.feedback)
        else:
            feedback = paths(snapshot, each.backward_weights, only=set(forward))
        for name, product in forward.items():
            if name in feedback:
                brought = feedback[name].to(product).reshape(product.shape)
                matrix = restricted(product @ brought.T, basis.to(product.device))
                found.setdefault(name, []).append(matrix)
    return {name: (torch.stack(each),) for name, each in found.items()}

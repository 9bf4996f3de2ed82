"""Alignment of forward weights, and of their change, with feedback (D1, D2)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import torch
from torch import Tensor

from alignlab.diagnostics._alignment_matrices import CHANGE, WEIGHTS
from alignlab.diagnostics._base import NotDefined, Reading, SnapshotDiagnostic, Variable
from alignlab.diagnostics._feedback import paths, unpaired
from alignlab.diagnostics._weight_cosines import of_direct, of_paths, of_replaced
from alignlab.diagnostics._weights import UNKNOWN_START, weight_changes
from alignlab.kernels.cosines import wide
from alignlab.rules._base import DirectRule, ReplacedWeightRule
from alignlab.sites import Layer
from alignlab.snapshot import MeasuredRule, Snapshot

__all__ = ["WeightFeedback"]

_DIMS = ("rule", "layer")
_NAME = "cosine_weight_feedback"
_CHANGE = "cosine_weight_change_feedback"
_ATTAINED = "attained over what weights of the layer can have"


class WeightFeedback(SnapshotDiagnostic):
    r"""Cosines of forward weights with the feedback that a rule uses in their place.

    * feedback alignment: :math:`\cos(W_l, R_l)`, R_l the weight that acts backwards, where it acts;
    * direct feedback: :math:`\cos(W_l, B_lB_{l-1}^\top)`, the output layer against
      :math:`B_{L-1}^\top`, convolutions as the matrices that they are; and along the path,
      :math:`\cos(B_l^\top, W_L\cdots W_{l+1})`;
    * the first two also of :math:`W - W(0)`, where the weights at which the training began are
      given. These are what the training did: W(0) dilutes the cosine of W, in wide layers to a
      fraction of it (:math:`c/\sqrt{1 + c^2}` where the change is c times as large as W(0)).

    **Reading.** Weights that have turned towards the feedback make the true signal the rule's;
    near 1 everywhere is "strong alignment". A layer at chance whose change is aligned is diluted;
    one whose change is at chance has not turned. A convolution is tied and local and cannot turn
    to dense feedback: ``..._attained`` is the cosine over the largest that its weights can have
    (``convolution_weight_attainable``), in [-1, 1].

    **Chance.** Redraws of direct feedback. For weights that act backwards a standard deviation of
    one over the root of the entries, or the null of rotated outputs where nothing is drawn. For
    drawn feedback nothing was observed.

    **Undefined.** A layer whose feedback never acts, as that of the first layer does not, says
    nothing. Direct feedback is compared with weights between two entries of the layer's own sizes;
    convolutions whose borders are reflected or repeated are left out. The change of weights from
    which feedback is derived says nothing of alignment.

    Source: Lillicrap et al. 2016 (FA); code of Refinetti et al. 2021 (DFA); the change, and
    attained over attainable, are our derivation.

    Example:
        >>> import torch
        >>> from alignlab.probe import Probe
        >>> from alignlab.rules import BP
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)
        ... )
        >>> loss, name = torch.nn.functional.cross_entropy, "weight-feedback"
        >>> with Probe(net, loss, rules=[BP()], diagnostics=[name], draws=32) as probe:
        ...     recording = probe.measure(torch.randn(20, 4), torch.arange(20) % 3)
        >>> recording["cosine_weight_feedback"].sel(layer="2").item()
        1.0
    """

    variables: ClassVar[tuple[Variable, ...]] = (
        Variable(
            _NAME,
            _DIMS,
            "Cosine of forward weights with feedback",
            source="Lillicrap et al. 2016 (FA); Refinetti et al. 2021, code (DFA: B_l B_{l-1}^T)",
            better="higher",
            valid=(-1.0, 1.0),
            alignment=True,
        ),
        Variable(
            "norm_ratio_weight_feedback",
            _DIMS,
            "Norm of the feedback over that of the forward weights",
            source="biotorch (weight ratio)",
            valid=(0.0, None),
        ),
        Variable(
            "cosine_feedback_path",
            _DIMS,
            "Cosine of direct feedback with the product of the forward weights above",
            source="DFA-Stall (code; row-wise there)",
            better="higher",
            valid=(-1.0, 1.0),
            alignment=True,
        ),
        Variable(
            _CHANGE,
            _DIMS,
            "Cosine of the change of forward weights since the start with feedback",
            better="higher",
            valid=(-1.0, 1.0),
            alignment=True,
        ),
        Variable(
            f"{_NAME}_attained",
            _DIMS,
            f"Cosine of convolution weights with feedback, {_ATTAINED}",
            better="higher",
            valid=(-1.0, 1.0),
        ),
        Variable(
            f"{_CHANGE}_attained",
            _DIMS,
            f"Cosine of the change of convolution weights with feedback, {_ATTAINED}",
            better="higher",
            valid=(-1.0, 1.0),
        ),
    )
    cost: ClassVar[float] = 11.0

    def measure(self, snapshot: Snapshot) -> Iterator[Reading | NotDefined]:
        """Yield the cosines of every rule, where they are defined, and the reasons elsewhere."""
        weights = snapshot.capture.module_weights()
        changes = weight_changes(snapshot)
        if not changes:
            yield NotDefined(f"nothing is said of the change of weights: {UNKNOWN_START}")
        for measured in snapshot.rules:
            if isinstance(measured.rule, DirectRule):
                yield from _direct(snapshot, measured, weights, changes)
            elif isinstance(measured.rule, ReplacedWeightRule):
                yield from _replaced(snapshot, measured, weights, changes)
            else:
                yield NotDefined("the rule has no feedback in the place of weights", measured.label)


def _direct(
    snapshot: Snapshot,
    measured: MeasuredRule,
    weights: Mapping[str, Tensor],
    changes: Mapping[str, Tensor],
) -> Iterator[Reading | NotDefined]:
    for layer, because in unpaired(snapshot, measured.feedback).items():
        yield NotDefined(because, measured.label, layer)
    names = {WEIGHTS: _NAME}
    if changes and measured.rule.is_derived:
        yield NotDefined(_derived(), measured.label)
    elif changes:
        names[CHANGE] = _CHANGE
    yield from of_direct(snapshot, measured, names)
    yield from of_paths("cosine_feedback_path", snapshot, measured, paths(snapshot, weights))


def _replaced(
    snapshot: Snapshot,
    measured: MeasuredRule,
    weights: Mapping[str, Tensor],
    changes: Mapping[str, Tensor],
) -> Iterator[Reading | NotDefined]:
    """Yield D1 of the layers whose feedback acts: those that pass a signal to a layer below."""
    layers = []
    for layer in snapshot.layers:
        if snapshot.capture.layout.passes_signal_on(layer):
            layers.append(layer)
        else:
            yield NotDefined(_never_acts(layer), measured.label, layer.name)
    yield from of_replaced(_NAME, snapshot, measured, weights, layers)
    if not measured.is_drawn:
        backward = measured.backward_weights
        for layer in layers:
            first, second = weights[layer.module], backward[layer.module]
            size = wide(first).norm()
            ratio = torch.where(size > 0, wide(second).norm() / size, torch.nan)
            yield Reading("norm_ratio_weight_feedback", ratio, measured.label, layer.name)
    if changes and measured.rule.is_derived:
        yield NotDefined(_derived(), measured.label)
    elif changes:
        yield from of_replaced(_CHANGE, snapshot, measured, changes, layers)


def _never_acts(layer: Layer) -> str:
    if layer.name != layer.module:
        return f"its weights are those of {layer.module}, of which they are compared once"
    return "its feedback never acts: it passes no signal to a layer below"


def _derived() -> str:
    return (
        "nothing is said of the change of weights: the feedback is derived from the present "
        "weights themselves"
    )

"""Alignment of direct feedback with the Jacobian of the output (D6)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

from alignlab.diagnostics._base import NotDefined, Reading, SnapshotDiagnostic, Variable
from alignlab.diagnostics._feedback import at_entries
from alignlab.diagnostics._jacobian_cosines import MEAN, PER_SAMPLE, from_rows, from_sketch
from alignlab.diagnostics._jacobians import AtEntry, jacobians
from alignlab.diagnostics._output_sketch import sketched_jacobians
from alignlab.diagnostics._together import together
from alignlab.kernels.cosines import wide
from alignlab.kernels.row_space import rank_one_cosine_bound, singular_values
from alignlab.rules._base import DirectRule
from alignlab.snapshot import MeasuredRule, Snapshot

__all__ = ["JacobianAlignment"]

_DIMS = ("rule", "layer")


class JacobianAlignment(SnapshotDiagnostic):
    r"""Cosines of direct feedback with the derivative of the output that it stands in for.

    .. math:: \cos(B_l, \bar J_l^\top), \qquad \bar J_l = \tfrac1N\sum_i J_l(x_i), \quad
        J_l(x) = \partial z/\partial h_l, \qquad\text{and}\qquad
        \tfrac1N\sum_i\cos(B_l, J_l(x_i)^\top),

    with z the pre-activation of the output layer and h_l the activation at the entry of layer l,
    where :math:`B_le` enters in place of :math:`J_l^\top e`. Averages of cosines and cosines of
    averages differ: a network whose gates turn the Jacobian from sample to sample has a small
    second number, whatever the feedback.

    **Reading.** Near 1 the feedback is the true backward map up to a factor, and every error is
    sent in its true direction. Unlike the cosine of error signals it asks about all directions of
    the error, those included that no sample has. It rises when the weights above the layer turn
    towards the feedback, or the feedback is learned. ``jacobian_feedback_symmetric_min`` is the
    smallest eigenvalue of the symmetric part of :math:`U^\top\bar J_lB_lU` over the largest
    singular value, with U the directions that the errors of the batch occupy: where it is
    positive, the mean Jacobian makes every error of that space descend. Beside it is its median
    under redraws.

    **Chance.** Independent entries of B give the cosine with any fixed matrix the standard
    deviation :math:`1/\sqrt{nC}`, for the mean of the samples' cosines times
    :math:`\|\tfrac1N\sum_iJ_i/\|J_i\|\|_F \le 1`. Where few entries or feedback of another
    structure spoil that, redraws of the feedback say it.

    **Many outputs.** Up to 64 outputs every row of the Jacobians is formed, for as many samples as
    fit in memory (``jacobian_samples``). Above, 32 random combinations of outputs are
    differentiated. Inner products and squared norms are then unbiased, one signal is held at a
    time, ``cosine_feedback_jacobian_standard_error`` says how far the first cosine is off, and
    chance levels contain the noise of the combinations: they are :math:`\sqrt{1 + (C-1)/32}` times
    as wide. Feedback of independent entries has them; other feedback has a value without a
    chance level, and is undecidable.

    ``jacobian_rank_one_bound`` is what the mean cosine with :math:`\bar J_l` of an estimate from a
    single random direction at the layer is at least; it is a property of the network.

    **Undefined** for rules without direct feedback, for layers at whose entry none enters, and
    where the output of one sample depends on others (batch norm in training).

    Source: our derivation; the quantity was asked for by reviewers of GrAPE (ICLR 2026).

    Example:
        >>> import torch
        >>> from alignlab.probe import Probe
        >>> from alignlab.rules import DFA
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)
        ... )
        >>> loss, name = torch.nn.functional.cross_entropy, "jacobian-alignment"
        >>> with Probe(net, loss, rules=[DFA(seed=0)], diagnostics=[name], draws=32) as probe:
        ...     recording = probe.measure(torch.randn(20, 4), torch.arange(20) % 3)
        >>> bool(abs(recording["cosine_feedback_jacobian"].sel(layer="0").item()) <= 1.0)
        True
    """

    variables: ClassVar[tuple[Variable, ...]] = (
        Variable(
            MEAN,
            _DIMS,
            "Cosine of direct feedback with the mean Jacobian of the output",
            better="higher",
            valid=(None, None),
            alignment=True,
        ),
        Variable(
            f"{MEAN}_standard_error",
            _DIMS,
            "Standard error of that cosine over random combinations of outputs, 0 where exact",
            source="Hutchinson 1990; our derivation",
            valid=(0.0, None),
        ),
        Variable(
            PER_SAMPLE,
            _DIMS,
            "Mean over samples of the cosine of direct feedback with the Jacobian of the output",
            better="higher",
            valid=(None, None),
            alignment=True,
        ),
        Variable(
            "jacobian_feedback_symmetric_min",
            _DIMS,
            "Smallest eigenvalue of the symmetric part of mean Jacobian times feedback on the "
            "error space, over the largest singular value",
            better="higher",
            valid=(-1.0, 1.0),
        ),
        Variable(
            "jacobian_feedback_symmetric_min_chance",
            _DIMS,
            "Median of that over redraws of the feedback",
            valid=(-1.0, 1.0),
        ),
        Variable(
            "jacobian_rank_one_bound",
            ("layer",),
            "Least mean cosine of a rank-one estimate of the mean Jacobian with it",
            valid=(0.0, 1.0),
        ),
        Variable(
            "jacobian_samples",
            (),
            "Samples of which every row of the Jacobian was formed; 0 where none was",
            units="count",
            valid=(0.0, None),
        ),
    )
    cost: ClassVar[float] = 14.0

    def measure(self, snapshot: Snapshot) -> Iterator[Reading | NotDefined]:
        """Yield the cosines of every direct rule, and the bound of every layer."""
        exact = snapshot.shared(jacobians)
        if not exact.because:
            yield Reading("jacobian_samples", float(len(exact.samples)))
            yield from _bounds(exact.at)
            for measured in snapshot.rules:
                yield from _missing(snapshot, measured)
                yield from from_rows(snapshot, measured, exact.at)
            return
        found = snapshot.shared(sketched_jacobians)
        if found.because:
            yield NotDefined(found.because)
            return
        yield Reading("jacobian_samples", 0.0)
        for measured in snapshot.rules:
            yield from _missing(snapshot, measured)
            yield from from_sketch(snapshot, measured, found)


def _missing(snapshot: Snapshot, measured: MeasuredRule) -> Iterator[NotDefined]:
    """Yield why layers have no feedback to compare."""
    if not isinstance(measured.rule, DirectRule):
        yield NotDefined("the rule has no direct feedback", measured.label)
        return
    fed = at_entries(snapshot, measured.feedback)
    for layer in snapshot.layers:
        if layer.is_output:
            yield NotDefined("it is an output, which has the error itself", "", layer.name)
        elif layer.name not in fed:
            yield NotDefined("no feedback enters there", measured.label, layer.name)


def _bounds(at: Mapping[str, AtEntry]) -> Iterator[Reading]:
    grams = {name: (wide(each.mean) @ wide(each.mean).T,) for name, each in at.items()}
    for name, values in together(singular_values, grams).items():
        bound = rank_one_cosine_bound(values, at[name].mean.shape[1])
        yield Reading("jacobian_rank_one_bound", bound, layer=name)

"""Alignment matrices of weights and of their change, on the error space (D3)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from alignlab.diagnostics._alignment_matrices import (
    CHANGE,
    WEIGHTS,
    Fits,
    Fitted,
    direct_fits,
    spectra,
)
from alignlab.diagnostics._base import NotDefined, Reading, SnapshotDiagnostic, Variable
from alignlab.diagnostics._feedback import error_space, unpaired
from alignlab.diagnostics._redraws import with_redraws
from alignlab.diagnostics._together import together
from alignlab.diagnostics._weights import UNKNOWN_START
from alignlab.kernels.alignment_matrix import (
    condition_number,
    cosine_with_identity,
    symmetric_eigenvalues,
)
from alignlab.rules._base import DirectRule
from alignlab.snapshot import MeasuredRule, Snapshot

__all__ = ["AlignmentMatrix"]

_DIMS = ("rule", "layer")
_PREFIX = {WEIGHTS: "alignment_matrix", CHANGE: "alignment_matrix_change"}
_OF = {_PREFIX[WEIGHTS]: "weights", _PREFIX[CHANGE]: "change of the weights"}
_SOURCE = (
    "reconstruction after Refinetti et al. 2021; of the {}, and restricted to the error space: "
    "our derivation"
)


def _variables(prefix: str, of: str) -> Iterator[Variable]:
    source = _SOURCE.format(of)
    matrix = f"alignment matrix of the {of}"
    yield Variable(
        f"{prefix}_condition", _DIMS, f"Condition number on the error space: {matrix}",
        source=source, better="lower", valid=(1.0, None),
    )  # fmt: skip
    yield Variable(
        f"{prefix}_condition_chance", _DIMS, f"Median of that over redraws: {matrix}",
        valid=(1.0, None),
    )  # fmt: skip
    yield Variable(
        f"{prefix}_explained", _DIMS, f"Share of the energy of the {of} that it explains",
        source=source, better="higher", valid=(0.0, 1.0),
    )  # fmt: skip
    yield Variable(
        f"{prefix}_explained_chance", _DIMS, f"Mean of that over redraws: {matrix}",
        valid=(0.0, 1.0),
    )  # fmt: skip
    yield Variable(
        f"{prefix}_symmetric_min", _DIMS,
        f"Smallest eigenvalue of the symmetric part over the largest singular value: {matrix}",
        better="higher", valid=(-1.0, 1.0),
    )  # fmt: skip
    yield Variable(
        f"{prefix}_symmetric_eigenvalue", (*_DIMS, "component"),
        f"Eigenvalues of the symmetric part over the largest singular value: {matrix}",
        valid=(-1.0, 1.0),
    )  # fmt: skip
    yield Variable(
        f"{prefix}_cosine_identity", _DIMS,
        f"Signed cosine with the identity on the error space: {matrix}",
        source=source, better="higher", valid=(-1.0, 1.0), alignment=True,
    )  # fmt: skip
    vector, values = (*_DIMS, "singular_value"), f"{prefix}_singular_value"
    yield Variable(values, vector, f"Singular values over the largest: {matrix}", valid=(0.0, 1.0))
    for edge, name in (("low", "Lower"), ("high", "Upper")):
        yield Variable(
            f"{values}_{edge}", vector,
            f"{name} edge of the central 95% of them by chance: {matrix}", valid=(0.0, 1.0),
        )  # fmt: skip


class AlignmentMatrix(SnapshotDiagnostic):
    r"""How well weights are :math:`B_lA_lB_{l-1}^\top`, and how well conditioned that A is.

    :math:`A_l = B_l^+W_l(B_{l-1}^+)^\top` by least squares, :math:`A_L = W_L(B_{L-1}^+)^\top` at
    the output, and the same of :math:`W_l - W_l(0)` (``alignment_matrix_change``) where the weights
    at which the training began are given. A linear network that direct feedback trains from zero
    has exactly that form; from other weights only their change has it, and early in the training.

    Condition number, signed cosine with the identity, eigenvalues of the symmetric part and
    singular values are those of :math:`U^\top A_lU`, with U the directions that the errors of the
    batch occupy (``alignment_matrix_rank`` of them). With softmax the errors of a sample sum to
    zero, so that A itself is singular by construction.

    **Reading.** A share far above chance with a condition number below that of redraws and a
    cosine near 1 is strong alignment: the signal that backpropagation would bring is the rule's.
    A large share with a large condition number: weights follow the feedback, but errors of few
    directions have trained them. A share at chance: weights have not entered the feedback's
    space. A positive smallest eigenvalue of the symmetric part: every error descends.

    **Chance.** Redraws of the feedback. The expected share for unrelated weights and isotropic
    feedback is :math:`\min(C, n_l)\min(C, n_{l-1})/(n_ln_{l-1})`. For drawn feedback there is
    chance alone.

    **Undefined** for rules without direct feedback, for layers that are not between two entries
    of their own sizes (the first one is not), for borders that are reflected or repeated, and
    where all errors are zero.

    Source: Refinetti et al. 2021, reconstructed; the error space is our derivation.

    Example:
        >>> from alignlab.probe import Probe
        >>> from alignlab.rules import DFA
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)
        ... )
        >>> loss, name = torch.nn.functional.cross_entropy, "alignment-matrix"
        >>> with Probe(net, loss, rules=[DFA(seed=0)], diagnostics=[name], draws=32) as probe:
        ...     recording = probe.measure(torch.randn(20, 4), torch.arange(20) % 3)
        >>> recording["alignment_matrix_rank"].sel(layer="2").item()
        2.0
    """

    variables: ClassVar[tuple[Variable, ...]] = (
        Variable(
            "alignment_matrix_rank",
            _DIMS,
            "Dimension of the error space on which alignment matrices are read",
            valid=(0.0, None),
        ),
        *(variable for prefix, of in _OF.items() for variable in _variables(prefix, of)),
    )
    cost: ClassVar[float] = 6.0

    def measure(self, snapshot: Snapshot) -> Iterator[Reading | NotDefined]:
        """Yield the matrices of every direct rule; for drawn feedback, only those by chance."""
        if snapshot.initial is None:
            yield NotDefined(f"nothing is said of the change of weights: {UNKNOWN_START}")
        rank = error_space(snapshot.exact_error).shape[1]
        if not rank:
            yield NotDefined("all errors of the batch are zero")
            return
        for measured in snapshot.rules:
            if not isinstance(measured.rule, DirectRule):
                yield NotDefined("the rule has no direct feedback", measured.label)
                continue
            for layer, because in unpaired(snapshot, measured.feedback).items():
                yield NotDefined(because, measured.label, layer)
            fits = snapshot.shared(direct_fits)[measured.label]
            for layer in fits.observed[WEIGHTS]:
                yield Reading("alignment_matrix_rank", float(rank), measured.label, layer)
            yield from _of_rule(fits, measured, kind=snapshot.chance_kind(measured))


def _of_rule(fits: Fits, measured: MeasuredRule, *, kind: str) -> Iterator[Reading]:
    for which, found in fits.observed.items():
        prefix, drawn = _PREFIX[which], [draw[which] for draw in fits.draws]
        cosines = [_cosines(each) for each in (found, *drawn)]
        name = f"{prefix}_cosine_identity"
        yield from with_redraws(name, measured, cosines[0], cosines[1:], kind=kind)
        for layer, reading in _numbers(found, drawn, is_drawn=measured.is_drawn):
            yield Reading(prefix + reading.name, reading.value, measured.label, layer)


def _cosines(matrices: Mapping[str, Fitted]) -> dict[str, Tensor]:
    rows = {layer: (each.matrix,) for layer, each in matrices.items()}
    return together(cosine_with_identity, rows)


def _numbers(
    observed: Mapping[str, Fitted], draws: Sequence[Mapping[str, Fitted]], *, is_drawn: bool
) -> Iterator[tuple[str, Reading]]:
    """Yield layers with their readings, which lack the first part of their name."""
    stacked = {layer: torch.stack([draw[layer].matrix for draw in draws]) for layer in observed}
    by_draw = spectra(stacked)
    own = spectra({layer: each.matrix for layer, each in observed.items()})
    edges = torch.tensor([0.025, 0.975], dtype=torch.float64)
    for layer, each in observed.items():
        conditions = condition_number(stacked[layer])
        explained = torch.stack([draw[layer].explained for draw in draws])
        low, high = torch.quantile(by_draw[layer], edges.to(by_draw[layer].device), dim=0)
        yield layer, Reading("_condition_chance", conditions.median())
        yield layer, Reading("_explained_chance", explained.mean())
        yield layer, Reading("_singular_value_low", low)
        yield layer, Reading("_singular_value_high", high)
        if is_drawn:
            continue
        eigenvalues = symmetric_eigenvalues(each.matrix)
        yield layer, Reading("_condition", condition_number(each.matrix))
        yield layer, Reading("_explained", each.explained)
        yield layer, Reading("_symmetric_min", eigenvalues[-1])
        yield layer, Reading("_symmetric_eigenvalue", eigenvalues)
        yield layer, Reading("_singular_value", own[layer])

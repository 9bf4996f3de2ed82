"""Alignment matrices and their conditioning on the error space (D3)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from alignlab.diagnostics._base import Reading, SnapshotDiagnostic, Variable
from alignlab.diagnostics._chance import adjusted_statuses, chance_of, readings
from alignlab.diagnostics._feedback import Pair, direct_pairs, error_space
from alignlab.feedback import Feedback
from alignlab.kernels.alignment_matrix import (
    condition_number,
    cosine_with_identity,
    restricted,
    symmetric_minimum,
)
from alignlab.kernels.cosines import wide
from alignlab.kernels.layers import linear_part, operator_energy
from alignlab.rules._base import DirectRule
from alignlab.snapshot import MeasuredRule, Snapshot

__all__ = ["AlignmentMatrix"]

_DIMS = ("rule", "layer")
_ROUNDING = 1e-12
_SOURCE = (
    "reconstruction after Refinetti et al. 2021, of the weights and not of their change; "
    "restricted to the error space: our derivation"
)


class AlignmentMatrix(SnapshotDiagnostic):
    """How well W_l is B_l A B_{l-1}^T, and how well conditioned that A is."""

    variables: ClassVar[tuple[Variable, ...]] = (
        Variable(
            "alignment_matrix_condition",
            _DIMS,
            "Condition number of the alignment matrix on the error space",
            source=_SOURCE,
            better="lower",
            valid=(1.0, None),
        ),
        Variable(
            "alignment_matrix_condition_chance",
            _DIMS,
            "Median condition number of random matrices of that size",
            valid=(1.0, None),
        ),
        Variable(
            "alignment_matrix_explained",
            _DIMS,
            "Share of the weights' energy that the best alignment matrix explains",
            source=_SOURCE,
            better="higher",
            valid=(0.0, 1.0),
        ),
        Variable(
            "alignment_matrix_explained_chance",
            _DIMS,
            "That share for weights unrelated to the feedback",
            valid=(0.0, 1.0),
        ),
        Variable(
            "alignment_matrix_rank",
            _DIMS,
            "Dimension of the error space on which the matrix is read",
            valid=(0.0, None),
        ),
        Variable(
            "alignment_matrix_symmetric_min",
            _DIMS,
            "Smallest eigenvalue of the symmetric part over the largest singular value",
            better="higher",
            valid=(-1.0, 1.0),
        ),
        Variable(
            "alignment_matrix_cosine_identity",
            _DIMS,
            "Signed cosine of the alignment matrix with the identity on the error space",
            source=_SOURCE,
            better="higher",
            valid=(-1.0, 1.0),
            alignment=True,
        ),
        Variable(
            "alignment_matrix_singular_value",
            (*_DIMS, "singular_value"),
            "Singular values of the alignment matrix over the largest",
            valid=(0.0, 1.0),
        ),
        Variable(
            "alignment_matrix_singular_value_low",
            (*_DIMS, "singular_value"),
            "Lower edge of the central 95% of them by chance",
            valid=(0.0, 1.0),
        ),
        Variable(
            "alignment_matrix_singular_value_high",
            (*_DIMS, "singular_value"),
            "Upper edge of the central 95% of them by chance",
            valid=(0.0, 1.0),
        ),
    )
    cost: ClassVar[float] = 0.1

    def measure(self, snapshot: Snapshot) -> Iterator[Reading]:
        """Yield the matrices of every direct rule; for drawn feedback, only those by chance."""
        for measured in snapshot.rules:
            if isinstance(measured.rule, DirectRule):
                yield from _of_rule(snapshot, measured)


@dataclass(frozen=True)
class _Matrix:
    """An alignment matrix on the error space and the share of the weights it explains."""

    restricted: Tensor
    explained: float

    @property
    def spectrum(self) -> np.ndarray:
        values = torch.linalg.svdvals(self.restricted).cpu().numpy()
        shares = np.asarray(values / max(values[0], 1e-300))
        # Where a layer is narrower than the error space the rest is zero but for rounding.
        return np.where(shares > _ROUNDING, shares, 0.0)


def _of_rule(snapshot: Snapshot, measured: MeasuredRule) -> Iterator[Reading]:
    basis = error_space(snapshot.exact_error)
    if not basis.shape[1]:
        return
    observed = _matrices(snapshot, measured.feedback, basis)
    if not observed:
        return
    draws: dict[str, list[_Matrix]] = {name: [] for name in observed}
    for redrawn in snapshot.redrawn(measured, min(snapshot.draws, 200)):
        for name, matrix in _matrices(snapshot, redrawn.feedback, basis).items():
            draws[name].append(matrix)
    values = [float(cosine_with_identity(matrix.restricted)) for matrix in observed.values()]
    chances = [
        chance_of(
            value,
            np.array([float(cosine_with_identity(m.restricted)) for m in draws[name]]),
            kind="feedback_draw",
            concentration=float("nan"),
        )
        for name, value in zip(observed, values, strict=True)
    ]
    statuses = adjusted_statuses(values, chances, is_drawn=measured.is_drawn, is_cosine=False)
    for (name, matrix), value, chance, status in zip(
        observed.items(), values, chances, statuses, strict=True
    ):
        place = (measured.label, name, "")
        yield from readings(
            "alignment_matrix_cosine_identity",
            value,
            chance,
            status,
            undefined=float(not np.isfinite(value)),
            place=place,
        )
        for reading in _numbers(matrix, draws[name], is_drawn=measured.is_drawn):
            yield Reading(reading.name, reading.value, measured.label, name)


def _numbers(observed: _Matrix, draws: Sequence[_Matrix], *, is_drawn: bool) -> Iterator[Reading]:
    prefix = "alignment_matrix"
    spectra = np.stack([draw.spectrum for draw in draws])
    conditions = [float(condition_number(draw.restricted)) for draw in draws]
    low, high = np.quantile(spectra, [0.025, 0.975], axis=0)
    yield Reading(f"{prefix}_rank", float(observed.restricted.shape[0]))
    yield Reading(f"{prefix}_condition_chance", float(np.median(conditions)))
    yield Reading(f"{prefix}_explained_chance", float(np.mean([d.explained for d in draws])))
    yield Reading(f"{prefix}_singular_value_low", low)
    yield Reading(f"{prefix}_singular_value_high", high)
    if is_drawn:
        return
    yield Reading(f"{prefix}_condition", condition_number(observed.restricted))
    yield Reading(f"{prefix}_explained", observed.explained)
    yield Reading(f"{prefix}_symmetric_min", symmetric_minimum(observed.restricted))
    yield Reading(f"{prefix}_singular_value", observed.spectrum)


def _matrices(
    snapshot: Snapshot, feedback: Mapping[str, Feedback], basis: Tensor
) -> dict[str, _Matrix]:
    weights = snapshot.capture.module_weights()
    result = {}
    for pair in direct_pairs(snapshot, feedback):
        module = snapshot.capture.module_of(pair.layer)
        result[pair.layer.name] = _matrix(pair, module, wide(weights[pair.layer.module]), basis)
    return result


def _matrix(pair: Pair, module: torch.nn.Module, weight: Tensor, basis: Tensor) -> _Matrix:
    r"""Return A = B_l^+ W_l (B_{l-1}^+)^T restricted, and what B_l A B_{l-1}^T explains of W_l."""
    n = pair.below.shape[0]
    below = wide(pair.below).reshape(n, -1)
    inverse_below = torch.linalg.pinv(below.T)
    images = linear_part(module, inverse_below.reshape(n, *pair.below.shape[1:]), weight)
    images = images.reshape(n, -1)
    if pair.above is None:
        above = torch.eye(n, dtype=torch.float64, device=below.device)
    else:
        above = wide(pair.above).reshape(n, -1)
    matrix = torch.linalg.pinv(above.T) @ images.T
    energy = ((above @ above.T) @ matrix @ (below @ below.T) * matrix).sum()
    total = operator_energy(module, weight, pair.below.shape[1:])
    return _Matrix(restricted(matrix, basis.to(matrix.device)), float(energy / total))

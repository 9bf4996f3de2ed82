r"""Weights beside direct feedback, :math:`W_l` and :math:`B_lB_{l-1}^\top`, read once for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from alignlab.diagnostics._feedback import Pair, direct_pairs, error_space
from alignlab.diagnostics._together import together
from alignlab.diagnostics._weights import weight_changes
from alignlab.kernels.alignment_matrix import restricted
from alignlab.kernels.cosines import wide
from alignlab.kernels.layers import linear_part, operator_energy
from alignlab.rules._base import DirectRule

if TYPE_CHECKING:
    from alignlab.feedback import Feedback
    from alignlab.snapshot import MeasuredRule, Snapshot

__all__ = ["CHANGE", "WEIGHTS", "Fits", "Fitted", "direct_fits", "spectra"]

WEIGHTS, CHANGE = "weights", "change"
"""What is read through feedback: the weights, or what they have gained since the start."""

_FEW_ERRORS = 64
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Fitted:
    r"""What the weights of one layer are under one draw of feedback.

    Attributes:
        matrix: :math:`A = B_l^+W_l(B_{l-1}^+)^\top` on the error space, ``(r, r)``, float64.
        explained: Share of the weights' energy that the whole of A explains, scalar.
        cosine: Cosine of the weights with :math:`B_lB_{l-1}^\top`, scalar.
    """

    matrix: Tensor
    explained: Tensor
    cosine: Tensor


Drawn = Mapping[str, Mapping[str, Fitted]]


@dataclass(frozen=True)
class Fits:
    """Weights, and their change where it is known, under a rule's feedback and its redraws.

    Attributes:
        observed: By ``WEIGHTS`` or ``CHANGE``, and by layer.
        draws: The same under each redraw.
    """

    observed: Drawn
    draws: Sequence[Drawn]


@dataclass(frozen=True)
class _Held:
    """Weights of a layer and the squared norm of its unrolled matrix."""

    module: nn.Module
    weight: Tensor
    energy: Tensor


def direct_fits(snapshot: Snapshot) -> dict[str, Fits]:
    """Return what weights are under direct feedback, by label of the rule.

    There are 64 redraws, and 32 for more than 64 errors. Their products with weights are as
    precise as the errors of the network, the observed ones float64.
    """
    sets: dict[str, Mapping[str, Tensor]] = {WEIGHTS: snapshot.capture.module_weights()}
    changes = weight_changes(snapshot)
    if changes:
        sets[CHANGE] = changes
    most = 64 if snapshot.capture.n_errors <= _FEW_ERRORS else 32
    return {
        measured.label: _of_rule(snapshot, measured, sets, most)
        for measured in snapshot.rules
        if isinstance(measured.rule, DirectRule)
    }


def _of_rule(
    snapshot: Snapshot,
    measured: MeasuredRule,
    sets: Mapping[str, Mapping[str, Tensor]],
    most: int,
) -> Fits:
    basis = error_space(snapshot.exact_error)
    held = {name: _held(snapshot, measured.feedback, each) for name, each in sets.items()}
    low = torch.promote_types(snapshot.error.dtype, torch.float32)
    return Fits(
        _fitted(snapshot, measured.feedback, held, basis=basis, dtype=torch.float64),
        [
            _fitted(snapshot, each.feedback, held, basis=basis, dtype=low)
            for each in snapshot.redrawn(measured, min(snapshot.draws, most))
        ],
    )


def _held(
    snapshot: Snapshot, feedback: Mapping[str, Feedback], weights: Mapping[str, Tensor]
) -> dict[str, _Held]:
    """Return the weights between two feedback matrices, by layer."""
    found = {}
    for pair in direct_pairs(snapshot, feedback):
        module, weight = snapshot.capture.module_of(pair.layer), wide(weights[pair.layer.module])
        energy = operator_energy(module, weight, pair.below.shape[1:])
        found[pair.layer.name] = _Held(module, weight, energy)
    return found


def _fitted(
    snapshot: Snapshot,
    feedback: Mapping[str, Feedback],
    held: Mapping[str, Mapping[str, _Held]],
    *,
    basis: Tensor,
    dtype: torch.dtype,
) -> Drawn:
    result: dict[str, dict[str, Fitted]] = {name: {} for name in held}
    for pair in direct_pairs(snapshot, feedback):
        fit = _Fit(pair, basis, dtype)
        for name, weights in held.items():
            result[name][pair.layer.name] = fit(weights[pair.layer.name])
    return result


class _Fit:
    """Least squares W = B_l A B_{l-1}^T between two feedback matrices, by their Gram matrices."""

    def __init__(self, pair: Pair, basis: Tensor, dtype: torch.dtype) -> None:
        self._n = pair.below.shape[0]
        self._basis = basis
        self._inputs = pair.below.to(basis.device, dtype)
        self._below = _gram(self._inputs)
        self._inverse_below = _inverse(self._below)
        self._outputs = None if pair.above is None else pair.above.to(basis.device, dtype)
        whole = torch.eye(self._n, dtype=torch.float64, device=basis.device)
        self._above = whole if self._outputs is None else _gram(self._outputs)
        self._inverse_above = _inverse(self._above)
        self._energy = (self._above * self._below).sum().clamp_min(0.0)

    def __call__(self, held: _Held) -> Fitted:
        """Return A of some weights, what it explains of them, and their cosine."""
        weight = held.weight.to(self._inputs)
        images = linear_part(held.module, self._inputs, weight).reshape(self._n, -1)
        inside = images.T if self._outputs is None else self._outputs.flatten(1) @ images.T
        inside = wide(inside)
        matrix = self._inverse_above @ inside @ self._inverse_below
        explained = (self._above @ matrix @ self._below * matrix).sum() / held.energy
        explained = explained.clamp(0.0, 1.0)
        cosine = torch.trace(inside) / self._energy.sqrt() / held.energy.sqrt()
        return Fitted(restricted(matrix, self._basis), explained, cosine.clamp(-1.0, 1.0))


def _gram(rows: Tensor) -> Tensor:
    flat = rows.flatten(1)
    return wide(flat @ flat.T)


def _inverse(gram: Tensor) -> Tensor:
    """Return the pseudo-inverse of B^T B, without directions in which B is below 1e-5."""
    result: Tensor = torch.linalg.pinv(gram, rtol=1e-10, hermitian=True)
    return result


def spectra(matrices: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return singular values over the largest, by layer.

    Args:
        matrices: Shape ``(..., r, r)``.

    Returns:
        In [0, 1], descending, shape ``(..., r)``; NaN for the zero matrix.
    """
    return together(_shares, {name: (matrix,) for name, matrix in matrices.items()})


def _shares(matrix: Tensor) -> Tensor:
    values = torch.linalg.svdvals(matrix)
    shares = values / values[..., :1]
    # Where a layer is narrower than the error space the rest is zero but for rounding.
    kept: Tensor = shares * ~(shares <= _ROUNDING)
    return kept

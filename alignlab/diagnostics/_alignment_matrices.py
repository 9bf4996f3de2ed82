"""Alignment matrices on the error space, of weights and of their change, under any feedback."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from alignlab.diagnostics._feedback import Pair, direct_pairs
from alignlab.diagnostics._together import together
from alignlab.feedback import Feedback
from alignlab.kernels.alignment_matrix import restricted
from alignlab.kernels.cosines import wide
from alignlab.kernels.layers import linear_part, operator_energy

if TYPE_CHECKING:
    from alignlab.snapshot import Snapshot

__all__ = ["Fitted", "Readable", "fitted", "readable", "spectra"]

_ROUNDING = 1e-12


@dataclass(frozen=True)
class Readable:
    """Weights of a layer that can be read through feedback.

    Attributes:
        module: The layer's module.
        weight: W, or its change, float64.
        energy: Squared norm of the layer's unrolled matrix, scalar.
    """

    module: nn.Module
    weight: Tensor
    energy: Tensor


@dataclass(frozen=True)
class Fitted:
    """Alignment matrices of one layer under one draw of feedback.

    Attributes:
        matrix: On the error space, shape ``(r, r)``, float64.
        explained: Share of the weights' energy that the whole matrix explains, scalar.
    """

    matrix: Tensor
    explained: Tensor


def readable(
    snapshot: Snapshot, feedback: Mapping[str, Feedback], weights: Mapping[str, Tensor]
) -> dict[str, Readable]:
    """Return the weights between two feedback matrices, by layer."""
    found = {}
    for pair in direct_pairs(snapshot, feedback):
        module, weight = snapshot.capture.module_of(pair.layer), weights[pair.layer.module]
        energy = operator_energy(module, wide(weight), pair.below.shape[1:])
        found[pair.layer.name] = Readable(module, wide(weight), energy)
    return found


def fitted(
    snapshot: Snapshot,
    feedback: Mapping[str, Feedback],
    weights: Sequence[Mapping[str, Readable]],
    *,
    basis: Tensor,
) -> list[dict[str, Fitted]]:
    r"""Return :math:`A = B_l^+W_l(B_{l-1}^+)^\top` by layer, for every set of weights.

    Args:
        snapshot: The probing.
        feedback: Feedback of the layers.
        weights: Sets of weights by layer; feedback is inverted once for all of them.
        basis: Directions of the errors, shape ``(n_errors, r)``.
    """
    result: list[dict[str, Fitted]] = [{} for _ in weights]
    for pair in direct_pairs(snapshot, feedback):
        fit = _Fit(pair, basis)
        for place, each in zip(result, weights, strict=True):
            place[pair.layer.name] = fit(each[pair.layer.name])
    return result


class _Fit:
    """Least squares W = B_l A B_{l-1}^T between two feedback matrices."""

    def __init__(self, pair: Pair, basis: Tensor) -> None:
        self._pair = pair
        self._n = pair.below.shape[0]
        self._basis = basis
        self._below = wide(pair.below).to(basis.device).reshape(self._n, -1)
        self._inverse_below = torch.linalg.pinv(self._below.T)
        if pair.above is None:
            self._above = torch.eye(self._n, dtype=torch.float64, device=basis.device)
        else:
            self._above = wide(pair.above).to(basis.device).reshape(self._n, -1)
        self._inverse_above = torch.linalg.pinv(self._above.T)

    def __call__(self, held: Readable) -> Fitted:
        """Return A of some weights, and what B_l A B_{l-1}^T explains of them."""
        columns = self._inverse_below.reshape(self._n, *self._pair.below.shape[1:])
        images = linear_part(held.module, columns, held.weight).reshape(self._n, -1)
        matrix = self._inverse_above @ images.T
        above, below = self._above, self._below
        energy = ((above @ above.T) @ matrix @ (below @ below.T) * matrix).sum()
        return Fitted(restricted(matrix, self._basis), energy / held.energy)


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
    return shares * ~(shares <= _ROUNDING)

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
    dtype: torch.dtype = torch.float64,
) -> list[dict[str, Fitted]]:
    r"""Return :math:`A = B_l^+W_l(B_{l-1}^+)^\top` by layer, for every set of weights.

    Args:
        snapshot: The probing.
        feedback: Feedback of the layers.
        weights: Sets of weights by layer; feedback is inverted once for all of them.
        basis: Directions of the errors, shape ``(n_errors, r)``.
        dtype: Precision of products of feedback with weights.
    """
    result: list[dict[str, Fitted]] = [{} for _ in weights]
    for pair in direct_pairs(snapshot, feedback):
        fit = _Fit(pair, basis, dtype)
        for place, each in zip(result, weights, strict=True):
            place[pair.layer.name] = fit(each[pair.layer.name])
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

    def __call__(self, held: Readable) -> Fitted:
        """Return A of some weights, and what B_l A B_{l-1}^T explains of them."""
        weight = held.weight.to(self._inputs)
        images = linear_part(held.module, self._inputs, weight).reshape(self._n, -1)
        inside = images.T if self._outputs is None else self._outputs.flatten(1) @ images.T
        matrix = self._inverse_above @ wide(inside) @ self._inverse_below
        energy = (self._above @ matrix @ self._below * matrix).sum()
        return Fitted(restricted(matrix, self._basis), energy / held.energy)


def _gram(rows: Tensor) -> Tensor:
    flat = rows.flatten(1)
    return wide(flat @ flat.T)


def _inverse(gram: Tensor) -> Tensor:
    """Return the pseudo-inverse of B^T B, without directions in which B is below 1e-5."""
    return torch.linalg.pinv(gram, rtol=1e-10, hermitian=True)


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

"""Factors of unrolled layers: the weight's by singular values, the support's without signs."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from math import prod

import torch
from scipy import sparse
from sklearn.decomposition import NMF
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor, nn

from alignlab.errors import InputError
from alignlab.kernels.cosines import wide
from alignlab.kernels.layers import adjoint, linear_part
from alignlab.kernels.unrolled import output_shape, support, unrolled

__all__ = ["Factors", "exact_factors", "singular_factors", "support_factors"]

_OVERSAMPLED = 10
_MOST_ITERATIONS = 200


@dataclass(frozen=True)
class Factors:
    """A product of low rank, T = above^T below, in the place of an unrolled layer.

    Attributes:
        above: At the output, shape ``(rank, *output_shape)``.
        below: At the input, shape ``(rank, *input_shape)``.
        values: Singular values that the pairs share, descending, ``(rank,)``; of factors
            without signs the norms of the pairs' products.
    """

    above: Tensor
    below: Tensor
    values: Tensor


def singular_factors(
    module: nn.Module,
    weight: Tensor,
    shape: torch.Size | tuple[int, ...],
    *,
    rank: int,
    iterations: int = 12,
    seed: int = 0,
) -> Factors:
    r"""Return the truncated singular value decomposition of an unrolled layer, never written out.

    Each factor holds the root of the singular value, so that their product is the best
    approximation of that rank, :math:`\sum_{j\le r}\sigma_j u_j v_j^\top`. Found by iteration of
    a random subspace with ten vectors more than are wanted: singular values come from below, and
    of close ones the vectors may be any in their span.

    Source: Halko, Martinsson and Tropp 2011, SIAM Review 53(2), algorithm 4.4.

    Args:
        module: Linear or convolution, transposed or not.
        weight: Shaped like the module's weight.
        shape: Shape of one input.
        rank: Pairs, at least 1; those beyond the smaller side of the layer are zero.
        iterations: Of the subspace; each applies the layer forward and back.
        seed: Of the first subspace.

    Raises:
        InputError: No pair is asked for.

    Example:
        >>> weight = torch.diag(torch.tensor([4.0, 1.0]))
        >>> singular_factors(nn.Linear(2, 2), weight, (2,), rank=1).values.tolist()
        [4.0]
    """
    if rank < 1:
        msg = f"A product of rank {rank} has no factors; ask for at least 1."
        raise InputError(msg)
    outer = linear_part(module, weight.new_zeros((1, *shape)), weight).shape[1:]
    count = min(rank + _OVERSAMPLED, prod(shape), prod(outer))
    back = adjoint(module, weight, torch.Size((count, *shape)))

    def forth(rows: Tensor) -> Tensor:
        return linear_part(module, rows.reshape(-1, *shape), weight).flatten(1)

    stream = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, prod(shape), generator=stream).to(weight)
    for _ in range(iterations):
        images = _orthonormal(forth(_orthonormal(rows)))
        rows = back(images).flatten(1)
    left, values, right = torch.linalg.svd(rows, full_matrices=False)
    kept = min(rank, count)
    root = values[:kept].sqrt().unsqueeze(1)
    above = (left.T @ images)[:kept] * root
    return Factors(
        _padded(above.reshape(-1, *outer), rank),
        _padded((right[:kept] * root).reshape(-1, *shape), rank),
        _padded(values[:kept], rank),
    )


def exact_factors(
    module: nn.Module, weight: Tensor, shape: torch.Size | tuple[int, ...], *, rank: int
) -> Factors:
    r"""Return the truncated singular value decomposition of a layer that is small enough to unroll.

    Unlike ``singular_factors`` it forms the whole matrix, and is exact up to rounding.

    Args:
        module: Linear or convolution, transposed or not.
        weight: Shaped like the module's weight.
        shape: Shape of one input.
        rank: Pairs, at least 1; those beyond the smaller side of the layer are zero.

    Returns:
        Float64.

    Example:
        >>> weight = torch.diag(torch.tensor([4.0, 1.0]))
        >>> exact_factors(nn.Linear(2, 2), weight, (2,), rank=3).values.tolist()
        [4.0, 1.0, 0.0]
    """
    matrix = unrolled(module, wide(weight), shape)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    root = values[:rank].sqrt().unsqueeze(1)
    above, below = left.T[:rank] * root, right[:rank] * root
    return Factors(
        _padded(above.reshape(-1, *output_shape(module, shape)), rank),
        _padded(below.reshape(-1, *shape), rank),
        _padded(values[:rank], rank),
    )


def support_factors(
    module: nn.Module, shape: torch.Size | tuple[int, ...], *, rank: int, seed: int = 0
) -> Factors:
    r"""Return non-negative factors of where an unrolled layer has entries at all.

    The support M, one where an input unit is joined to an output unit and zero elsewhere, is
    approximated by :math:`X Y^\top` with entries of at least 0, in the least squares. It is the
    same for all channels of a group, and so are the best factors, so that only positions and
    groups are factorised. The problem has many minima; what comes out is one of them.

    Source: Lee and Seung 1999, Nature 401; solved by scikit-learn's coordinate descent.

    Args:
        module: Linear or convolution, transposed or not.
        shape: Shape of one input.
        rank: Pairs, at least 1.
        seed: Of the solver.

    Raises:
        InputError: No pair is asked for.

    Example:
        >>> factors = support_factors(nn.Conv1d(2, 3, 1), (2, 2), rank=2)
        >>> (factors.above.flatten(1).T @ factors.below.flatten(1)).round(decimals=4)[0].tolist()
        [1.0, 0.0, 1.0, 0.0]
    """
    if rank < 1:
        msg = f"A product of rank {rank} has no factors; ask for at least 1."
        raise InputError(msg)
    matrix = support(module, shape)
    first, second = _without_signs(matrix, min(rank, *matrix.shape), seed)
    sizes = first.norm(dim=0), second.norm(dim=0)
    values, order = (sizes[0] * sizes[1]).sort(descending=True)
    # Both sides of a pair have the same norm before they are spread over channels.
    balance = torch.where(values > 0, (sizes[1] / sizes[0])[order].sqrt(), 0.0)
    even = torch.where(balance > 0, 1.0 / balance, 0.0)
    return Factors(
        _padded(_spread(module, first[:, order] * balance, output_shape(module, shape)), rank),
        _padded(_spread(module, second[:, order] * even, tuple(shape)), rank),
        _padded(values, rank),
    )


def _without_signs(matrix: sparse.csr_matrix, rank: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return factors of a matrix, columns in pairs, as near to its least squares as they came."""
    if rank == min(matrix.shape):
        # Then one factor is the matrix itself, which the iteration would only come close to.
        eye = torch.eye(rank, dtype=torch.float64)
        whole = torch.as_tensor(matrix.toarray())
        return (eye, whole.T) if rank == matrix.shape[0] else (whole, eye)
    model = NMF(rank, init="nndsvda", max_iter=_MOST_ITERATIONS, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        first = model.fit_transform(matrix)
    return torch.as_tensor(first), torch.as_tensor(model.components_.T.copy())


def _orthonormal(rows: Tensor) -> Tensor:
    result: Tensor = torch.linalg.qr(rows.T).Q.T
    return result


def _padded(rows: Tensor, count: int) -> Tensor:
    missing = rows.new_zeros((count - len(rows), *rows.shape[1:]))
    return torch.cat([rows, missing])


def _spread(module: nn.Module, factors: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return factors of groups and positions repeated over the channels of a group."""
    groups = getattr(module, "groups", 1)
    if isinstance(module, nn.Linear):
        found = factors.T.reshape(-1, *shape[:-1], 1)
        return found.expand(-1, *shape).float()
    found = factors.T.reshape(-1, groups, 1, *shape[1:])
    found = found.expand(-1, groups, shape[0] // groups, *shape[1:])
    return found.flatten(1, 2).float()

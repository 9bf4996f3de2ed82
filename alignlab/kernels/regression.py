"""How much of one set of rows is a linear function of another."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from alignlab.kernels.cosines import wide

__all__ = [
    "explained_elsewhere",
    "explained_held_out",
    "explained_in_sample",
    "fitted_held_out",
    "row_space",
]

_COLUMNS = 512
_RIDGE = 1e-3
_LEAST = 1e-12
"""Share of the largest energy below which a direction counts as empty."""


def row_space(rows: Tensor, *, tolerance: float = 1e-6) -> Tensor:
    r"""Return an orthonormal basis of the directions that the rows occupy.

    For the errors of a softmax this leaves out the constant direction, in which they are
    zero by construction.

    Args:
        rows: Shape ``(n_samples, n)``.
        tolerance: Singular values below this share of the largest count as zero.

    Returns:
        Columns are the basis, shape ``(n, r)``, float64, strongest direction first; none
        for no rows and for zero rows.
    """
    _, values, right = torch.linalg.svd(wide(rows), full_matrices=False)
    keep = values > tolerance * values[:1]
    result: Tensor = right[keep].T
    return result


def explained_in_sample(
    features: Tensor, targets: Tensor, *, gains: Tensor | None = None
) -> Tensor:
    r"""Return :math:`\|P_E\Delta\|^2/\|\Delta\|^2`, the share of the targets that is linear.

    No constant term: a feedback matrix has none. Biased upwards, by about
    ``rank / n_samples``. Source: our derivation.

    Args:
        features: Errors E, shape ``(..., n_samples, n_features)``.
        targets: True signals, shape ``(..., n_samples, n)``.
        gains: Squared gains of every entry of the targets, at least 0, of their shape; None
            for all ones.

    Returns:
        Dimensionless, in [0, 1], shape ``(...)``; NaN where the targets are zero.

    Example:
        >>> errors = torch.tensor([[1.0], [0.0]])
        >>> explained_in_sample(errors, torch.tensor([[3.0], [4.0]])).item()
        0.36
    """
    everyone = torch.ones(features.shape[-2], dtype=torch.float64, device=features.device)
    residual, energy = _totals(
        _missed, (features, targets, gains), (features, targets, gains), (everyone, everyone), 0.0
    )
    return 1.0 - residual / energy


def explained_held_out(
    features: Tensor, targets: Tensor, fold: Tensor, *, gains: Tensor | None = None
) -> Tensor:
    r"""Return the share of the held-out targets that the fit on the others explains.

    One minus residual over total energy, averaged over both directions of the two
    folds; it can be negative and is biased downwards, with gains also by a ridge of one per
    mille of the features' energy, which holds units that act on few samples. Source: our
    derivation.

    Args:
        features: Errors E, shape ``(..., n_samples, n_features)``.
        targets: True signals, shape ``(..., n_samples, n)``.
        fold: Which samples are in the first half, boolean, shape ``(n_samples,)``.
        gains: Squared gains of every entry of the targets; None for all ones.

    Returns:
        Dimensionless, at most 1, shape ``(...)``; NaN where the targets are zero or a half is
        empty.

    Example:
        >>> errors = torch.tensor([[1.0], [2.0], [3.0], [5.0]])
        >>> fold = torch.tensor([True, False, True, False])
        >>> round(explained_held_out(errors, 2.0 * errors, fold).item(), 9)
        1.0
    """
    given = (features, targets, gains)
    ridge = 0.0 if gains is None else _RIDGE
    found = []
    for pair in _ways(fold):
        residual, energy = _totals(_missed, given, given, pair, ridge)
        found.append(1.0 - residual / energy)
    return torch.stack(found).mean(0)


def explained_elsewhere(
    fitted: tuple[Tensor, Tensor, Tensor | None],
    shown: tuple[Tensor, Tensor, Tensor | None],
    fold: Tensor,
) -> Tensor:
    r"""Return how much of one set of targets the fit on another explains, up to a scale.

    Feedback B is fitted to :math:`\Delta_0 \approx E_0 B^\top` on one half of the samples and
    sends other errors on the other half. The score is :math:`c|c|` with c the cosine of
    :math:`E B^\top` with :math:`\Delta` there: the share that it explains at its best scale,
    with the sign of the cosine. Averaged over both directions of the two folds.
    Source: our derivation.

    Args:
        fitted: Errors, true signals and squared gains (or None) to be fitted, of shapes
            ``(..., n_samples, n_features)`` and twice ``(..., n_samples, n)``.
        shown: The same to be explained, of the same samples.
        fold: Which samples are in the first half, boolean, shape ``(n_samples,)``.

    Returns:
        Dimensionless, in [-1, 1], shape ``(...)``; NaN where targets or fit are zero there.

    Example:
        >>> errors = torch.tensor([[1.0], [2.0], [3.0], [5.0]])
        >>> fold = torch.tensor([True, False, True, False])
        >>> early, late = (errors, 2.0 * errors, None), (errors, 3.0 * errors, None)
        >>> round(explained_elsewhere(early, late, fold).item(), 9)
        1.0
    """
    ridge = 0.0 if fitted[2] is None else _RIDGE
    found = []
    for pair in _ways(fold):
        product, own, energy = _totals(_products, fitted, shown, pair, ridge)
        cosine = product / (own.sqrt() * energy.sqrt())
        found.append(cosine * cosine.abs())
    return torch.stack(found).mean(0)


def fitted_held_out(
    features: Tensor, targets: Tensor, fold: Tensor, *, gains: Tensor | None = None
) -> Tensor:
    """Return what the fit on one half of the samples makes of the other, for all samples.

    Args:
        features: Errors, shape ``(..., n_samples, n_features)``.
        targets: True signals, shape ``(..., n_samples, n)``.
        fold: Which samples are in the first half, boolean, shape ``(n_samples,)``.
        gains: Squared gains of every entry of the targets; None for all ones. With gains there is
            the ridge of ``explained_held_out``.

    Returns:
        In the units of the targets, float64, shape ``(..., n_samples, n)``; zero where the other
        half is empty.

    Example:
        >>> errors, fold = torch.tensor([[1.0], [2.0]]), torch.tensor([True, False])
        >>> fitted_held_out(errors, torch.tensor([[3.0], [8.0]]), fold).flatten().tolist()
        [4.0, 6.0]
    """
    ridge = 0.0 if gains is None else _RIDGE
    rows, found = wide(features), []
    for start in range(0, targets.shape[-1], _COLUMNS):
        columns = slice(start, start + _COLUMNS)
        aims = wide(targets[..., columns])
        gain = None if gains is None else wide(gains[..., columns])
        first, second = (
            (rows * test.unsqueeze(1)) @ _fit(rows, aims, gain, train.unsqueeze(1), ridge=ridge)
            for train, test in _ways(fold)
        )
        found.append(first + second)
    return torch.cat(found, -1)


def _ways(fold: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return who is fitted and who is shown, both ways, as weights of the samples."""
    first = fold.double()
    return (first, 1.0 - first), (1.0 - first, first)


def _missed(aims: Tensor, made: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    """Return energies of what is missed and of all there is."""
    return ((aims - made).square() * weight).sum((-2, -1)), (aims.square() * weight).sum((-2, -1))


def _products(aims: Tensor, made: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    """Return the product of the fit with the aims, and the energies of both."""
    pairs = ((aims, made), (made, made), (aims, aims))
    return tuple((first * second * weight).sum((-2, -1)) for first, second in pairs)


def _totals(
    score: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, ...]],
    fitted: tuple[Tensor, Tensor, Tensor | None],
    shown: tuple[Tensor, Tensor, Tensor | None],
    chosen: tuple[Tensor, Tensor],
    ridge: float,
) -> tuple[Tensor, ...]:
    """Return the sums over all columns of a score of what is fitted on some and shown on others.

    Samples are chosen by weights of zero and one, which no host has to count.
    """
    train, test = (each.unsqueeze(1) for each in chosen)
    features, other = wide(fitted[0]), wide(shown[0])
    totals: list[Tensor] = []
    for start in range(0, fitted[1].shape[-1], _COLUMNS):
        columns = slice(start, start + _COLUMNS)
        early, gain, late, weight = (
            None if each is None else wide(each[..., columns]) for each in (*fitted[1:], *shown[1:])
        )
        assert early is not None
        assert late is not None
        made = other @ _fit(features, early, gain, train, ridge=ridge)
        found = score(late, made, test if weight is None else weight * test)
        totals = [a + b for a, b in zip(totals, found, strict=True)] if totals else list(found)
    return tuple(totals)


def _fit(
    features: Tensor, targets: Tensor, gains: Tensor | None, chosen: Tensor, *, ridge: float
) -> Tensor:
    """Return the weighted least-squares weights, shape ``(..., n_features, n)``."""
    rows = features * chosen
    n_features = features.shape[-1]
    if gains is None:
        inverse = torch.linalg.pinv(rows.mT @ rows, hermitian=True, rtol=_LEAST)
        found: Tensor = inverse @ (rows.mT @ targets)
        return found
    pairs = (rows.unsqueeze(-1) * rows.unsqueeze(-2)).flatten(-2)
    grams = (gains.mT @ pairs).unflatten(-1, (n_features, n_features))
    # A unit that acts on fewer samples than there are features would be fitted by anything.
    size = rows.square().sum((-2, -1)) / max(n_features, 1)
    size = size.unsqueeze(-1) * (gains * chosen).amax(-2)
    # A unit that acts nowhere has no moments either.
    size = torch.where(size > 0, max(ridge, _LEAST) * size, 1.0)
    eye = torch.eye(n_features, dtype=features.dtype, device=features.device)
    root, _ = torch.linalg.cholesky_ex(grams + size[..., None, None] * eye)
    moments = (gains.mT * targets.mT) @ rows
    weights: Tensor = torch.cholesky_solve(moments.unsqueeze(-1), root).squeeze(-1).mT
    return weights

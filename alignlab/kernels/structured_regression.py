"""How much of a signal on positions feedback gives that is the same in whole regions of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from alignlab.kernels.cosines import wide

__all__ = ["explained_by_region", "regions_of"]

_RIDGE = 1e-3
_COLUMNS = 512


def regions_of(shape: tuple[int, ...], *, per_axis: int) -> Tensor:
    """Return which positions make up a region, regions being equal parts of every axis.

    Args:
        shape: Positions along each axis.
        per_axis: Parts of an axis; an axis of fewer positions has one for each.

    Returns:
        Ones and zeros, float64, shape ``(n_positions, n_regions)``, one 1 a row.

    Example:
        >>> regions_of((4,), per_axis=2).T
        tensor([[1., 1., 0., 0.],
                [0., 0., 1., 1.]], dtype=torch.float64)
    """
    found = torch.ones((1, 1), dtype=torch.float64)
    for size in shape:
        parts = min(per_axis, size)
        own = torch.arange(size) * parts // size
        found = torch.kron(found, torch.nn.functional.one_hot(own, parts).double())
    return found


def explained_by_region(
    features: Tensor,
    targets: Tensor,
    regions: Tensor,
    *,
    fold: Tensor,
    gains: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Return the share of the targets that weights give which are tied within regions.

    The target of sample i, channel k and position p is fitted by :math:`e_i^\top b_{k\rho(p)}`,
    with one vector b for a channel and a region: feedback that is the same at all positions of
    a region. The fit is that of the means over regions, and what varies inside is lost:

    .. math:: 1 - \frac{\sum_{ikp} g_{ikp}(\Delta_{ikp} - e_i^\top b_{k\rho(p)})^2}
        {\sum_{ikp} g_{ikp}\Delta_{ikp}^2}

    Source: our derivation.

    Args:
        features: Errors E, shape ``(n_samples, n_features)``.
        targets: True signals, shape ``(n_samples, n_channels, n_positions)``.
        regions: Which positions make up a region, shape ``(n_positions, n_regions)``.
        fold: Which samples are in the first half, boolean, ``(n_samples,)``.
        gains: Squared gains of the targets' shape, at least 0; None for all ones.

    Returns:
        In sample, in [0, 1] and biased up; and held out, at most 1 and biased down, with gains
        also by a ridge of one per mille of the features' energy: fitted on one half, read on the
        other, both ways, and averaged. Float64 scalars; NaN where the targets are zero.

    Example:
        >>> errors = torch.tensor([[1.0], [-1.0], [2.0], [-2.0]])
        >>> signal = (errors @ torch.ones(1, 6)).reshape(4, 2, 3)
        >>> everywhere, fold = regions_of((3,), per_axis=1), torch.arange(4) < 2
        >>> [round(r.item(), 6) for r in explained_by_region(errors, signal, everywhere, fold=fold)]
        [1.0, 1.0]
    """
    signal = wide(targets)
    tied = _Tied.of(signal, regions.to(signal), None if gains is None else wide(gains))
    errors, first = wide(features).to(signal.device), fold.to(signal)
    everything, ridge = torch.ones_like(first), 0.0 if gains is None else _RIDGE
    one = tied.share(errors, first, 1.0 - first, ridge=ridge)
    other = tied.share(errors, 1.0 - first, first, ridge=ridge)
    return tied.share(errors, everything, everything, ridge=0.0), (one + other) / 2.0


@dataclass(frozen=True)
class _Tied:
    """Weight and mean of every region, and by sample what varies inside and the whole energy."""

    weights: Tensor
    means: Tensor
    lost: Tensor
    energy: Tensor

    @classmethod
    def of(cls, signal: Tensor, regions: Tensor, gains: Tensor | None) -> _Tied:
        if gains is None:
            weights = regions.sum(0).expand(*signal.shape[:2], -1).flatten(1)
            sums, energy = signal @ regions, signal.square().sum((1, 2))
        else:
            weights, sums = (gains @ regions).flatten(1), (gains * signal) @ regions
            energy = (gains * signal.square()).sum((1, 2))
        means = torch.where(weights > 0, sums.flatten(1) / weights, 0.0)
        return cls(weights, means, energy - (weights * means.square()).sum(1), energy)

    def share(self, errors: Tensor, train: Tensor, test: Tensor, *, ridge: float) -> Tensor:
        """Return one minus residual over energy on some samples of the fit on others."""
        missed = (self.lost * test).sum()
        for part in torch.arange(self.means.shape[1], device=errors.device).split(_COLUMNS):
            weight, mean = self.weights[:, part], self.means[:, part]
            fitted = errors @ _fit(errors, mean, weight * train.unsqueeze(1), ridge=ridge)
            missed = missed + ((mean - fitted).square() * weight).sum(1) @ test
        result: Tensor = 1.0 - missed / (self.energy @ test)
        return result


def _fit(errors: Tensor, means: Tensor, weights: Tensor, *, ridge: float) -> Tensor:
    """Return the weighted least-squares weights of every column, ``(n_features, n_columns)``."""
    grams = torch.einsum("ra,rn,rb->nab", errors, weights, errors)
    n_features = errors.shape[1]
    # A region that acts on fewer samples than there are features would be fitted by anything.
    acting = weights.amax(0)
    size = (errors.square().sum(1) @ (weights > 0).to(errors)) / max(n_features, 1) * acting
    eye = torch.eye(n_features, dtype=errors.dtype, device=errors.device)
    grams = grams + ridge * size.reshape(-1, 1, 1) * eye
    inverses = torch.linalg.pinv(grams, hermitian=True, rtol=1e-12)
    return torch.einsum("nab,bn->an", inverses, errors.T @ (weights * means))

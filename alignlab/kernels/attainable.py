"""The best that weights can do towards a given signal: weighted least squares, held out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, final

import torch
from torch import Tensor

from alignlab.kernels.cosines import cosine, wide

__all__ = ["Attainable"]

_TOLERANCE = 1e-10
_ROWS_PER_FEATURE = 5
_MOST_ROWS = 20_000
_MOST_WORK = 2e9


@final
class Attainable:
    """How close signals built from given features by any weights can come to a target.

    Every channel is fitted by itself, for a weight belongs to one input channel. Weights are
    fitted on one half of the samples and read on the other, both ways, and averaged; a half
    is cut to the first samples that give 20,000 rows, or ten rows per feature. Where there are
    fewer than five acting rows per feature, only the strongest directions of the features are
    used, so many that there are; what comes out is then a lower bound. Source: our derivation.

    Args:
        features: Shape ``(n_samples, n_features, n_places)``.
        fold: Samples of the first half, boolean, ``(n_samples,)``.
        gains: Squared local gains, shape ``(n_samples, n_channels, n_places)``: cosines are
            then those after the local backward map. None for all ones.
    """

    def __init__(self, features: Tensor, fold: Tensor, *, gains: Tensor | None = None) -> None:
        """Factorise the least-squares problems of both halves."""
        chosen = [_first(half, features) for half in (fold, ~fold)]
        directions = _directions(features, chosen, gains)
        self._halves: Final = [_Half(features, half, gains, directions) for half in chosen]

    @staticmethod
    def is_affordable(n_features: int, n_channels: int) -> bool:
        """Whether a fit with gains, one factorisation a channel, stays within its bound."""
        return n_channels * n_features**3 <= _MOST_WORK

    def cosines(self, targets: Sequence[Tensor]) -> Tensor:
        """Return the held-out cosines of targets with their best fits.

        Args:
            targets: Each of shape ``(n_samples, n_channels, n_places)``.

        Returns:
            Dimensionless, in [-1, 1], shape ``(len(targets),)``; NaN for a zero target.
        """
        first, second = self._halves
        both = [
            test.score(train.fit(targets), targets)
            for train, test in ((first, second), (second, first))
        ]
        return torch.stack(both).mean(0)


@final
class _Half:
    """One half of the samples: to be fitted on, and to be read on."""

    def __init__(
        self, features: Tensor, chosen: Tensor, gains: Tensor | None, directions: Tensor
    ) -> None:
        self._chosen = chosen
        self._rows = _by_row(features, chosen) @ directions
        self._gains = None if gains is None else _by_row(gains, chosen).T
        self._inverse = self._factorised()

    def fit(self, targets: Sequence[Tensor]) -> list[Tensor]:
        """Return the weights of every target, shape ``(n_directions, n_channels)``."""
        return [self._fitted(_by_row(target, self._chosen), self._inverse) for target in targets]

    def score(self, weights: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        """Return the cosine of every target with what given weights make of the features."""
        gain = 1.0 if self._gains is None else self._gains.T.sqrt()
        found = []
        for weight, target in zip(weights, targets, strict=True):
            shown = (self._rows @ weight) * gain
            aimed = _by_row(target, self._chosen) * gain
            found.append(cosine(shown.flatten(), aimed.flatten()).cpu())
        return torch.stack(found)

    def _fitted(self, aims: Tensor, inverse: Tensor) -> Tensor:
        if self._gains is None:
            return inverse @ (self._rows.T @ aims)
        moments = self._rows.T @ (aims * self._gains.T)
        return torch.einsum("cfg,gc->fc", inverse, moments)

    def _factorised(self) -> Tensor:
        if self._gains is None:
            return _pseudo_inverse(self._rows.T @ self._rows)
        grams = [(self._rows * gain.unsqueeze(1)).T @ self._rows for gain in self._gains]
        return _pseudo_inverse(torch.stack(grams))


def _directions(features: Tensor, halves: Sequence[Tensor], gains: Tensor | None) -> Tensor:
    """Return as many of the strongest directions of the features as the rows can bear."""
    grams = [rows.T @ rows for rows in (_by_row(features, half) for half in halves)]
    _, vectors = torch.linalg.eigh(grams[0] + grams[1])
    acting = min(_acting(features, half, gains) for half in halves)
    most = max(1, int(acting / _ROWS_PER_FEATURE))
    result: Tensor = vectors.flip(1)[:, :most]
    return result


def _acting(features: Tensor, chosen: Tensor, gains: Tensor | None) -> float:
    if gains is None:
        return float(chosen.sum()) * features.shape[2]
    return float((_by_row(gains, chosen) > 0).sum(0).double().median())


def _by_row(tensor: Tensor, chosen: Tensor) -> Tensor:
    """Return ``(n_samples, n, n_places)`` of some samples as rows of places, ``(rows, n)``."""
    return wide(tensor[chosen]).transpose(1, 2).flatten(0, 1)


def _first(chosen: Tensor, features: Tensor) -> Tensor:
    _, n_features, n_places = features.shape
    most = max(_MOST_ROWS, 10 * n_features) // n_places + 1
    return chosen & (torch.cumsum(chosen.long(), 0) <= most)


def _pseudo_inverse(gram: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(gram)
    kept = values > _TOLERANCE * values.amax(-1, keepdim=True)
    inverses = torch.where(kept, 1.0 / values.clamp_min(1e-300), 0.0)
    result: Tensor = (vectors * inverses.unsqueeze(-2)) @ vectors.mT
    return result

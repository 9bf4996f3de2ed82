"""The best that weights can do towards a given signal: weighted least squares, held out."""

from __future__ import annotations

from typing import Final, final

import torch
from torch import Tensor

from alignlab.kernels.cosines import cosine, wide

__all__ = ["Attainable"]

_TOLERANCE = 1e-10
_WORK = 2e10
_ROWS_PER_FEATURE = 2


@final
class Attainable:
    """How close signals built from given features by any weights can come to a target.

    Every channel is fitted by itself, for a weight belongs to one input channel. Weights are
    fitted on one half of the samples and read on the other, both ways, and averaged. Source:
    our derivation.

    Args:
        features: Shape ``(n_samples, n_features, n_places)``.
        fold: Samples of the first half, boolean, ``(n_samples,)``.
        gains: Squared local gains, shape ``(n_samples, n_channels, n_places)``: cosines are
            then those after the local backward map. None for all ones.
    """

    def __init__(self, features: Tensor, fold: Tensor, *, gains: Tensor | None = None) -> None:
        """Factorise the least-squares problems of both halves."""
        self._features: Final = features
        self._gains: Final = gains
        self._halves: Final = [(self._enough(train), ~train) for train in (fold, ~fold)]
        self._inverses: Final = [self._inverse(train) for train, _ in self._halves]

    def cosine(self, target: Tensor) -> Tensor:
        """Return the held-out cosine of a target with its best fit.

        Args:
            target: Shape ``(n_samples, n_channels, n_places)``.

        Returns:
            Dimensionless, in [-1, 1], scalar; NaN where a half of the samples has fewer than
            two rows per feature.
        """
        found = [
            self._half(target, inverse, train, test)
            for (train, test), inverse in zip(self._halves, self._inverses, strict=True)
        ]
        return torch.stack(found).mean()

    def _half(self, target: Tensor, inverse: Tensor | None, train: Tensor, test: Tensor) -> Tensor:
        if inverse is None:
            return torch.tensor(float("nan"), dtype=torch.float64)
        rows = self._rows(train)
        aims = wide(target[train]).transpose(1, 2).flatten(0, 1)
        if self._gains is not None:
            aims = aims * wide(self._gains[train]).transpose(1, 2).flatten(0, 1)
        moments = rows.T @ aims
        if self._gains is None:
            kernel = inverse @ moments
        else:
            kernel = torch.einsum("cfg,gc->fc", inverse, moments)
        predicted = torch.einsum("nfp,fc->ncp", wide(self._features[test]), kernel)
        gain = 1.0 if self._gains is None else wide(self._gains[test]).sqrt()
        return cosine((predicted * gain).flatten(), (wide(target[test]) * gain).flatten())

    def _rows(self, chosen: Tensor) -> Tensor:
        return wide(self._features[chosen]).transpose(1, 2).flatten(0, 1)

    def _inverse(self, train: Tensor) -> Tensor | None:
        rows = self._rows(train)
        if rows.shape[0] < _ROWS_PER_FEATURE * rows.shape[1]:
            return None
        if self._gains is None:
            return _pseudo_inverse(rows.T @ rows)
        gains = wide(self._gains[train]).transpose(1, 2).flatten(0, 1)
        grams = torch.stack([(rows * gain.unsqueeze(1)).T @ rows for gain in gains.T])
        return _pseudo_inverse(grams)

    def _enough(self, chosen: Tensor) -> Tensor:
        """Return the first of the chosen samples whose fit stays within the work bound."""
        _, n_features, n_places = self._features.shape
        n_fits = 1 if self._gains is None else self._gains.shape[1]
        rows = max(_WORK / (n_features**2 * n_fits), 10 * n_features)
        order = torch.cumsum(chosen.long(), 0)
        return chosen & (order <= int(rows // n_places) + 1)


def _pseudo_inverse(gram: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(gram)
    kept = values > _TOLERANCE * values.amax(-1, keepdim=True)
    inverses = torch.where(kept, 1.0 / values.clamp_min(1e-300), 0.0)
    result: Tensor = (vectors * inverses.unsqueeze(-2)) @ vectors.mT
    return result

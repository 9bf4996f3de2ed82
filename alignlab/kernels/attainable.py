"""The best that weights can do towards a given signal: weighted least squares, held out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, final

import torch
from torch import Tensor

from alignlab.kernels.cosines import cosine, wide

__all__ = ["Attainable", "chosen_halves"]

Halves = tuple[Tensor, Tensor]
"""Of some tensor with an axis of samples first: those of the first half, and of the second."""

_TOLERANCE = 1e-10
_ROWS_PER_FEATURE = 5
_MOST_ROWS = 5_000
_STEPS = 20
_MOST_WORK = 2e11


def chosen_halves(fold: Tensor, n_features: int, n_places: int) -> Halves:
    """Return which samples of each half are enough to fit, and to read, one weight a feature.

    Args:
        fold: Samples of the first half, boolean, on the host, ``(n_samples,)``.
        n_features: Weights of one channel.
        n_places: Rows that one sample gives.

    Returns:
        Numbers of the first samples of each half that give 5,000 rows, or ten a feature.
    """
    most = max(_MOST_ROWS, 10 * n_features) // n_places + 1
    return fold.nonzero().flatten()[:most], (~fold).nonzero().flatten()[:most]


@final
class Attainable:
    """How close signals built from given features by any weights can come to a target.

    Every channel is fitted by itself, for a weight belongs to one input channel. Weights are
    fitted on one half of the samples and read on the other, both ways, and averaged. Where there
    are fewer than five acting rows per feature, only the strongest directions of the features
    are used, so many that there are; what comes out is then a lower bound. The fits are made by
    conjugate gradients on whitened features, all channels and targets at once and without a
    look at any value, in float32 for features in float32. Source: our derivation.

    Args:
        features: Of each half, shape ``(n_samples, n_features, n_places)``.
        gains: Squared local gains of each half, shape ``(n_samples, n_channels, n_places)``:
            cosines are then those after the local backward map. None for all ones.
    """

    def __init__(self, features: Halves, *, gains: Halves | None = None) -> None:
        """Whiten the features of both halves together."""
        rows = [_by_row(half) for half in features]
        plain = [wide(half) for half in rows]
        moments = [half.T @ half for half in plain]
        values, vectors = torch.linalg.eigh(moments[0] + moments[1])
        values, vectors = values.flip(0), vectors.flip(1)
        most = max(1, min(map(len, rows)) // _ROWS_PER_FEATURE)
        values, vectors = values[:most], vectors[:, :most]
        kept = (values > _TOLERANCE * values[:1]) & (values > 0)
        scale = torch.where(kept, values.clamp_min(torch.finfo(torch.float64).tiny).rsqrt(), 0.0)
        whitening = vectors * scale
        like = rows[0]
        self._rows: Final = [(half @ whitening).to(like) for half in plain]
        own = [(whitening.T @ each @ whitening).to(like) for each in moments]
        self._halves: Final = (
            _plain(self._rows, own) if gains is None else _gated(self._rows, gains)
        )

    @staticmethod
    def is_affordable(n_features: int, n_channels: int, n_rows: int) -> bool:
        """Whether a fit stays within its bound, half a minute for a core of 10 GFlop/s."""
        directions = min(n_features, max(1, n_rows // _ROWS_PER_FEATURE))
        return 8 * _STEPS * n_rows * directions * n_channels <= _MOST_WORK

    def gated(self, gains: Halves) -> Attainable:
        """Return the same after a local backward map.

        Args:
            gains: Squared local gains, as for the class.
        """
        other = object.__new__(Attainable)
        object.__setattr__(other, "_rows", self._rows)
        object.__setattr__(other, "_halves", _gated(self._rows, gains))
        return other

    def cosines(self, targets: Sequence[Halves]) -> Tensor:
        """Return the held-out cosines of targets with their best fits.

        Args:
            targets: Of each half, ``(n_samples, n_channels, n_places)``.

        Returns:
            Dimensionless, in [-1, 1], shape ``(len(targets),)``; NaN for a zero target.
        """
        first, second = self._halves
        aims = [_aims([target[k] for target in targets]) for k in (0, 1)]
        one = second.score(first.fit(aims[0]), aims[1])
        other = first.score(second.fit(aims[1]), aims[0])
        return (one + other) / 2.0


@final
class _Half:
    """One half of the samples: to be fitted on, and to be read on."""

    def __init__(
        self,
        rows: Tensor,
        *,
        moments: Tensor | None = None,
        gains: Tensor | None = None,
        kept: Tensor | None = None,
    ) -> None:
        """Take whitened rows with their moments, or with gains and which directions are fitted."""
        self._rows = rows
        self._kept = kept
        self._gains = gains
        self._moments = moments
        if gains is not None:
            # A factor on all gains of a channel changes no fit.
            largest = gains.amax(0, keepdim=True)
            self._shares = torch.where(largest > 0, gains / largest, 0.0).to(rows).unsqueeze(1)

    def fit(self, aims: Tensor) -> Tensor:
        """Return the weights of every target, shape ``(n_directions, n_targets, n_channels)``."""
        sizes = torch.linalg.vector_norm(wide(aims), dim=(0, 2), keepdim=True)
        unit = torch.where(sizes > 0, wide(aims) / sizes, 0.0).to(self._rows)
        gated = unit if self._gains is None else unit * self._shares
        found = self._solved(self._masked(self._rows.T @ gated.flatten(1)), gated.shape[1:])
        result: Tensor = wide(found).unflatten(1, gated.shape[1:]) * sizes
        return result

    def score(self, weights: Tensor, aims: Tensor) -> Tensor:
        """Return the cosine of every target with what given weights make of the features."""
        shown = (wide(self._rows) @ weights.flatten(1)).unflatten(1, weights.shape[1:])
        aims = wide(aims)
        if self._gains is not None:
            root = wide(self._gains).sqrt().unsqueeze(1)
            shown, aims = shown * root, aims * root
        return cosine(shown.transpose(0, 1).flatten(1), aims.transpose(0, 1).flatten(1))

    def _masked(self, moments: Tensor) -> Tensor:
        return moments if self._kept is None else moments * self._kept

    def _applied(self, weights: Tensor, shape: torch.Size) -> Tensor:
        """Return the gated moments of the rows times some weights."""
        if self._moments is not None:
            return self._masked(self._moments @ weights)
        shown = (self._rows @ weights).unflatten(1, shape) * self._shares
        return self._masked(self._rows.T @ shown.flatten(1))

    def _solved(self, moments: Tensor, shape: torch.Size) -> Tensor:
        """Return what conjugate gradients find, every column by itself, from zero."""
        found, rest = torch.zeros_like(moments), moments
        direction, energy = rest, rest.square().sum(0)
        # Below, what is left is rounding, and steps along it grow where this half has no features.
        floor = energy * torch.finfo(moments.dtype).eps ** (4.0 / 3.0)
        for _ in range(_STEPS):
            image = self._applied(direction, shape)
            curvature = (direction * image).sum(0)
            is_on = (energy > floor) & (curvature > 0)
            step = torch.where(is_on, energy / curvature, 0.0)
            found = found + step * direction
            rest = rest - step * image
            left = rest.square().sum(0)
            direction = rest + torch.where(is_on, left / energy, 0.0) * direction
            energy = left
        return found


def _plain(rows: Sequence[Tensor], moments: Sequence[Tensor]) -> tuple[_Half, _Half]:
    first, second = (_Half(half, moments=own) for half, own in zip(rows, moments, strict=True))
    return first, second


def _gated(rows: Sequence[Tensor], gains: Halves) -> tuple[_Half, _Half]:
    by_row = [_by_row(half) for half in gains]
    acting = torch.stack([(half > 0).sum(0).double().median() for half in by_row]).amin()
    order = torch.arange(rows[0].shape[1], device=rows[0].device)
    most = (acting / _ROWS_PER_FEATURE).floor().clamp_min(1.0)
    kept = (order < most).to(rows[0]).unsqueeze(1)
    first, second = (_Half(r, gains=g, kept=kept) for r, g in zip(rows, by_row, strict=True))
    return first, second


def _aims(targets: Sequence[Tensor]) -> Tensor:
    """Return targets as ``(rows, n_targets, n_channels)``."""
    return torch.stack([_by_row(target) for target in targets], 1)


def _by_row(tensor: Tensor) -> Tensor:
    """Return ``(n_samples, n, n_places)`` as rows of places, ``(n_places * n_samples, n)``."""
    rows = tensor.permute(2, 0, 1).flatten(0, 1)
    return rows if rows.dtype == torch.float64 else rows.float()

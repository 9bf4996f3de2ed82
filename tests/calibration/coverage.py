"""How often fresh draws fall into the chance bands that a recording states, by kind of null."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from alignlab.diagnostics._chance import Chance, chance_of
from alignlab.engine.capture import Capture
from alignlab.engine.updates import Updates
from alignlab.rules import BP, DFA, DRTP, FA, USF, TopK
from alignlab.rules._base import Rule
from alignlab.rules._task import Task
from tests.calibration.fresh import (
    Values,
    fresh_backward_weights,
    fresh_direct,
    fresh_replaced,
    fresh_rotated,
    fresh_weights,
)
from tests.calibration.nulls import NETWORKS, Band, bands, recorded
from tests.cases import Batch

__all__ = ["LEVELS", "SMALL", "Covered", "Level", "coverages", "covered", "share", "small_shares"]

SMALL = (0.05, 0.01, 0.001)
"""Levels at which p-values are counted."""

_SIGNALS = ("error-signal", "weight-gradient")
_ALL = (*_SIGNALS, "cross-batch-gradient", "unshared-gradient")
_DENSE = tuple(name for name in NETWORKS if not name.startswith("conv"))
_SMALLER = tuple(name for name in NETWORKS if "256" not in name and name != "conv 8-8-8, pooled")


@dataclass(frozen=True)
class Level:
    """A kind of chance level: what is recorded, and what it is held against.

    Attributes:
        rule: Whose chance level.
        fresh: Takes a batch, a number of draws and a seed.
        diagnostics: What is recorded.
        networks: On which.
    """

    rule: Rule
    fresh: Callable[[Batch, int, int], Values]
    diagnostics: tuple[str, ...] = _SIGNALS
    networks: tuple[str, ...] = _SMALLER


@dataclass(frozen=True)
class Covered:
    """How many fresh draws lie in a band, and how many have small p-values.

    Attributes:
        level: One of ``LEVELS``.
        network: Name of the network.
        band: The band.
        inside: How many of the draws that are defined lie in the band.
        count: How many are defined.
        is_tied: Whether the alignment takes few values, which a band can only cover too often.
        small: How many of ``tried`` p-values, of either side, are at most each of ``SMALL``.
        tried: P-values of either side.
    """

    level: str
    network: str
    band: Band
    inside: int
    count: int
    is_tied: bool
    small: tuple[int, ...]
    tried: int


def _rotated(rule: Rule) -> Callable[[Batch, int, int], Values]:
    def fresh(batch: Batch, count: int, seed: int) -> Values:
        return fresh_rotated(batch, _yielded(rule, batch), count, seed=seed)

    return fresh


def _yielded(rule: Rule, batch: Batch) -> Updates:
    """Return what a rule yields on a batch."""
    capture = Capture(batch.model, batch.loss, batch.x, batch.y)
    true = capture.reference(parameters=True)
    found = rule.updates(Task(capture, true), rule.start(capture, seed=0))
    capture.close()
    return found


_THINNED = TopK(rule=BP(), share=0.2)

LEVELS = {
    "direct feedback": Level(
        DFA(seed=3), lambda b, n, s: fresh_direct(b, n, seed=s), _ALL, tuple(NETWORKS)
    ),
    "direct feedback of targets": Level(
        DRTP(seed=3), lambda b, n, s: fresh_direct(b, n, sends_targets=True, seed=s)
    ),
    "backward weights": Level(FA(seed=3), lambda b, n, s: fresh_replaced(b, n, seed=s), _ALL),
    "random signs": Level(USF(), lambda b, n, s: fresh_replaced(b, n, law="sign", seed=s)),
    "rotated signals": Level(BP(), _rotated(BP()), _ALL),
    "rotated updates": Level(_THINNED, _rotated(_THINNED), ("weight-gradient",)),
    "feedback matrices": Level(
        *(DFA(seed=3), lambda b, n, s: fresh_weights(b, n, seed=s)),
        *(("weight-feedback", "alignment-matrix"), _DENSE),
    ),
    "weights and backward weights": Level(
        FA(seed=3), lambda b, n, s: fresh_backward_weights(b, n, seed=s), ("weight-feedback",)
    ),
}
"""Every kind of chance level by what is drawn again."""


def coverages(
    level: str,
    *,
    draws: int,
    networks: Sequence[str] = (),
    redraws: int = 200,
    tried: int = 400,
) -> Iterator[Covered]:
    """Yield how often fresh draws fall into every band of a level.

    Args:
        level: One of ``LEVELS``.
        draws: Fresh draws for each network.
        networks: To which of the level's this is kept; none means all.
        redraws: Most draws of which a band may be made.
        tried: To how many of the draws p-values are given.
    """
    found = LEVELS[level]
    for seed, name in enumerate(NETWORKS):
        if name in found.networks and name in (networks or NETWORKS):
            batch = NETWORKS[name].make(seed)
            recording = recorded(
                *(batch, found.rule), diagnostics=found.diagnostics, draws=redraws, seed=seed
            ).isel(rule=0)
            fresh = found.fresh(batch, draws, seed)
            for band in bands(recording):
                values = fresh.get((band.variable, band.site, band.layer), np.zeros(0))
                if np.isfinite(values).any():
                    yield covered(level, name, band, values, tried=tried)


def covered(
    level: str, network: str, band: Band, values: np.ndarray, *, tried: int = 400
) -> Covered:
    """Return how values lie to a band; those that are not defined are left out."""
    values = values[np.isfinite(values)]
    # Where a value is one of few its last digit must not decide on which side it lies.
    slack = 1e-6 * max(abs(band.low), abs(band.high))
    inside = (values >= band.low - slack) & (values <= band.high + slack)
    chances = list(_chances(band, values, tried=tried))
    p = np.array([side for each in chances for side in (each.p, each.p_opposed)])
    return Covered(
        *(level, network, band, int(inside.sum()), len(values)),
        is_tied=len(np.unique(values.round(6))) < 0.5 * len(values),
        small=tuple(int((p <= one).sum()) for one in SMALL),
        tried=len(p),
    )


def _chances(band: Band, values: np.ndarray, *, tried: int) -> Iterator[Chance]:
    """Yield chance levels of values: by the closed form, or by 200 other values."""
    drawn, observed = values[:200], values[200 : 200 + tried]
    mean = 0.5 * (band.low + band.high) if band.variable == "descent_rate" else 0.0
    is_closed = band.method == "closed form"
    for value in observed:
        yield chance_of(
            *(float(value), drawn),
            kind=band.kind,
            concentration=band.concentration,
            mean=mean,
            closed_form=band.sd if is_closed else np.nan,
        )


def share(found: Sequence[Covered]) -> float:
    """Return the share of all draws that lie in their bands."""
    return sum(each.inside for each in found) / sum(each.count for each in found)


def small_shares(found: Sequence[Covered]) -> tuple[float, ...]:
    """Return the shares of p-values that are at most each of ``SMALL``."""
    tried = sum(each.tried for each in found)
    return tuple(sum(each.small[k] for each in found) / tried for k in range(len(SMALL)))

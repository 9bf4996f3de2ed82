"""What a stated value is, and whether what is measured agrees with it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from math import inf, isfinite

import numpy as np

__all__ = ["Found", "Stated", "measured_over_seeds"]

SIGMAS = 2.0
"""Standard deviations of one measurement by which a stated value, itself one, may be off."""


@dataclass(frozen=True)
class Stated:
    """Values that the derivations behind the diagnostics state, and how they are measured.

    Attributes:
        of: Catalogue id, or the number of the refinement, and what it is of.
        values: As stated: ``0.41``, a range ``0.22-0.30`` or a bound ``<=0.08``.
        measure: Returns them for a seed of network, data and feedback.
        seeds: How many seeds.
        setting: Network, data and what is read.
        note: What else is to be known.
        is_slow: Whether it takes more than a second and a half.
        is_chosen: Whether the derivations leave open a part of the setting, and it was chosen so
            that the stated values come out: then only that such a setting exists is shown.
        is_wide: Whether single networks differ by more than a third of what is stated, so that
            agreement says little.
        found: Mean and standard deviation over the seeds, where they do not agree with what
            is stated; empty where they do.
        because: Why they do not.
    """

    of: str
    values: tuple[str, ...]
    measure: Callable[[int], Sequence[float]]
    seeds: int
    setting: str
    note: str = ""
    is_slow: bool = False
    is_chosen: bool = False
    is_wide: bool = False
    found: tuple[tuple[float, float], ...] = ()
    because: str = ""

    @property
    def intervals(self) -> list[tuple[float, float]]:
        """What each stated value stands for, with its rounding."""
        return [_interval(value) for value in self.values]


@dataclass(frozen=True)
class Found:
    """Mean and standard deviation over seeds.

    Attributes:
        mean: Of every value.
        sd: Of one measurement of every value.
    """

    mean: np.ndarray
    sd: np.ndarray

    def agrees(self, stated: Stated) -> np.ndarray:
        """Return of every value whether one measurement could be what is stated."""
        low, high = np.transpose(stated.intervals)
        slack = SIGMAS * self.sd
        held: np.ndarray = (self.mean >= low - slack) & (self.mean <= high + slack)
        return held

    def is_wide(self, stated: Stated) -> bool:
        """Return whether some value differs between networks by a third of what is stated."""
        sizes = [max(abs(end) for end in ends if isfinite(end)) for ends in stated.intervals]
        is_zero = [isfinite(low) and low < 0.0 < high for low, high in stated.intervals]
        return any(
            sd > WIDE * size and not zero
            for sd, size, zero in zip(self.sd, sizes, is_zero, strict=True)
        )


WIDE = 1.0 / 3.0


@cache
def measured_over_seeds(stated: Stated) -> Found:
    """Return what is measured."""
    values = np.array([stated.measure(seed) for seed in range(stated.seeds)], dtype=float)
    assert values.shape[1] == len(stated.values), stated.of
    # Of a matrix that is singular for every seed the condition number is infinite.
    same = (values == values[0]).all(0)
    varying = np.where(same, 0.0, values)
    spread = varying.std(0, ddof=min(1, stated.seeds - 1))
    return Found(values.mean(0), spread)


def _interval(text: str) -> tuple[float, float]:
    bound = re.fullmatch(r"([<>])=([\d.]+)", text)
    if bound:
        end = float(bound[2])
        return (-inf, end) if bound[1] == "<" else (end, inf)
    ends = re.split(r"(?<=\d)-", text)
    half = [0.5 * 10.0 ** -len(end.partition(".")[2]) for end in ends]
    return float(ends[0]) - half[0], float(ends[-1]) + half[-1]

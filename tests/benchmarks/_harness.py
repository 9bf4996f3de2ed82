"""Times one step of work against another: one thread, CPU time, interleaved, paired."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

__all__ = [
    "Comparison",
    "Quartiles",
    "Timing",
    "Variant",
    "cpu_seconds",
    "interleaved",
    "quartiles",
    "timed",
]

Step = Callable[[], object]
Clock = Callable[[Step], float]
REFERENCE, WORK = "reference", "work"


@dataclass(frozen=True)
class Variant:
    """One way to spend a step.

    Attributes:
        step: Does the work once.
        check: Raises where what the step computes is wrong.
    """

    step: Step
    check: Step


@dataclass(frozen=True)
class Comparison:
    """What is timed, and against what."""

    reference: Variant
    work: Variant


@dataclass(frozen=True)
class Quartiles:
    """Lower quartile, median and upper quartile."""

    low: float
    median: float
    high: float


COLLECT_EVERY = 10
"""Rounds from one collection of garbage to the next."""


@dataclass(frozen=True)
class Timing:
    """One comparison in one process.

    Attributes:
        ratio: Of the paired ratios, work over reference within a round.
        reference: Median seconds of the reference.
        work: Median seconds of the work.
        rounds: How many pairs there are.
    """

    ratio: Quartiles
    reference: float
    work: float
    rounds: int


def quartiles(values: Sequence[float]) -> Quartiles:
    """Return the quartiles of some numbers, interpolated linearly between them."""
    low, median, high = np.quantile(np.asarray(values, dtype=float), (0.25, 0.5, 0.75))
    return Quartiles(float(low), float(median), float(high))


def cpu_seconds(step: Step) -> float:
    """Return the CPU seconds that this process, all its threads together, spends in a step."""
    begin = time.process_time_ns()
    step()
    return (time.process_time_ns() - begin) * 1e-9


def interleaved(
    steps: Mapping[str, Step], *, rounds: int, warmup: int, seed: int, clock: Clock = cpu_seconds
) -> dict[str, list[float]]:
    """Return the seconds of every step in every round, each round in an order of its own.

    Args:
        steps: What is timed, by name.
        rounds: Rounds that count.
        warmup: Rounds before them that do not.
        seed: Seed of the orders.
        clock: Runs a step and returns its seconds.
    """
    order = list(steps)
    shuffle = random.Random(seed).shuffle
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(warmup + rounds):
        shuffle(order)
        # Collecting also empties the caches, which no step of a training does.
        with _no_garbage_collection(collect=number % COLLECT_EVERY == 0):
            found = {name: clock(steps[name]) for name in order}
        if number >= warmup:
            for name, value in found.items():
                seconds[name].append(value)
    return seconds


def timed(
    comparison: Comparison, *, rounds: int, warmup: int, seed: int, clock: Clock = cpu_seconds
) -> Timing:
    """Check the values of both sides, then time them; see ``interleaved``."""
    comparison.reference.check()
    comparison.work.check()
    steps = {REFERENCE: comparison.reference.step, WORK: comparison.work.step}
    seconds = interleaved(steps, rounds=rounds, warmup=warmup, seed=seed, clock=clock)
    pairs = zip(seconds[WORK], seconds[REFERENCE], strict=True)
    return Timing(
        ratio=quartiles([work / reference for work, reference in pairs]),
        reference=quartiles(seconds[REFERENCE]).median,
        work=quartiles(seconds[WORK]).median,
        rounds=rounds,
    )


@contextmanager
def _no_garbage_collection(*, collect: bool):
    """Collect before at most, so that no step pays for the garbage of another, and not inside."""
    if collect:
        gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()

"""One number that must come out."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Check"]


@dataclass(frozen=True)
class Check:
    """One number that must come out.

    Attributes:
        what: What was measured, with its unit where it has one.
        measured: The number.
        expected: What is held against it, in words: ``>= 0.3``, ``0.125 within 10%``.
        passed: Whether it holds.
        stated: What the source, or our own earlier measurement, has for it; empty for nothing.
        low: Lower edge of the 95% interval over seeds; NaN where nothing is drawn.
        high: Upper edge.
        chance: What would come out by chance; empty where there is no such thing.
        runs: How many runs it comes from.
    """

    what: str
    measured: float
    expected: str
    passed: bool
    stated: str = ""
    low: float = float("nan")
    high: float = float("nan")
    chance: str = ""
    runs: int = 1

"""How numbers and lists are written in sentences."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "between",
    "capitalised",
    "counted",
    "decimal",
    "extremes",
    "listed",
    "probability",
    "root",
]


def decimal(value: float) -> str:
    """Write a number with two decimals, or two digits where it is small.

    Example:
        >>> decimal(0.3412), decimal(0.00412), decimal(-0.0), decimal(12345.6)
        ('0.34', '0.0041', '0', '12,346')
    """
    if math.isnan(value):
        return "unknown"
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}" if abs(value) < 1e6 else f"{value:.1e}"
    return f"{value:.2f}" if abs(value) >= 0.095 else f"{value:.2g}"


def probability(p: float) -> str:
    """Write a p-value.

    Example:
        >>> probability(0.012), probability(1e-9)
        ('p 0.012', 'p < 0.0001')
    """
    return "p < 0.0001" if p < 1e-4 else f"p {decimal(p)}"


def between(low: float, high: float) -> str:
    """Write an interval.

    Example:
        >>> between(-0.09, 0.09)
        '-0.09 to 0.09'
    """
    return f"{decimal(low)} to {decimal(high)}"


def listed(parts: Iterable[str]) -> str:
    """Join parts as a sentence does.

    Example:
        >>> listed(["a", "b", "c"])
        'a, b and c'
    """
    *head, tail = list(parts) or [""]
    return f"{', '.join(head)} and {tail}" if head else tail


def extremes(clauses: Sequence[tuple[float, str]], *, most: int) -> str:
    """Write all clauses, or only those of the lowest and the highest number of many.

    Args:
        clauses: Numbers with the words that quote them.
        most: The largest count of which all are written.

    Example:
        >>> extremes([(0.1, "a"), (0.3, "b"), (0.2, "c")], most=2)
        'lowest a; highest b; 3 layers in all'
    """
    if len(clauses) <= most:
        return "; ".join(words for _, words in clauses)
    ordered = sorted(clauses, key=lambda clause: clause[0])
    return f"lowest {ordered[0][1]}; highest {ordered[-1][1]}; {len(clauses)} layers in all"


def counted(things: Sequence[object], noun: str) -> str:
    """Write how many of something there are.

    Example:
        >>> counted([1], "layer"), counted([1, 2], "layer")
        ('1 layer', '2 layers')
    """
    return f"{len(things)} {noun}" + ("" if len(things) == 1 else "s")


def capitalised(sentence: str) -> str:
    """Return a sentence with its first letter as a capital, the rest untouched."""
    return sentence[:1].upper() + sentence[1:]


def root(squared: float) -> float:
    """Return the square root of a share that an estimate may have put below zero.

    Example:
        >>> root(0.25), root(-0.1)
        (0.5, 0.0)
    """
    return math.nan if math.isnan(squared) else math.sqrt(max(squared, 0.0))

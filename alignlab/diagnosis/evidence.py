"""What a diagnosis is made of: numbers, verdicts, statements and the answer that holds them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "Answer",
    "Evidence",
    "Finding",
    "Hypothesis",
    "Intervention",
    "Limit",
    "Statement",
    "Verdict",
]

Verdict = Literal["limits", "does not limit", "undecided", "does not apply"]


@dataclass(frozen=True)
class Evidence:
    """One number and what it was held against.

    Args:
        variable: Name of the recording's variable.
        value: The number, in the variable's unit.
        threshold: What it was compared with: a chance level or a threshold of ours.
        text: Both in words, as a clause.
    """

    variable: str
    value: float
    threshold: float
    text: str


@dataclass(frozen=True)
class Statement:
    """What one hypothesis says about one layer under one rule.

    Args:
        hypothesis: Public name of the hypothesis.
        rule: Label of the rule.
        layer: Name of the layer.
        verdict: Whether this cause limits the layer.
        supporting: Numbers for the hypothesis.
        opposing: Numbers against it.
        reason: One clause that quotes the number that decided, or says what is missing.
    """

    hypothesis: str
    rule: str
    layer: str
    verdict: Verdict
    supporting: tuple[Evidence, ...]
    opposing: tuple[Evidence, ...]
    reason: str


@dataclass(frozen=True)
class Intervention:
    """The change that must move a hypothesis's numbers if it is right.

    Args:
        action: What to change, in words.
        moves: Variables that must move.
        stays: Variables that must not.
    """

    action: str
    moves: tuple[str, ...]
    stays: tuple[str, ...]


@dataclass(frozen=True)
class Hypothesis:
    """One possible cause of a weak learning signal.

    Args:
        name: Public name.
        title: A few words for tables.
        prediction: What the recording shows where the hypothesis is right.
        needs: Variables that it reads.
        intervention: What would prove it.
        statement: ``statement(ds, layer, rule=...)`` on a recording of one step.
    """

    name: str
    title: str
    prediction: str
    needs: tuple[str, ...]
    intervention: Intervention
    statement: Callable[..., Statement]


@dataclass(frozen=True)
class Finding:
    """What was observed of one alignment at one layer.

    Args:
        variable: Name of the alignment.
        rule: Label of the rule.
        layer: Name of the layer.
        site: ``entry``, ``preactivation``, or empty for weight gradients.
        value: The alignment; NaN where it is undefined.
        null_low: Lower edge of the central 95% chance band.
        null_high: Upper edge of it.
        p: Probability of a value at least as high by chance.
        status: As recorded, adjusted for the number of layers.
        text: All of it as a clause.
    """

    variable: str
    rule: str
    layer: str
    site: str
    value: float
    null_low: float
    null_high: float
    p: float
    status: str
    text: str


@dataclass(frozen=True)
class Limit:
    """Which causes limit one convolution under one rule.

    Args:
        rule: Label of the rule.
        layer: Name of the layer.
        limited_by: Names of the hypotheses that hold; empty where undecided.
        share: Share of the attainable cosine that is reached; NaN where unknown.
        attainable: The attainable cosine; NaN where unknown.
        statements: What each hypothesis says.
        reason: The numbers of the hypotheses that decided, or that are open.
        sentence: The verdict with its numbers.
    """

    rule: str
    layer: str
    limited_by: tuple[str, ...]
    share: float
    attainable: float
    statements: tuple[Statement, ...]
    reason: str
    sentence: str

    @property
    def verdict(self) -> str:
        """The limiting sides in words, or ``undecided``."""
        return " and ".join(self.limited_by) or "undecided"


@dataclass(frozen=True)
class Answer:
    """What a recording says, in sentences that each quote their numbers.

    Args:
        headline: The first thing to read, in one line.
        warnings: What must be read before anything else.
        paragraph: The answer's sentences, in reading order; the last may be the fixed closing one.
        findings: Observed alignments of the hidden layers; empty where none may be reported.
        limits: Verdicts on the convolutions; empty where causes may not be ranked.
        bottlenecks: What the narrow-layer hypothesis says where a width bound is known.
    """

    headline: str
    warnings: tuple[str, ...]
    paragraph: tuple[str, ...]
    findings: tuple[Finding, ...]
    limits: tuple[Limit, ...]
    bottlenecks: tuple[Statement, ...]

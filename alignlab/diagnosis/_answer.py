"""The answer: every sentence follows from numbers in the recording and quotes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alignlab.diagnosis._bottlenecks import bottlenecks, bottlenecks_in_words
from alignlab.diagnosis._ceilings import ceilings, not_observed, ranks, reach, spectra
from alignlab.diagnosis._headline import headline
from alignlab.diagnosis._limits import convolution_limits, limits_in_words
from alignlab.diagnosis._loss_change import loss_change
from alignlab.diagnosis._observed import caution, findings, observed
from alignlab.diagnosis._reading import (
    STORED_ORIGINS,
    is_drawn,
    last_step,
    origin,
    rules,
    sends_error_directly,
)
from alignlab.diagnosis._validity import (
    accuracy_warning,
    invalid_reference,
    performance,
    reference,
    warnings,
)
from alignlab.diagnosis._weights import weights
from alignlab.diagnosis.evidence import Answer

if TYPE_CHECKING:
    from collections.abc import Sequence

    import xarray as xr

    from alignlab.diagnosis.evidence import Limit, Statement

__all__ = ["CLOSING", "answer"]

CLOSING = (
    "This file cannot tell how well its training rule aligned; supply the feedback, two "
    "checkpoints, or train briefly"
)


def answer(ds: xr.Dataset) -> Answer:
    """Return what a recording says, the last of its steps if it has several.

    Where the accuracy is at chance no causes are ranked; where the reference is invalid nothing is
    reported about any rule; where the feedback was drawn nothing is reported about what that rule
    observed.

    Args:
        ds: A recording.

    Returns:
        Warnings first; the sentences lead with loss and accuracy.
    """
    ds = last_step(ds)
    warned, first = tuple(warnings(ds)), performance(ds) + weights(ds)
    if invalid_reference(ds):
        return Answer(warned[0], warned, tuple(first), (), (), ())
    found = tuple(finding for rule in rules(ds) for finding in findings(ds, rule))
    limits, narrow = _causes(ds)
    drawn = [rule for rule in rules(ds) if is_drawn(ds, rule)]
    stored = [rule for rule in rules(ds) if origin(ds, rule) in STORED_ORIGINS]
    derived = [rule for rule in rules(ds) if rule not in (*drawn, *stored)]
    about_stored = _about_known(ds, stored, limits=limits, narrow=narrow)
    about_drawn = _about_drawn(ds, drawn, narrow)
    if stored:
        sentences = first + _any_feedback(ds) + reference(ds) + about_stored + about_drawn
    else:
        sentences = first + about_drawn + reference(ds)
    sentences += _about_known(ds, derived, limits=limits, narrow=narrow)
    if found:
        sentences.append(caution(ds))
    if drawn and not stored:
        sentences.append(CLOSING)
    title = warned[0] if warned else headline(ds, found, limits=limits, narrow=narrow)
    return Answer(title, warned, tuple(sentences), found, limits, narrow)


def _about_known(
    ds: xr.Dataset,
    known: Sequence[str],
    *,
    limits: Sequence[Limit],
    narrow: Sequence[Statement],
) -> list[str]:
    """Return what was observed of rules whose feedback is known, then their limits."""
    sentences = []
    for rule in known:
        sentences += observed(ds, rule)
        sentences += bottlenecks_in_words(ds, [each for each in narrow if each.rule == rule])
        sentences += limits_in_words(ds, [limit for limit in limits if limit.rule == rule])
        sentences += loss_change(ds, rule)
    return sentences


def _about_drawn(ds: xr.Dataset, drawn: Sequence[str], narrow: Sequence[Statement]) -> list[str]:
    """Return what needs no trained feedback, ceilings first."""
    if not drawn:
        return []
    sentences = [not_observed(ds, drawn)]
    for rule in drawn:
        sentences += bottlenecks_in_words(ds, [each for each in narrow if each.rule == rule])
        sentences += ceilings(ds, rule)
    if not any(origin(ds, rule) in STORED_ORIGINS for rule in rules(ds)):
        sentences += _any_feedback(ds)
    for rule in drawn:
        sentences += spectra(ds, rule)
    return sentences


def _any_feedback(ds: xr.Dataset) -> list[str]:
    """Return what holds for every fixed feedback, where some rule has one."""
    direct = any(sends_error_directly(ds, rule) for rule in rules(ds))
    return reach(ds) + ranks(ds) if direct else ranks(ds)


def _causes(ds: xr.Dataset) -> tuple[tuple[Limit, ...], tuple[Statement, ...]]:
    """Return the verdicts on convolutions and narrow layers, none where accuracy is at chance."""
    if accuracy_warning(ds):
        return (), ()
    limits = tuple(
        limit
        for rule in rules(ds)
        if origin(ds, rule) in STORED_ORIGINS
        for limit in convolution_limits(ds, rule)
    )
    return limits, tuple(each for rule in rules(ds) for each in bottlenecks(ds, rule))

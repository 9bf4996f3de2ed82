"""Causes: which of feedback side, weight side and coherence limit each convolution."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

from alignlab import plugins
from alignlab.diagnosis._reading import convolutions, number
from alignlab.diagnosis._wording import between, decimal, extremes, listed
from alignlab.diagnosis.evidence import Hypothesis, Limit
from alignlab.recording.reasons import diagnostic_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import xarray as xr

__all__ = ["convolution_limits", "limits_in_words"]

PACKAGE = "alignlab.diagnosis.hypotheses"
SIDES = ("feedback-side", "weight-side", "coherence")

MOST_LISTED = 4
"""With more convolutions than this, a sentence names only the extremes of each verdict."""


def convolution_limits(ds: xr.Dataset, rule: str) -> list[Limit]:
    """Return the verdict on each hidden convolution under one rule.

    Where none of the sides that were measured limits or is open there is no verdict: nobody asked
    for the others.
    """
    sides = [cast("Hypothesis", plugins.load(PACKAGE, name)) for name in SIDES]
    measured = {side.name for side in sides if any(_is_measured(ds, name) for name in side.needs)}
    found = [_limit(ds, sides, rule=rule, layer=layer) for layer in convolutions(ds)]
    return [
        limit
        for limit in found
        if len(measured) == len(sides)
        or any(
            statement.hypothesis in measured and statement.verdict in {"limits", "undecided"}
            for statement in limit.statements
        )
    ]


def _is_measured(ds: xr.Dataset, variable: str) -> bool:
    return variable in ds.variables or bool(diagnostic_of(ds, variable))


def limits_in_words(ds: xr.Dataset, limits: Sequence[Limit]) -> list[str]:
    """Return what share of its ceiling each convolution of one rule reaches, and what limits it."""
    if not limits:
        return []
    if len(limits) <= MOST_LISTED:
        return _shares(ds, limits) + [limit.sentence for limit in limits]
    groups: dict[str, list[Limit]] = {}
    for limit in limits:
        groups.setdefault(limit.verdict, []).append(limit)
    return _shares(ds, limits) + [
        f"Under {limits[0].rule}, {len(members)} of {len(limits)} convolutions are "
        f"{'undecided' if verdict == 'undecided' else f'limited by their {verdict}'}, such as "
        f"{members[0].layer}: {members[0].reason}."
        for verdict, members in groups.items()
    ]


def _limit(ds: xr.Dataset, sides: Sequence[Hypothesis], *, rule: str, layer: str) -> Limit:
    statements = tuple(side.statement(ds, layer, rule=rule) for side in sides)
    titles = {side.name: side.title for side in sides}
    firing = [statement for statement in statements if statement.verdict == "limits"]
    unclear = [statement for statement in statements if statement.verdict == "undecided"]
    if firing:
        verdict = f"limited by its {listed(titles[each.hypothesis] for each in firing)}"
    elif unclear:
        verdict = f"undecided, {len(unclear)} of {len(statements)} criteria being open"
    else:
        verdict = f"undecided, as none of {len(statements)} criteria fires"
    reasons = [each.reason for each in firing or unclear or statements]
    reason = "; ".join(dict.fromkeys(reasons))
    where = {"rule": rule, "layer": layer, "site": "entry"}
    return Limit(
        rule,
        layer,
        tuple(titles[each.hypothesis] for each in firing),
        share=number(ds, "attainable_share", **where),
        attainable=number(ds, "attainable_cosine", **where),
        statements=statements,
        reason=reason,
        sentence=f"Under {rule}, {layer} is {verdict}: {reason}.",
    )


def _shares(ds: xr.Dataset, limits: Sequence[Limit]) -> list[str]:
    """Return the sentence on the shares of the attainable cosine, where any is known."""
    known = [limit for limit in limits if not math.isnan(limit.share)]
    clauses = [(limit.share, _share(ds, limit)) for limit in known]
    if not clauses:
        return []
    return [
        f"Under {limits[0].rule} the share of the attainable cosine that is reached is "
        f"{extremes(clauses, most=MOST_LISTED)}."
    ]


def _share(ds: xr.Dataset, limit: Limit) -> str:
    where = {"rule": limit.rule, "layer": limit.layer, "site": "entry"}
    cosine = number(ds, "cosine_error_signal_flat", **where)
    edges = (
        number(ds, f"cosine_error_signal_flat_null_{edge}", **where) for edge in ("low", "high")
    )
    return (
        f"{decimal(limit.share)} at {limit.layer} (cosine {decimal(cosine)} of "
        f"{decimal(limit.attainable)}, chance {between(*edges)})"
    )

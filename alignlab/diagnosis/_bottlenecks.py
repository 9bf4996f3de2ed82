"""Causes: which narrow layers limit the layers below them."""

from __future__ import annotations

import math
from itertools import groupby
from typing import TYPE_CHECKING, cast

from alignlab import plugins
from alignlab.diagnosis._reading import hidden_layers, number, text
from alignlab.diagnosis._wording import between, counted, decimal, extremes
from alignlab.diagnosis.evidence import Hypothesis, Statement

if TYPE_CHECKING:
    from collections.abc import Sequence

    import xarray as xr

__all__ = ["bottlenecks", "bottlenecks_in_words"]

MOST_LISTED = 4
"""With more layers than this, a sentence names only the lowest and the highest bound."""


def bottlenecks(ds: xr.Dataset, rule: str) -> list[Statement]:
    """Return what the narrow-layer hypothesis says of each hidden layer that has a width bound."""
    narrow = cast("Hypothesis", plugins.load("alignlab.diagnosis.hypotheses", "narrow-layer"))
    said = [narrow.statement(ds, layer, rule=rule) for layer in hidden_layers(ds)]
    return [statement for statement in said if statement.verdict != "does not apply"]


def bottlenecks_in_words(ds: xr.Dataset, statements: Sequence[Statement]) -> list[str]:
    """Return one sentence for each narrow layer of one rule, or one that says that none limits."""
    limiting = [statement for statement in statements if statement.verdict == "limits"]
    if limiting:
        groups = groupby(limiting, lambda each: text(ds, "narrowest_layer_above", layer=each.layer))
        return [_narrow(ds, layer, list(members)) for layer, members in groups]
    if not statements:
        return []
    rule = statements[0].rule
    lowest = min(statements, key=lambda each: _bound(ds, each))
    if lowest.verdict == "undecided":
        return [
            f"Whether a narrow layer limits {lowest.layer} under {rule} is undecided: "
            f"{lowest.reason}."
        ]
    return [
        f"Under {rule} no narrow layer limits the {counted(statements, 'layer')} below one: "
        f"the lowest width bound is {decimal(_bound(ds, lowest))}."
    ]


def _narrow(ds: xr.Dataset, narrow: str, members: Sequence[Statement]) -> str:
    """Return the verdict on one narrow layer, such as "fc3 (width 4) limits fc1 to 0.75"."""
    width = number(ds, "narrowest_width_above", layer=members[0].layer)
    classes = ds.attrs.get("n_classes")
    of_classes = f", {classes} classes" if classes else ""
    bounds = extremes(
        [(_bound(ds, member), _bounded(ds, member)) for member in members], most=MOST_LISTED
    )
    rank = number(ds, "error_rank")
    if math.isnan(rank):
        rank = number(ds, "width_without_limit", rule=members[0].rule)
    remedy = f"; width >= {rank:.0f} removes the limit" if rank > width else ""
    return (
        f"Under {members[0].rule}, {narrow} (width {width:.0f}{of_classes}) limits the cosine of "
        f"{bounds} (exact for linear networks){remedy}."
    )


def _bound(ds: xr.Dataset, statement: Statement) -> float:
    return number(ds, "width_bound", rule=statement.rule, layer=statement.layer)


def _bounded(ds: xr.Dataset, statement: Statement) -> str:
    where = {"rule": statement.rule, "layer": statement.layer}
    low, high = (number(ds, f"width_bound_{edge}", **where) for edge in ("low", "high"))
    over_draws = "" if math.isnan(low) else f" ({between(low, high)} over draws)"
    return f"{statement.layer} to {decimal(_bound(ds, statement))}{over_draws}"

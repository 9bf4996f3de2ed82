"""Narrow layer: a layer above has too few units to pass the feedback's signal through."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from alignlab.diagnosis._reading import number, text
from alignlab.diagnosis._wording import between, decimal
from alignlab.diagnosis.evidence import Evidence, Hypothesis, Intervention
from alignlab.diagnosis.hypotheses._judging import Judge

if TYPE_CHECKING:
    import xarray as xr

    from alignlab.diagnosis.evidence import Statement, Verdict

__all__ = ["NARROW_LAYER"]

FULL_WIDTH = 0.995
"""Bounds that two decimals write as 1.00 are no limit."""


def _statement(ds: xr.Dataset, layer: str, *, rule: str) -> Statement:
    """Hold the width bound (diagnostics.md 0.1.6), or its band over draws, against one.

    The bound is exact for linear networks. It is a ceiling of the layer's cosine, so it needs no
    observed alignment and stands for drawn feedback too, where the band over draws decides.
    """
    judge = Judge("narrow-layer", rule=rule, layer=layer)
    bound = number(ds, "width_bound", rule=rule, layer=layer)
    low = number(ds, "width_bound_low", rule=rule, layer=layer)
    high = number(ds, "width_bound_high", rule=rule, layer=layer)
    narrowest = text(ds, "narrowest_layer_above", layer=layer)
    width = number(ds, "narrowest_width_above", layer=layer)
    if math.isnan(bound) or not narrowest:
        return judge.statement("does not apply", "the recording has no width bound for it")
    over_draws = "" if math.isnan(low) else f" ({between(low, high)} over the feedback draws)"
    words = f"{narrowest} (width {width:.0f}) bounds its cosine by {decimal(bound)}{over_draws}"
    evidence = Evidence("width_bound", bound, 1.0, words)
    least, most = (bound, bound) if math.isnan(low) else (low, high)
    if most < FULL_WIDTH:
        return judge.statement("limits", words, evidence)
    verdict: Verdict = "does not limit" if least >= FULL_WIDTH else "undecided"
    return judge.statement(verdict, words, evidence)


NARROW_LAYER = Hypothesis(
    name="narrow-layer",
    title="narrow layer",
    prediction="The layers below a narrow one keep less than a cosine of 1, whatever the weights.",
    needs=("width_bound", "narrowest_width_above", "narrowest_layer_above"),
    intervention=Intervention(
        action="widen the narrow layer to the rank of the error",
        moves=("width_bound", "cosine_error_signal"),
        stays=("reach_in_sample",),
    ),
    statement=_statement,
)

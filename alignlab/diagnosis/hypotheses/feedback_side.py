"""Feedback side: no fixed feedback of the output error could reach this layer's true signal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alignlab.diagnosis._reading import number, sends_error_directly
from alignlab.diagnosis._wording import decimal, root
from alignlab.diagnosis.evidence import Evidence, Hypothesis, Intervention
from alignlab.diagnosis.hypotheses._judging import Judge

if TYPE_CHECKING:
    import xarray as xr

    from alignlab.diagnosis.evidence import Statement, Verdict

__all__ = ["FEEDBACK_SIDE"]

LOW_CEILING = 0.5
"""Our heuristic: a best cosine under one half leaves less than a quarter of a gradient step."""


def _statement(ds: xr.Dataset, layer: str, *, rule: str) -> Statement:
    """Hold the reach bracket of the entry signal against ``LOW_CEILING``.

    The square root of the reach is the best flattened cosine that any fixed feedback has; the
    in-sample value is biased up, the held-out one down. The hypothesis holds if even the upper
    edge is low, fails if the lower edge is not, and is undecided between.
    """
    judge = Judge("feedback-side", rule=rule, layer=layer)
    if not sends_error_directly(ds, rule):
        return judge.statement("does not apply", f"{rule} does not send the output error directly")
    high = root(number(ds, "reach_in_sample", layer=layer, site="entry"))
    low = root(number(ds, "reach_held_out", layer=layer, site="entry"))
    lacking = judge.lacking(ds, reach_in_sample=high, reach_held_out=low)
    if lacking:
        return judge.statement("undecided", lacking)
    bracket = (
        f"the best fixed feedback has a cosine between {decimal(min(low, high))} (held out) and "
        f"{decimal(high)} (in sample), threshold {decimal(LOW_CEILING)}"
    )
    evidence = (
        Evidence("reach_held_out", low**2, LOW_CEILING**2, bracket),
        Evidence("reach_in_sample", high**2, LOW_CEILING**2, bracket),
    )
    undecidable = judge.without_verdict(ds)
    if undecidable is not None:
        return undecidable
    if high < LOW_CEILING:
        return judge.statement("limits", bracket, *evidence)
    verdict: Verdict = "does not limit" if low >= LOW_CEILING else "undecided"
    return judge.statement(verdict, bracket, *evidence)


FEEDBACK_SIDE = Hypothesis(
    name="feedback-side",
    title="feedback side",
    prediction="Even in sample, the best fixed feedback of the output error has a low cosine.",
    needs=("reach_in_sample", "reach_held_out"),
    intervention=Intervention(
        action="let the feedback depend on the state, or add auxiliary outputs",
        moves=("reach_in_sample", "reach_held_out"),
        stays=("attainable_cosine",),
    ),
    statement=_statement,
)

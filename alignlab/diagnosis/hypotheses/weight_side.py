"""Weight side: the forward weights above cannot, or did not, turn towards this feedback."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from alignlab.diagnosis._reading import number
from alignlab.diagnosis._wording import decimal
from alignlab.diagnosis.evidence import Evidence, Hypothesis, Intervention
from alignlab.diagnosis.hypotheses._judging import Judge

if TYPE_CHECKING:
    import xarray as xr

    from alignlab.diagnosis.evidence import Statement, Verdict

__all__ = ["WEIGHT_SIDE"]

LOW_ATTAINABLE = 0.5
"""Our heuristic: below it, sharing kernels alone costs three quarters of a gradient step."""

LOW_SHARE = 0.5
"""Our heuristic: below it, the weights have covered less than half of what they could."""


def _statement(ds: xr.Dataset, layer: str, *, rule: str) -> Statement:
    """Hold the attainable cosine (F1b), then the share of it that is reached, against thresholds.

    The hypothesis holds if no kernels of the next layer fit the feedback signal
    (``LOW_ATTAINABLE``), or if some would but the weights have not moved to them (``LOW_SHARE``).
    It is undecided if the signal cannot be told from chance by construction, or if the interval
    of the attainable cosine contains the threshold.
    """
    judge = Judge("weight-side", rule=rule, layer=layer)
    undecidable = judge.without_verdict(ds)
    if undecidable is not None:
        return undecidable
    where = {"rule": rule, "layer": layer, "site": "entry"}
    attainable = number(ds, "attainable_cosine", **where)
    share = number(ds, "attainable_share", **where)
    lacking = judge.lacking(ds, attainable_cosine=attainable)
    if lacking:
        return judge.statement("undecided", lacking)
    ceiling = (
        f"kernels of the next layer attain at most a cosine of {decimal(attainable)}, "
        f"threshold {decimal(LOW_ATTAINABLE)}"
    )
    fit = Evidence("attainable_cosine", attainable, LOW_ATTAINABLE, ceiling)
    edges = [number(ds, f"attainable_cosine_{edge}", **where) for edge in ("low", "high")]
    low, high = (attainable if math.isnan(edge) else edge for edge in edges)
    if high < LOW_ATTAINABLE:
        return judge.statement("limits", ceiling, fit)
    if low < LOW_ATTAINABLE:
        return judge.statement("undecided", f"{ceiling}, which its interval contains", fit)
    if math.isnan(share):
        return judge.statement("undecided", "the recording lacks the attainable share", fit)
    reached = (
        f"its weights have reached {decimal(share)} of the attainable cosine "
        f"{decimal(attainable)}, threshold {decimal(LOW_SHARE)}"
    )
    covered = Evidence("attainable_share", share, LOW_SHARE, reached)
    verdict: Verdict = "limits" if share < LOW_SHARE else "does not limit"
    return judge.statement(verdict, reached, covered)


WEIGHT_SIDE = Hypothesis(
    name="weight-side",
    title="weight side",
    prediction="Shared kernels cannot express the feedback, or the weights have not moved to it.",
    needs=("attainable_cosine", "attainable_share"),
    intervention=Intervention(
        action="use channel-wise or convolution-shaped feedback, or a locally connected layer",
        moves=("attainable_cosine", "attainable_share"),
        stays=("reach_in_sample", "reach_held_out"),
    ),
    statement=_statement,
)

"""Coherence: the rule's contributions of the positions cancel, those of backpropagation do not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alignlab.diagnosis._reading import number
from alignlab.diagnosis._wording import decimal
from alignlab.diagnosis.evidence import Evidence, Hypothesis, Intervention
from alignlab.diagnosis.hypotheses._judging import Judge

if TYPE_CHECKING:
    import xarray as xr

    from alignlab.diagnosis.evidence import Statement

__all__ = ["COHERENCE"]

NEAR_CHANCE = 1.5
"""Our heuristic: up to this many times one over the root of the positions counts as chance."""

CONTRAST = 2.0
"""Our heuristic: backpropagation must be this many times as coherent as the rule."""


def _statement(ds: xr.Dataset, layer: str, *, rule: str) -> Statement:
    r"""Hold the rule's coherence against chance, :math:`1/\sqrt P`, and backpropagation.

    The hypothesis holds if the rule is within ``NEAR_CHANCE`` of chance while backpropagation is
    at least ``CONTRAST`` times as coherent as the rule; if backpropagation is incoherent too,
    incoherence is the architecture's, not the rule's.
    """
    judge = Judge("coherence", rule=rule, layer=layer)
    if number(ds, "positions", layer=layer) <= 1:
        return judge.statement("does not apply", "its output has 1 position")
    own = number(ds, "coherence", rule=rule, layer=layer)
    true = number(ds, "coherence_true", layer=layer)
    chance = number(ds, "coherence_chance", layer=layer)
    lacking = judge.lacking(ds, coherence=own, coherence_true=true, coherence_chance=chance)
    if lacking:
        return judge.statement("undecided", lacking)
    undecidable = judge.without_verdict(ds)
    if undecidable is not None:
        return undecidable
    words = (
        f"its coherence is {decimal(own)} against {decimal(true)} of backpropagation, "
        f"chance {decimal(chance)}"
    )
    evidence = (
        Evidence("coherence", own, NEAR_CHANCE * chance, words),
        Evidence("coherence_true", true, CONTRAST * own, words),
    )
    fires = own <= NEAR_CHANCE * chance and true >= CONTRAST * own
    return judge.statement("limits" if fires else "does not limit", words, *evidence)


COHERENCE = Hypothesis(
    name="coherence",
    title="coherence",
    prediction="The rule's position gradients cancel at chance level while true ones add up.",
    needs=("coherence", "coherence_true", "coherence_chance"),
    intervention=Intervention(
        action="broadcast the feedback over positions, or pool before the readout",
        moves=("coherence",),
        stays=("coherence_true",),
    ),
    statement=_statement,
)

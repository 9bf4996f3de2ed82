"""Updates of rules that draw something anew in every step, drawn again at the present weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from alignlab.diagnostics._together import fetched
from alignlab.kernels.draws import error_parts, products_of
from alignlab.rules._observed import ObservedRule
from alignlab.rules._wrapping import WrappingRule
from alignlab.snapshot import MeasuredRule

if TYPE_CHECKING:
    from alignlab.rules._base import Rule
    from alignlab.snapshot import Snapshot

__all__ = ["DRAWS", "RuleDraws", "draws_anew", "fresh_draws", "parameters_by_layer"]

DRAWS = 32
"""Rule calls at the present weights."""

LARGEST = 2**28
"""Entries of all draws together that are held at once: 1 GiB in float32."""

FEWEST = 4

_FIRST = 2**40
"""Number of the pass whose draw is taken first; no training comes to it."""

_SAME = 1e-10
"""Share of variance in the energy of an update below which its draws are all the same."""


@dataclass(frozen=True)
class RuleDraws:
    """Draws of one rule, as far as inner products tell of them.

    Attributes:
        because: Why there are none, a clause; empty where there are.
        products: Inner products of draws and gradient by layer, the whole network under "";
            see ``kernels.draws.products_of``.
    """

    because: str = ""
    products: Mapping[str, Tensor] = field(default_factory=dict)


def fresh_draws(snapshot: Snapshot) -> dict[str, RuleDraws]:
    """Return draws of every rule by its label; for ``Snapshot.shared``.

    Feedback that a rule holds stays as it is: what is drawn is what a step draws.
    """
    found = {m.label: _of_rule(snapshot, m) for m in snapshot.rules}
    drawn = [label for label, draws in found.items() if draws.products]
    shares = fetched([error_parts(found[label].products[""])[0].noise_share for label in drawn])
    for label, share in zip(drawn, shares, strict=True):
        if share < _SAME:
            found[label] = RuleDraws("what it draws in a step does not enter these updates")
    return found


def draws_anew(rule: Rule) -> bool:
    """Return whether a rule draws something in every step."""
    return rule.at_step(_FIRST) != rule.at_step(_FIRST + 1)


def parameters_by_layer(snapshot: Snapshot) -> dict[str, tuple[str, ...]]:
    """Return the names of the parameters of every layer's module that learn.

    They are weight and bias, or what a parametrised weight is computed from.
    """
    capture = snapshot.capture
    names = {id(p): name for name, p in capture.model.named_parameters() if p.requires_grad}
    return {
        layer.name: tuple(
            names[id(p)] for p in capture.module_of(layer).parameters() if id(p) in names
        )
        for layer in snapshot.layers
    }


def _of_rule(snapshot: Snapshot, measured: MeasuredRule) -> RuleDraws:
    because = _why_not(measured)
    if because:
        return RuleDraws(because)
    true = snapshot.true.parameters
    size = sum(g.numel() for g in true.values())
    count = min(DRAWS, LARGEST // max(size, 1))
    if count < FEWEST:
        return RuleDraws(f"draws of {size:,} parameters would take more room than there should be")
    updates = []
    for number in range(count):
        snapshot.progress(f"draws, {measured.label}", number, count)
        updates.append(_drawn(snapshot, measured, number))
    by_name = {name: products_of([each[name] for each in updates], g) for name, g in true.items()}
    products = {"": _sum_of(by_name, tuple(by_name))}
    for layer, names in parameters_by_layer(snapshot).items():
        if names:
            products[layer] = _sum_of(by_name, names)
    return RuleDraws(products=products)


def _sum_of(by_name: Mapping[str, Tensor], names: tuple[str, ...]) -> Tensor:
    """Return the sum of what belongs to some parameters."""
    total = by_name[names[0]].clone()
    for name in names[1:]:
        total += by_name[name].to(total.device)
    return total


def _drawn(snapshot: Snapshot, measured: MeasuredRule, number: int) -> Mapping[str, Tensor]:
    """Return one draw of a rule's updates by parameter name."""
    rule, state = measured.rule.at_step(_FIRST + number), measured.feedback
    if rule.is_derived:
        state = rule.start(snapshot.capture, seed=int(getattr(rule, "seed", 0)))
    again = MeasuredRule(rule, state, measured.origin, measured.label)
    return again.updates(snapshot.task).parameters


def _why_not(measured: MeasuredRule) -> str:
    rule = measured.rule
    if isinstance(rule, ObservedRule):
        return "it is read from a training and cannot be called again"
    if not draws_anew(rule):
        if _holds_random_feedback(rule):
            return (
                "its feedback is drawn once and then fixed: drawing it again at these weights is "
                "its chance level, not its variance"
            )
        return "it draws nothing in a step, so that all of its error is bias"
    if measured.is_drawn:
        return "its feedback was drawn for this analysis"
    return ""


def _holds_random_feedback(rule: Rule) -> bool:
    if isinstance(rule, WrappingRule):
        return _holds_random_feedback(rule.rule)
    return rule.has_random_feedback

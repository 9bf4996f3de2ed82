"""Alignments of weights and feedback with their chance levels, all layers in one transfer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import special, stats
from torch import Tensor

from alignlab.diagnostics._base import Reading
from alignlab.diagnostics._chance import Chance, adjusted_statuses, chance_of, readings
from alignlab.diagnostics._together import fetched
from alignlab.rules._base import DirectRule
from alignlab.rules._drawn import DrawnFeedback

if TYPE_CHECKING:
    from alignlab.snapshot import MeasuredRule

__all__ = ["entries_chance", "has_independent_entries", "judged", "normal_chance", "with_redraws"]

_NAN = float("nan")


def has_independent_entries(measured: MeasuredRule) -> bool:
    """Return whether redrawn feedback is isotropic at every entry by itself.

    First-order chance levels hold for it, and for no feedback that is factored or repeated.
    """
    rule = measured.rule
    if not isinstance(rule, DrawnFeedback) or not isinstance(rule, DirectRule):
        return False
    return rule.granularity == "micro" and rule.structure == "dense" and not rule.rank


def normal_chance(value: float, sd: float, *, kind: str, concentration: float) -> Chance:
    """Return the null of an alignment that is normal by chance, with mean 0.

    Args:
        value: What was observed; NaN where there is nothing.
        sd: Standard deviation by chance.
        kind: What is random, one of ``schema.NULL_KINDS``.
        concentration: Relative spread of the squared norm.
    """
    p, opposed = (
        float(stats.norm.sf(sign * value, scale=sd)) if np.isfinite(value) else _NAN
        for sign in (1.0, -1.0)
    )
    band = 1.96 * sd
    return Chance(sd, -band, band, kind, "closed form", concentration, p, p_opposed=opposed)


def entries_chance(value: float, weight: Tensor, kind: str) -> Chance:
    r"""Return the null of feedback with independent normal entries, whose direction is uniform.

    The cosine c of n entries has :math:`c\sqrt{(n-1)/(1-c^2)}` distributed as Student's t with
    n - 1 degrees of freedom, and standard deviation :math:`1/\sqrt n`. Of one entry it is 1 or -1.

    Args:
        value: The cosine; NaN where there is none.
        weight: Of the feedback's shape.
        kind: What is random, one of ``schema.NULL_KINDS``.
    """
    n = weight.numel()
    distance = float(special.stdtrit(n - 1, 0.975)) if n > 1 else np.inf
    edge = 1.0 if n == 1 else distance / (n - 1 + distance**2) ** 0.5
    p, opposed = (_beyond(sign * value, n) for sign in (1.0, -1.0))
    sd, spread = n**-0.5, (2.0 / n) ** 0.5
    return Chance(sd, -edge, edge, kind, "closed form", spread, p, p_opposed=opposed)


def _beyond(cosine: float, n: int) -> float:
    """Return how often a uniform direction of n entries has a cosine at least so large."""
    if not np.isfinite(cosine):
        return _NAN
    if n == 1:
        return 0.5 if cosine > 0 else 1.0
    apart = max(1.0 - cosine**2, np.finfo(float).tiny)
    return float(special.stdtr(n - 1, -cosine * ((n - 1) / apart) ** 0.5))


def with_redraws(
    name: str,
    measured: MeasuredRule,
    observed: Mapping[str, Tensor],
    draws: Sequence[Mapping[str, Tensor]],
    *,
    kind: str = "feedback_draw",
    closed: Mapping[str, tuple[Tensor, float]] = MappingProxyType({}),
) -> Iterator[Reading]:
    """Yield an alignment of every layer with all its companions.

    Args:
        name: Variable.
        measured: The rule.
        observed: The alignment by layer, scalars.
        draws: The same under each redraw of the feedback.
        kind: What was drawn, one of ``schema.NULL_KINDS``.
        closed: By layer, where it holds: standard deviation by chance to first order, a scalar,
            and the relative spread of the squared norm.
    """
    if not observed:
        return
    stacked = [torch.stack([draw[layer] for draw in draws]) for layer in observed]
    first = [closed[layer][0] for layer in closed]
    numbers = fetched([*observed.values(), *stacked, *first])
    count = len(observed)
    values = dict(zip(observed, (float(each) for each in numbers[:count]), strict=True))
    by_draw = dict(zip(observed, numbers[count : 2 * count], strict=True))
    sds = dict(zip(closed, (float(each) for each in numbers[2 * count :]), strict=True))
    chances = {
        layer: chance_of(
            value,
            by_draw[layer],
            kind=kind,
            concentration=closed[layer][1] if layer in closed else _NAN,
            closed_form=sds.get(layer, _NAN),
        )
        for layer, value in values.items()
    }
    yield from judged(name, measured, values, chances)


def judged(
    name: str,
    measured: MeasuredRule,
    values: Mapping[str, float],
    chances: Mapping[str, Chance],
) -> Iterator[Reading]:
    """Yield alignments with companions and statuses, of which the layers are judged together.

    Args:
        name: Variable.
        measured: The rule.
        values: The alignment by layer.
        chances: Its chance level by layer.
    """
    statuses = adjusted_statuses(
        list(values.values()),
        [chances[layer] for layer in values],
        is_drawn=measured.is_drawn,
        is_cosine=False,
    )
    for (layer, value), status in zip(values.items(), statuses, strict=True):
        undefined = float(not np.isfinite(value))
        place = (measured.label, layer, "")
        yield from readings(name, value, chances[layer], status, undefined=undefined, place=place)

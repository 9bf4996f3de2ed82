"""What a stream of observed passes shows, step by step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Final, final

import numpy as np
from torch import Tensor, nn

from alignlab.engine.comparison import ENTRY
from alignlab.engine.layout import Layout
from alignlab.engine.modules import measured_modules
from alignlab.engine.plan import Direct, Plan, Replaced
from alignlab.engine.statistics import Flushed
from alignlab.errors import MeasurementError
from alignlab.kernels.rows import Summary, concentration, summarized
from alignlab.rules._base import DirectRule, ReplacedWeightRule, Rule
from alignlab.rules._signs import SignConcordantRule
from alignlab.sites import Layer
from alignlab.snapshot import MeasuredRule

__all__ = ["Observations", "Series", "chance_kind", "followed", "require_chosen"]


@dataclass(frozen=True)
class Series:
    """One rule at one place over the steps at which it was measured there.

    Attributes:
        steps: Numbers of the steps, ascending.
        layers: Names of the layers, in the order of the second axis.
        shown: Alignments, each of shape ``(n_steps, n_layers, n_draws)``; the first draw is the
            rule's own, the others are NaN in steps without redraws.
        spread: Relative spread of squared norms over redraws, by sample and of the whole batch,
            each of shape ``(n_steps, n_layers)``.
    """

    steps: np.ndarray
    layers: tuple[str, ...]
    shown: Summary
    spread: tuple[np.ndarray, np.ndarray]


@final
class Observations:
    """Takes rows as they come to the host, and keeps what they say."""

    def __init__(self, labels: Sequence[str]) -> None:
        """Begin.

        Args:
            labels: Of the rules.
        """
        self.labels: Final = tuple(labels)
        self.layers: tuple[Layer, ...] = ()
        self.n_samples = 0
        self._found: Final[dict[tuple[str, int], list[Series]]] = {}

    def take(self, plan: Plan, place: str, flushed: Flushed) -> None:
        """Keep what rows say; they themselves are let go.

        Args:
            plan: Whose rows they are.
            place: Of which place.
            flushed: Steps and rows.
        """
        if not self.layers:
            self.layers, self.n_samples = plan.layers, plan.n_samples
        members = (
            [segment.members for segment in plan.segments]
            if place == ENTRY
            else [(k,) for k in range(len(plan.layers))]
        )
        places = [(k, plan.layers[m].name) for k, group in enumerate(members) for m in group]
        chosen, names = [k for k, _ in places], tuple(name for _, name in places)
        n_draws = [rule.n_draws for rule in plan.rules]
        ends = np.cumsum([len(members), *(len(members) * n for n in n_draws for _ in range(2))])
        true, *blocks = np.split(flushed.rows, ends[:-1], axis=1)
        for number, draws in enumerate(n_draws):
            shape = (len(flushed.steps), len(members), draws, flushed.rows.shape[-1])
            norm, product = (b.reshape(shape)[:, chosen] for b in blocks[2 * number :][:2])
            energy = norm[:, :, 1:] ** 2
            self._found.setdefault((place, number), []).append(
                Series(
                    steps=np.array(flushed.steps),
                    layers=names,
                    shown=summarized(true[:, chosen, None], norm, product),
                    spread=(
                        concentration(energy),
                        concentration(energy.sum(-1, keepdims=True)),
                    ),
                )
            )

    def series(self) -> Iterator[tuple[str, str, Series]]:
        """Yield place, rule and what was seen there."""
        for (place, number), parts in sorted(self._found.items()):
            order = np.argsort(np.concatenate([part.steps for part in parts]), kind="stable")
            shown = Summary(
                **{
                    field.name: np.concatenate([getattr(p.shown, field.name) for p in parts])[order]
                    for field in fields(Summary)
                }
            )
            spread = [np.concatenate([part.spread[k] for part in parts])[order] for k in (0, 1)]
            steps = np.concatenate([part.steps for part in parts])[order]
            yield (
                place,
                self.labels[number],
                Series(steps, parts[0].layers, shown, (spread[0], spread[1])),
            )


def chance_kind(rule: Rule) -> str:
    """Return what is drawn again for a rule's chance level, one of ``schema.NULL_KINDS``."""
    if rule.has_random_feedback:
        return "feedback_draw"
    return "rule_draw" if isinstance(rule, SignConcordantRule) else "none"


def followed(
    rules: Sequence[Rule | MeasuredRule], layout: Layout, *, draws: int, seed: int
) -> list[Direct | Replaced]:
    """Return the rules with feedback for the layers of a pass.

    Args:
        rules: Rules, or rules with their feedback.
        layout: How the layers hang together.
        draws: Redraws for chance levels.
        seed: Of the redraws.
    """
    seeds = [-1 - number - 1_000_003 * seed for number in range(draws)]
    return [
        _direct(each, layout, seeds)
        if isinstance(_rule(each), DirectRule)
        else _replaced(each, seeds)
        for each in rules
    ]


def require_chosen(given: Rule | MeasuredRule, layers: Sequence[str], model: nn.Module) -> None:
    """Refuse feedback of layers that are not among the chosen ones.

    With fewer layers the entry of a layer may lie higher, where its feedback did not enter.

    Args:
        given: A rule, perhaps with its feedback.
        layers: Names of the chosen modules.
        model: The model.

    Raises:
        MeasurementError: Names rule and layer.
    """
    if not isinstance(given, MeasuredRule) or isinstance(given.rule, ReplacedWeightRule):
        return
    every = measured_modules(model)
    named = [name.rpartition("rule.")[2].partition("@")[0] for name in given.feedback]
    others = [name for name in named if name in every and name not in layers]
    if others:
        msg = (
            f"The rule {given.label} holds feedback of {others[0]!r}, which is not among the "
            "chosen layers: entries lay elsewhere when it was drawn. Choose those of the training."
        )
        raise MeasurementError(msg)


def _rule(given: Rule | MeasuredRule) -> Rule:
    return given.rule if isinstance(given, MeasuredRule) else given


def _direct(given: Rule | MeasuredRule, layout: Layout, seeds: Sequence[int]) -> Direct:
    rule = _rule(given)
    assert isinstance(rule, DirectRule)
    layers = [layout.layers[group.members[-1]] for group in layout.groups(rule.granularity)]
    output = layout.only_output
    assert output is not None
    draw = partial(rule.draw, layers, output.width, output=output)
    own = given.feedback if isinstance(given, MeasuredRule) else draw(seed=_seed(rule))
    return Direct(given.label, (own, *(draw(seed=each) for each in seeds)), rule.granularity)


def _replaced(given: Rule | MeasuredRule, seeds: Sequence[int]) -> Replaced:
    rule = _rule(given)
    assert isinstance(rule, ReplacedWeightRule)
    is_given = isinstance(given, MeasuredRule) and given.origin != "derived from weights"
    held = dict(given.backward_weights) if isinstance(given, MeasuredRule) and is_given else {}

    def own(weights: Mapping[str, Tensor], step: int) -> Mapping[str, Tensor]:
        if held:
            return held
        found = _at_step(rule, step).backward_weights(weights, seed=_seed(rule))
        if rule.has_random_feedback and not isinstance(rule, SignConcordantRule):
            held.update(found)
        return found

    def by_chance(weights: Mapping[str, Tensor], step: int, *, seed: int) -> Mapping[str, Tensor]:
        drawn = _at_step(rule, step).by_chance(weights, seed=seed)
        assert drawn is not None
        return drawn

    redraws = [] if chance_kind(rule) == "none" else seeds
    return Replaced(given.label, (own, *(partial(by_chance, seed=each) for each in redraws)))


def _at_step(rule: ReplacedWeightRule, step: int) -> ReplacedWeightRule:
    found = rule.at_step(step)
    assert isinstance(found, ReplacedWeightRule)
    return found


def _seed(rule: Rule) -> int:
    return int(getattr(rule, "seed", 0))

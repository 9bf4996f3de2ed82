"""How much further the loss falls where single layers are given their true gradient (B6)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from torch import Tensor

from alignlab.diagnostics._base import NotDefined, Reading, SnapshotDiagnostic, Variable
from alignlab.diagnostics._descent import (
    OTHERS,
    groups,
    loss_at,
    moved,
    observed,
    products,
    replay_at,
    start,
    step_length,
    without_own,
)
from alignlab.diagnostics._together import fetched
from alignlab.snapshot import Snapshot

__all__ = ["OracleSubstitution"]

_WHOLE = {
    "none": "Loss change of a step along the rule's update",
    "direction": "Loss change of that step with all layers' true directions, norms kept",
    "norm": "Loss change of a step of that length with all layers' true norms, directions kept",
}
_LAYER = {
    "gain": "How much further the loss falls where this layer alone has its true direction",
    "loss_of_one": "How much less the loss falls where this layer alone lacks its true direction",
}


class OracleSubstitution(SnapshotDiagnostic):
    r"""Loss changes of steps in which layers have their true direction, or their true norm.

    .. math:: \text{direction: } \hat g_l \to g_l \|\hat g_l\| / \|g_l\|, \qquad
        \text{norm: } \hat g_l \to \hat g_l \|g_l\| / \|\hat g_l\|

    A layer's update is that of its weights and biases; the parameters of no layer, as those of
    normalisations, are one group more. All steps have the length of ``loss-change``, that at which
    backpropagation lowers the loss by one per mille to first order: directions keep the norm of
    the update by themselves, true norms are scaled to it.

    How to read it: ``oracle_gain`` is the blame of one layer, all else being the rule's; to first
    order it is :math:`\eta\|\hat g_l\|\|g_l\|(1 - \cos_l)`, so that a layer with a small share
    of the update's norm has little of it whatever its cosine. ``oracle_loss_of_one`` is the blame
    of one layer, all else being true. Where both differ, layers act on each other within the step.
    A rule for which ``oracle_direction`` is far below ``oracle_none`` lacks directions; one for
    which ``oracle_norm`` is, lacks the right sizes of layers, which learning rates by layer
    mend. Expectation: 0 gain at a layer with its true direction, the output layer of most rules.

    Undefined at layers of which the true gradient or the update is zero or that have no
    parameters of their own that learn (there the rule's update stays), where the whole gradient is
    zero, and for feedback that was drawn for the measurement.

    Source: our derivation.

    Example:
        >>> import torch
        >>> from alignlab import Probe
        >>> from alignlab.rules import DFA
        >>> _ = torch.manual_seed(0)
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3)
        ... )
        >>> loss = torch.nn.functional.cross_entropy
        >>> probe = Probe(net, loss, rules=[DFA()], diagnostics=["oracle-substitution"], draws=32)
        >>> found = probe.measure(torch.randn(9, 4), torch.arange(9) % 3)
        >>> (found["oracle_gain"].squeeze() > 1e-6).values.tolist()
        [True, False]
    """

    variables: ClassVar[tuple[Variable, ...]] = (
        *(Variable(f"oracle_{key}", ("rule",), text) for key, text in _WHOLE.items()),
        *(Variable(f"oracle_{key}", ("rule", "layer"), text) for key, text in _LAYER.items()),
    )
    cost: ClassVar[float] = 10.0

    def measure(self, snapshot: Snapshot) -> Iterator[Reading | NotDefined]:
        """Yield what substitutions do to the step of every rule."""
        yield from without_own(snapshot)
        found = snapshot.shared(products)
        length = step_length(snapshot, found[""].size)
        if not length > 0:
            yield NotDefined("the true gradient or the loss is zero")
            return
        for each in observed(snapshot):
            if isinstance(each, NotDefined):
                yield each
            elif not found[each.label].size > 0:
                yield NotDefined("its update is zero", each.label)
            else:
                yield from _substituted(snapshot, each.label, length)


def _substituted(snapshot: Snapshot, label: str, length: float) -> Iterator[Reading | NotDefined]:
    own, true = (snapshot.shared(products)[each].norm for each in (label, ""))
    update = snapshot.passes[label].parameters
    both = [group for group in own if own[group] > 0 and true[group] > 0]
    for layer in own.keys() - {*both, OTHERS}:
        because = "its true gradient is zero" if own[layer] > 0 else "its update is zero"
        yield NotDefined(because, label, layer)
    step = length / snapshot.shared(products)[label].size
    plain = moved(snapshot, update, dict.fromkeys(own, step))
    truly = {group: step * own[group] / true[group] for group in both}
    exact = plain | moved(snapshot, snapshot.true.parameters, truly)
    none, gains = _with_each(snapshot, plain, exact, both)
    every, losses = _with_each(snapshot, exact, plain, both)
    scale = length / sum(true[group] ** 2 for group in both) ** 0.5 if both else 0.0
    normed = {group: scale * true[group] / own[group] for group in both}
    sized = loss_at(snapshot, snapshot.shared(start), moved(snapshot, update, normed))
    values = iter(fetched([none, every, sized, *gains, *losses]))
    before = snapshot.shared(start).loss
    changes = {key: float(next(values)) - before for key in ("none", "direction", "norm")}
    for key, change in changes.items():
        yield Reading(f"oracle_{key}", change, label)
    for key, base, sign in (("gain", "none", 1.0), ("loss_of_one", "direction", -1.0)):
        for group in both:
            change = sign * (changes[base] + before - float(next(values)))
            if group != OTHERS:
                yield Reading(f"oracle_{key}", change, label, group)


def _with_each(
    snapshot: Snapshot,
    plain: Mapping[str, Tensor],
    other: Mapping[str, Tensor],
    substituted: Sequence[str],
) -> tuple[Tensor, list[Tensor]]:
    """Return the loss at parameters, and with those of each group taken from others."""
    runs = replay_at(snapshot, plain)
    named = groups(snapshot.capture)
    parts = ({name: other[name] for name in named[group]} for group in substituted)
    return runs.loss, [runs.changed(part) for part in parts]

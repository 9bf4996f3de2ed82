"""What averaging updates over steps does to their direction (C3)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from alignlab.diagnostics._base import NotDefined, Reading, SnapshotDiagnostic, Variable
from alignlab.diagnostics._descent import OTHERS, groups, observed, without_own
from alignlab.diagnostics._rotated import Judged, of_parameters, rotated, vectors
from alignlab.kernels.cosines import wide
from alignlab.kernels.descent import averaging_weights
from alignlab.rules._base import Rule
from alignlab.rules._observed import ObservedRule
from alignlab.rules._task import Task
from alignlab.snapshot import MeasuredRule, Snapshot

__all__ = ["MomentumAveraging"]

LENGTHS = (1, 2, 4, 8)
"""Averaging lengths, in states."""

_FIRST_PASS = 2**20
"""Number of the pass at the first earlier state, for rules that draw anew in every pass.

It is far from that of the measured pass, so that no two states share their draws.
"""

_SOURCE = "our derivation, after Bacho & Chu 2024"
_WORDS = {
    "momentum_cosine": (
        ("rule", "layer"),
        "Cosine of averages over states of the layer's update and of its true gradient",
    ),
    "momentum_cosine_total": (
        ("rule",),
        "Cosine of averages over states of the whole update and of the whole true gradient",
    ),
    "momentum_cosine_present": (
        ("rule",),
        "Cosine of the average over states of the whole update with the present true gradient",
    ),
    "momentum_cosine_present_true": (
        (),
        "Cosine of the average over states of the true gradient with the present one",
    ),
}

Gradients = Mapping[str, Tensor]


class MomentumAveraging(SnapshotDiagnostic):
    r"""Cosines of moving averages of the update and of the true gradient over earlier states.

    .. math:: \cos\Big(\sum_k w_k \hat g(\theta_k; \xi_k), \sum_k w_k g(\theta_k)\Big), \qquad
        w_k \propto \beta^{K-k}, \quad \beta = 1 - 1/n

    What is averaged: the update and the true gradient of the measured batch at every earlier
    state, in the order in which these were given (oldest first), and at the present one. The batch
    and the network's own randomness are the same at all, so that the noise of sampling is *not*
    averaged. The rule's randomness :math:`\xi_k` is fresh at every state where the rule draws
    anew in every pass; feedback that is drawn once, as that of feedback alignment, stays. The
    averaging length n along ``length`` is in states, so that it is n times the distance of these
    in steps; 1 is no averaging. Earlier states bring their own buffers.

    How to read it: where the total rises with n, a rule is limited by variance, which momentum
    removes (an average of length n over many states weighs as one of :math:`2n - 1` draws in equal
    parts); where it stays, by bias, which momentum leaves. ``momentum_cosine_present`` is what
    counts for this step: it falls again where averages are stale, as
    ``momentum_cosine_present_true`` does, that of the true gradient's own average. The n at which
    it is largest is the averaging length that is worth its staleness. Chance level: averages
    turned at random among the output units of each layer.

    It takes one more training step for every further earlier state.

    Undefined without an earlier state (``Probe(earlier=...)``, ``--earlier``); for averages longer
    than there are states; for rules that were read from a training or have learned what they
    hold, whose earlier updates are not known; for feedback that was drawn for the measurement; and
    at layers without parameters of their own that learn.

    Source: our derivation, after Bacho & Chu 2024 (averages of forward gradients as feedback).

    Example:
        >>> import copy
        >>> from alignlab import Probe
        >>> from alignlab.rules import ForwardGradient
        >>> _ = torch.manual_seed(0)
        >>> net = torch.nn.Linear(4, 3)
        >>> same = {f"{k} steps ago": copy.deepcopy(net.state_dict()) for k in range(7, 0, -1)}
        >>> probe = Probe(
        ...     net,
        ...     torch.nn.functional.cross_entropy,
        ...     rules=[ForwardGradient()],
        ...     diagnostics=["momentum-averaging"],
        ...     draws=32,
        ...     earlier=same,
        ... )
        >>> found = probe.measure(torch.randn(20, 4), torch.arange(20) % 3)
        >>> total = found["momentum_cosine_total"].squeeze()
        >>> bool(total.sel(length=8) > total.sel(length=1))
        True
    """

    variables: ClassVar[tuple[Variable, ...]] = tuple(
        Variable(
            name,
            (*dims, "length"),
            text,
            source=_SOURCE,
            better="higher",
            valid=(-1.0, 1.0),
            alignment=True,
        )
        for name, (dims, text) in _WORDS.items()
    )
    cost: ClassVar[float] = 3.4
    coords: ClassVar[Mapping[str, Sequence[float]]] = {"length": LENGTHS}

    def measure(self, snapshot: Snapshot) -> Iterator[Reading | NotDefined]:
        """Yield the cosines of every rule along the averaging lengths."""
        if not snapshot.earlier:
            yield NotDefined("there is no earlier state; give Probe(earlier=...) or --earlier")
            return
        yield from without_own(snapshot)
        rules = []
        for each in observed(snapshot):
            because = "" if isinstance(each, NotDefined) else _unknown(each.rule)
            if isinstance(each, NotDefined):
                yield each
            elif because:
                yield NotDefined(because, each.label)
            else:
                rules.append(each)
        n_states = len(snapshot.earlier) + 1
        if n_states < max(LENGTHS):
            yield NotDefined(f"there are {n_states} states, averages over more are left out")
        true, updates = _at_all(snapshot, rules)
        averages = _averages(true)
        present = {name: true[-1][name].expand_as(one) for name, one in averages.items()}
        _, together = _compared(snapshot, averages, present, "")
        yield from vectors("momentum_cosine_present_true", "", {"": together})
        for label, states in updates.items():
            own = _averages(states)
            found, together = _compared(snapshot, own, averages, label)
            yield from vectors("momentum_cosine", label, found)
            yield from vectors("momentum_cosine_total", label, {"": together})
            _, together = _compared(snapshot, own, present, label)
            yield from vectors("momentum_cosine_present", label, {"": together})


def _unknown(rule: Rule) -> str:
    """Return why a rule's updates at earlier states are not known; empty where they are."""
    if isinstance(rule, ObservedRule):
        return "its updates were read at one moment of the training"
    if rule.learns or rule.needs_history:
        return "what it had learned at earlier states is not known"
    return ""


def _at_all(
    snapshot: Snapshot, rules: Sequence[MeasuredRule]
) -> tuple[list[Gradients], dict[str, list[Gradients]]]:
    """Return true gradients and updates by rule, at all states, the present one last."""
    true: list[Gradients] = []
    updates: dict[str, list[Gradients]] = {measured.label: [] for measured in rules}
    for number, label in enumerate(snapshot.earlier):
        with snapshot.at(label) as capture:
            found = capture.reference(parameters=True)
            true.append(found.parameters)
            for measured in rules:
                rule = measured.rule.at_step(_FIRST_PASS + number)
                seed = int(getattr(rule, "seed", 0))
                state = rule.start(capture, seed=seed) if rule.is_derived else measured.feedback
                then = MeasuredRule(rule, state, measured.origin, measured.label)
                updates[measured.label].append(then.updates(Task(capture, found)).parameters)
    for measured in rules:
        updates[measured.label].append(snapshot.passes[measured.label].parameters)
    return [*true, snapshot.true.parameters], updates


def _averages(states: Sequence[Gradients]) -> dict[str, Tensor]:
    """Return averages by parameter, one for each length that there are states for."""
    lengths = [length for length in LENGTHS if length <= len(states)]
    weights = torch.stack([averaging_weights(length, len(states)) for length in lengths])
    result = {}
    for name in states[-1]:
        stacked = torch.stack([wide(each[name]) for each in states])
        result[name] = torch.tensordot(weights.to(stacked.device), stacked, dims=1)
    return result


def _compared(
    snapshot: Snapshot, updates: Gradients, gradients: Gradients, rule: str
) -> tuple[dict[str, list[Judged]], list[Judged]]:
    """Return cosines with their chance level by layer, and of all parameters together."""
    model, named = snapshot.capture.model, groups(snapshot.capture)
    pairs = {g: of_parameters(model, names, updates, gradients) for g, names in named.items()}
    found, together = rotated(snapshot, pairs, stream=f"momentum-averaging, {rule}")
    return {group: each for group, each in found.items() if group != OTHERS}, together

"""What a nudge of one layer along the rule's direction does to the loss, beside others (B4)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from alignlab.diagnostics._base import NotDefined, Reading, SnapshotDiagnostic, Variable
from alignlab.diagnostics._descent import (
    groups,
    observed,
    replay,
    step_length,
    without_own,
)
from alignlab.diagnostics._together import fetched
from alignlab.engine.updates import Updates
from alignlab.feedback import generator
from alignlab.kernels.cosines import wide
from alignlab.kernels.descent import chance_of_step
from alignlab.snapshot import Snapshot

__all__ = ["Nudging"]

DRAWS = 2
"""Random directions for each layer; they tell only what curvature adds."""

_PARTS = {"signal": "the pre-activations", "weight": "the layer's weights and biases"}
_ROLES = {
    "": (("rule",), "Loss change where {part} move along the rule's direction"),
    "_true": ((), "Loss change where {part} move as far along the true direction"),
    "_random": ((), "Mean loss change where {part} move as far in random directions"),
    "_random_sd": ((), "Standard deviation of that loss change over random directions"),
    "_length": ((), "How far {part} move"),
    "_share": (("rule",), "Loss change along the rule's over that along the true direction"),
    "_z": (("rule",), "How far the rule's direction lowers the loss beyond random ones, in sds"),
}


def _declared() -> tuple[Variable, ...]:
    better = {"_share": "higher", "_z": "higher"}
    return tuple(
        Variable(
            f"nudge_{key}{role}",
            (*dims, "layer"),
            text.format(part=part),
            source="our derivation, after Hao et al. 2026 (as told by a repository)",
            better=better.get(role, "none"),
            valid=(0.0, None) if role in {"_random_sd", "_length"} else (None, None),
        )
        for key, part in _PARTS.items()
        for role, (dims, text) in _ROLES.items()
    )


@dataclass(frozen=True)
class _Place:
    """What is moved in one layer, and the true gradient in it.

    Attributes:
        part: ``signal`` or ``weight``.
        layer: Name of the layer.
        gradient: By parameter; of the pre-activation under the name of the layer.
    """

    part: str
    layer: str
    gradient: Mapping[str, Tensor]

    def of(self, updates: Updates) -> dict[str, Tensor] | None:
        """Return this part of what a rule yields; None where there is nothing."""
        held = updates.preactivation if self.part == "signal" else updates.parameters
        found = {name: held[name] for name in self.gradient if name in held}
        return found if len(found) == len(self.gradient) else None


class Nudging(SnapshotDiagnostic):
    r"""Loss changes of equal steps in one layer: along the rule's, the true, random directions.

    .. math:: a_l \to a_l - r_l \hat\delta_l / \|\hat\delta_l\| \quad\text{or}\quad
        \theta_l \to \theta_l - r_l \hat g_l / \|\hat g_l\|, \qquad
        r_l = 10^{-3} |L| / \|\delta_l\| \;\text{ or }\; 10^{-3} |L| / \|g_l\|

    All else stays at rest; the forward pass goes on from the moved pre-activations of the whole
    batch, or is run with the moved weights and biases. The length is that at which the true
    direction lowers the loss by one per mille to first order.

    How to read it: the share is what the direction is worth beside the true one of the same
    length. To first order it is the flattened cosine of the signals, or the cosine of the updates
    of weights and biases; it is less where the rule's direction has more curvature. Widening
    the layer, or another step size, changes that. ``z`` counts how many standard deviations
    further than a random direction it lowers the loss; below 0 the direction is worse than
    random, near 0 it is dead. Random directions are a low bar where there are many units: a
    z of 10 can be a cosine of 0.01. What unrelated *feedback* gives is the chance level of
    ``error-signal`` and ``weight-gradient``.

    Chance level: directions uniform on the sphere of all entries that move. To first order their
    standard deviation is known exactly; what curvature adds is drawn (2 directions a layer).

    Undefined where the true gradient is zero, where the rule's is zero or missing, at layers that
    are also called where no gradient flows (signals), or have no parameters of their own that
    learn (weights); the share where the true direction does not lower the loss. Output
    layers are left out where the rule's signal is exact there.

    Source: our derivation; the comparison with a random direction is Hao et al. 2026's, as told
    by a repository.

    Example:
        >>> from alignlab import Probe
        >>> from alignlab.rules import DFA
        >>> _ = torch.manual_seed(0)
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3)
        ... )
        >>> loss = torch.nn.functional.cross_entropy
        >>> probe = Probe(net, loss, rules=[DFA()], diagnostics=["nudging"], draws=32)
        >>> found = probe.measure(torch.randn(9, 4), torch.arange(9) % 3)
        >>> bool((found["nudge_signal_true"] < 0).all())
        True
    """

    variables: ClassVar[tuple[Variable, ...]] = _declared()
    cost: ClassVar[float] = 36.0

    def measure(self, snapshot: Snapshot) -> Iterator[Reading | NotDefined]:
        """Yield the changes of every layer, for its signal and its own parameters."""
        yield from without_own(snapshot)
        places: list[_Place] = []
        for each in _places(snapshot):
            if isinstance(each, NotDefined):
                yield each
            else:
                places.append(each)
        squares = fetched([_square(place.gradient) for place in places])
        lengths = [step_length(snapshot, float(square) ** 0.5) for square in squares]
        defined = {}
        for place, length in zip(places, lengths, strict=True):
            if length > 0:
                defined[(place.part, place.layer)] = (place, length)
            else:
                yield NotDefined(f"its true {place.part} gradient is zero", layer=place.layer)
        known = _known(snapshot, defined)
        for (part, layer), values in known.items():
            for role, value in values.items():
                yield Reading(f"nudge_{part}{role}", value, layer=layer)
        yield from _of_rules(snapshot, defined, known)


def _places(snapshot: Snapshot) -> Iterator[_Place | NotDefined]:
    """Yield what can be moved."""
    runs, true = snapshot.shared(replay), snapshot.true
    named = groups(snapshot.capture)
    for layer in snapshot.layers:
        name = layer.name
        if runs.can_move(layer):
            yield _Place("signal", name, {name: true.preactivation[name]})
        else:
            yield NotDefined("it is also called without a gradient", layer=name)
        if name in named:
            own = {each: true.parameters[each] for each in named[name]}
            yield _Place("weight", name, own)


Defined = Mapping[tuple[str, str], tuple[_Place, float]]
Known = dict[tuple[str, str], dict[str, float]]


def _known(snapshot: Snapshot, defined: Defined) -> Known:
    """Return length, true and random changes of every place."""
    runs = snapshot.shared(replay)
    found: list[Tensor] = []
    for place, length in defined.values():
        found.append(_changed(snapshot, place, place.gradient, -length))
        for number in range(DRAWS):
            drawn = _direction(snapshot, place, number)
            slope = _inner(place.gradient, drawn) * length / _square(drawn).sqrt()
            found += [_changed(snapshot, place, drawn, length), slope]
    values = iter(fetched([runs.loss, *found]))
    before = next(values)
    true, curved = [], []
    for _ in defined:
        true.append(float(next(values) - before))
        curved.append([next(values) - before - next(values) for _ in range(DRAWS)])
    lengths = [length for _, length in defined.values()]
    sizes = [sum(g.numel() for g in place.gradient.values()) for place, _ in defined.values()]
    # The true change is the product of norm and length to first order, the same everywhere.
    norms = [step_length(snapshot, 1.0) / length for length in lengths]
    given = [torch.as_tensor(np.array(each, float)) for each in (norms, lengths, sizes, curved)]
    mean, sd = chance_of_step(*given) if defined else given[:2]
    rows = zip(true, mean.tolist(), sd.tolist(), lengths, strict=True)
    roles = ("_true", "_random", "_random_sd", "_length")
    return {key: dict(zip(roles, row, strict=True)) for key, row in zip(defined, rows, strict=True)}


def _of_rules(snapshot: Snapshot, defined: Defined, known: Known) -> Iterator[Reading | NotDefined]:
    """Yield the changes along the directions of every rule."""
    before = snapshot.shared(replay).loss
    for measured in observed(snapshot):
        if isinstance(measured, NotDefined):
            yield measured
            continue
        compared = {layer.name for layer in snapshot.compared(measured)}
        updates = snapshot.passes[measured.label]
        directions = {
            key: place.of(updates) for key, (place, _) in defined.items() if key[1] in compared
        }
        held = {key: each for key, each in directions.items() if each is not None}
        for part, layer in directions.keys() - held.keys():
            yield NotDefined(f"the rule yields no {part} there", measured.label, layer)
        squares = fetched([_square(each) for each in held.values()])
        moving = [key for key, square in zip(held, squares, strict=True) if square > 0]
        for part, layer in held.keys() - set(moving):
            yield NotDefined(f"the rule's {part} is zero there", measured.label, layer)
        changes = [
            _changed(snapshot, defined[key][0], held[key], -defined[key][1]) - before
            for key in moving
        ]
        for (part, layer), change in zip(moving, fetched(changes), strict=True):
            yield from _compared(part, layer, measured.label, change, known[(part, layer)])


def _compared(
    part: str, layer: str, rule: str, change: np.ndarray, known: Mapping[str, float]
) -> Iterator[Reading | NotDefined]:
    value = float(change)
    yield Reading(f"nudge_{part}", value, rule, layer)
    if known["_random_sd"] > 0:
        distance = (known["_random"] - value) / known["_random_sd"]
        yield Reading(f"nudge_{part}_z", distance, rule, layer)
    if known["_true"] < 0:
        yield Reading(f"nudge_{part}_share", value / known["_true"], rule, layer)
    else:
        because = f"a step along the true {part} gradient does not lower the loss"
        yield NotDefined(because, rule, layer)


def _direction(snapshot: Snapshot, place: _Place, number: int) -> dict[str, Tensor]:
    """Return a direction by chance, normal in every entry."""
    stream = generator(snapshot.seed, "nudging", place.part, place.layer, str(number))
    return {
        name: torch.randn(each.shape, generator=stream).to(each.device)
        for name, each in place.gradient.items()
    }


def _changed(
    snapshot: Snapshot, place: _Place, along: Mapping[str, Tensor], length: float
) -> Tensor:
    """Return the loss after a step of a length along a direction."""
    runs, step = snapshot.shared(replay), length / _square(along).sqrt()
    by = {name: step.to(each.device) * wide(each) for name, each in along.items()}
    if place.part == "signal":
        return runs.changed(moved=by)
    parameters = dict(snapshot.capture.model.named_parameters())
    return runs.changed({n: wide(parameters[n].detach()) + each for n, each in by.items()})


def _square(along: Mapping[str, Tensor]) -> Tensor:
    return _inner(along, along)


def _inner(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> Tensor:
    parts = [(wide(first[name]) * wide(second[name])).sum() for name in first]
    return torch.stack([part.to(parts[0].device) for part in parts]).sum()

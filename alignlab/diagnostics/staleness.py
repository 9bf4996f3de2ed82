"""How the true gradient of earlier states agrees with the present one (C4)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from alignlab.diagnostics._base import NotDefined, Reading, SnapshotDiagnostic, Variable
from alignlab.diagnostics._rotated import Pair, of_weight, rotated, vectors
from alignlab.errors import MeasurementError
from alignlab.kernels.cosines import cosine
from alignlab.layer_view import LayerView
from alignlab.snapshot import Snapshot

if TYPE_CHECKING:
    from alignlab.engine.capture import Capture
    from alignlab.engine.updates import Updates

__all__ = ["Staleness"]

_SOURCE = "our derivation; the question is that of pipelined training (PipeDream)"
_WORDS = {
    "staleness_cosine": "weight gradient of an earlier state with the present one, same samples",
    "staleness_cosine_pipeline": "weight gradient with the weights of an earlier state in the "
    "backward pass alone with the present one",
}


def _declared() -> Iterator[Variable]:
    for name, text in _WORDS.items():
        every = "all hidden layers'" if name.endswith("pipeline") else "all layers'"
        for ending, dims, of in (("", ("layer",), "the"), ("_total", (), every)):
            yield Variable(
                name + ending,
                (*dims, "earlier"),
                f"Cosine of {of} {text}",
                source=_SOURCE,
                better="higher",
                valid=(-1.0, 1.0),
                alignment=True,
            )
    yield Variable(
        "staleness_cosine_crossed",
        ("layer", "earlier"),
        "Cosine of the weight gradient of an earlier state with the present one on other samples",
        better="higher",
        valid=(-1.0, 1.0),
    )
    yield Variable(
        "staleness_noise_ceiling",
        ("layer",),
        "Cosine of the present weight gradients of two disjoint halves of the samples",
        source="our derivation, after McCandlish et al. 2018",
        better="higher",
        valid=(-1.0, 1.0),
    )


@dataclass(frozen=True)
class _Gradients:
    """Weight gradients of one state by layer.

    Attributes:
        whole: Of all samples.
        halves: Of two disjoint halves of them.
    """

    whole: Mapping[str, Tensor]
    halves: Mapping[str, tuple[Tensor, Tensor]]


class Staleness(SnapshotDiagnostic):
    r"""Cosine of the true weight gradient at earlier states with that at the present one.

    .. math:: \cos\big(g_l(\theta_{t-\tau}), g_l(\theta_t)\big)

    Both gradients are those of the measured batch, with the same randomness; earlier states bring
    their own buffers. The *crossed* cosine takes the earlier gradient of one half of the samples
    and the present one of the other, averaged over both ways round: it shares no samples and goes
    to the noise ceiling, the cosine of the two halves' present gradients, as the states come
    together, where the plain one goes to 1. *Pipeline* takes forward pass, errors and inputs of
    the present weights and carries the signals back by those of the earlier state: what a pipeline
    does whose weights change between a forward and its backward pass. Scales of normalisations
    and gates are the present ones there.

    How to read it: how far back gradients may be and still descend. A crossed cosine at the
    ceiling says that staleness costs nothing beside the noise of sampling; larger steps between
    the states, or a larger curvature, lower it. Where the pipeline's cosine is far above the plain
    one, it is errors and inputs that are stale, not the weights of the backward pass. Chance
    level: the earlier gradient turned at random among the output units; the crossed cosine has
    expectation 0 under such turns.

    It takes one more training step for every further earlier state.

    Undefined without an earlier state (``Probe(earlier=...)``, ``--earlier``), at layers whose
    weight does not learn, at zero gradients, and, for the pipeline, in networks whose weights
    cannot be replaced in the backward pass. An output layer's weight gradient does not depend on
    the weights of the backward pass; it has no pipeline cosine and no part in the total of these.

    Source: our derivation; the question is that of pipelined training (PipeDream), the ceiling is
    after McCandlish et al. 2018.

    Example:
        >>> import copy
        >>> from alignlab import Probe
        >>> _ = torch.manual_seed(0)
        >>> net = torch.nn.Linear(4, 3)
        >>> probe = Probe(
        ...     net,
        ...     torch.nn.functional.cross_entropy,
        ...     diagnostics=["staleness"],
        ...     draws=32,
        ...     earlier={"one step ago": copy.deepcopy(net.state_dict())},
        ... )
        >>> found = probe.measure(torch.randn(20, 4), torch.arange(20) % 3)
        >>> round(found["staleness_cosine"].item(), 6)
        1.0
    """

    variables: ClassVar[tuple[Variable, ...]] = tuple(_declared())
    cost: ClassVar[float] = 3.0

    def measure(self, snapshot: Snapshot) -> Iterator[Reading | NotDefined]:
        """Yield cosines of every layer along the earlier states."""
        if not snapshot.earlier:
            yield NotDefined("there is no earlier state; give Probe(earlier=...) or --earlier")
            return
        now = _gradients(snapshot, snapshot.capture, snapshot.true)
        for layer in snapshot.layers:
            if layer.name not in now.whole:
                yield NotDefined("its weight is no parameter that is learned", layer=layer.name)
        then, backward = [], []
        for label in snapshot.earlier:
            with snapshot.at(label) as capture:
                then.append(_gradients(snapshot, capture, capture.reference()))
                weights = {name: one.clone() for name, one in capture.module_weights().items()}
            backward.append(weights)
        yield from _compared(snapshot, "staleness_cosine", [each.whole for each in then], now.whole)
        yield from _crossed(then, now)
        yield from _pipelined(snapshot, backward, now.whole)


def _gradients(snapshot: Snapshot, capture: Capture, true: Updates) -> _Gradients:
    """Return the weight gradients of a state."""
    views = {
        layer.name: LayerView(capture, layer, true, fold=snapshot.fold, shared=snapshot.shared)
        for layer in capture.layers
    }
    halves = {name: view.weight_halves for name, view in views.items()}
    whole = {name: view.gradients[0] for name, view in views.items()}
    return _Gradients(
        {name: one for name, one in whole.items() if one is not None},
        {name: pair for name, pair in halves.items() if pair is not None},
    )


def _compared(
    snapshot: Snapshot, name: str, then: Sequence[Mapping[str, Tensor]], now: Mapping[str, Tensor]
) -> Iterator[Reading]:
    """Yield an alignment by layer and in total."""
    by_name = {layer.name: layer for layer in snapshot.layers}
    pairs: dict[str, list[Pair]] = {}
    for layer, gradient in now.items():
        module = snapshot.capture.module_of(by_name[layer])
        earlier = torch.stack([each[layer] for each in then])
        pairs[layer] = [of_weight(module, earlier, gradient.expand_as(earlier))]
    found, together = rotated(snapshot, pairs, stream=name)
    yield from vectors(name, "", found)
    yield from vectors(f"{name}_total", "", {"": together})


def _crossed(then: list[_Gradients], now: _Gradients) -> Iterator[Reading]:
    """Yield cosines across the halves of the samples."""
    for layer, (one, other) in now.halves.items():
        ceiling = cosine(one.flatten(), other.flatten())
        yield Reading("staleness_noise_ceiling", ceiling, layer=layer)
        ways = [
            (cosine(first.flatten(), other.flatten()) + cosine(second.flatten(), one.flatten())) / 2
            for first, second in (each.halves[layer] for each in then)
        ]
        yield Reading("staleness_cosine_crossed", torch.stack(ways), layer=layer)


def _pipelined(
    snapshot: Snapshot, backward: list[dict[str, Tensor]], now: Mapping[str, Tensor]
) -> Iterator[Reading | NotDefined]:
    """Yield cosines with the gradient that other weights of the backward pass make."""
    capture = snapshot.capture
    try:
        capture.require_replaceable()
        stale = [capture.replaced(weights) for weights in backward]
    except MeasurementError as error:
        yield NotDefined(f"weights cannot be replaced in the backward pass: {error}")
        return
    hidden = {layer.name: layer for layer in snapshot.hidden if layer.name in now}
    found = []
    for updates in stale:
        views = {name: snapshot.view(layer, updates) for name, layer in hidden.items()}
        gradients = {name: view.gradients[0] for name, view in views.items()}
        found.append({name: one for name, one in gradients.items() if one is not None})
    present = {name: now[name] for name in hidden}
    yield from _compared(snapshot, "staleness_cosine_pipeline", found, present)

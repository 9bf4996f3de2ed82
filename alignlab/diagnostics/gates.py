"""How many units let a signal pass: participation, closed, dead and always open gates (G2)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

from torch import Tensor

from alignlab.diagnostics._base import NotDefined, Reading, SnapshotDiagnostic, Variable
from alignlab.diagnostics._gates import Gate, gate_of
from alignlab.diagnostics._together import fetched
from alignlab.kernels.gates import gate_energies, gate_participation, gate_size, open_share
from alignlab.snapshot import Snapshot

__all__ = ["Gates"]

RARELY = 0.05
"""Share of the samples below which a unit that is on counts as dead (DFA-Stall, repository)."""

_SOURCE = "DFA-Stall (repository)"


class Gates(SnapshotDiagnostic):
    r"""How many units of a layer let a signal pass to the weights, and how often.

    .. math:: p = \frac{(\sum_k u_k)^2}{n\sum_k u_k^2}, \qquad u_k = \overline{\varphi_k'^2}

    with :math:`\varphi_k'` the derivative of the activation of unit k (maps: of every position),
    averaged over the samples. ``gate_size`` is :math:`\sqrt{\bar u}`. A gate is open from .19 of
    the largest value on that the activation allows, ``gate_largest``; for tanh that is
    :math:`|h| \le .9`, for a ReLU above zero. ``gate_closed`` is the share of all gates that are
    not: of a bounded activation the saturated ones. ``units_dead`` is the share of units that are
    open on fewer than 5 % of the samples, ``units_always_on`` on more than 95 %.

    *Reading.* Signals that arrive at closed gates change no weight. A participation below .1 says
    that a few units do all the learning (our heuristic: collapse). Smaller weights or error,
    centred errors (``common-mode``), normalisation or another activation would open gates.

    *Expectation.* Units alike have p = 1; units that open at random on half of N samples have
    :math:`p \approx N/(N+1)`. A ReLU layer of a fresh network has about half of its gates closed.

    *Which gate.* Where every way from the layer to its entry passes exactly one activation, and
    else only normalisation, pooling, dropout, sums and reshaping, it is the derivative of that
    activation. Elsewhere it is what a unit takes of the one entry unit that it hands on to, with
    dropout and scales in it. The largest possible gate is then not known, and a unit is held
    against its own largest one in the batch, which shows units that are switched off but not
    saturation.

    *Undefined* for output layers; where a unit hands on to several (normalisation without an
    activation, attention, overlapping pools); and the participation where no unit passes
    anything.

    Source: Reddy, Safaai & Sabatini, DFA-Stall (repository), where saturation is a mean activation
    beyond .9 and dead units are those of a ReLU; the bound on the gate is our heuristic.

    Example:
        >>> import torch
        >>> from alignlab.probe import Probe
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3)
        ... )
        >>> _ = net[0].weight.data.mul_(1000.0)
        >>> x = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
        >>> with Probe(
        ...     net, torch.nn.functional.cross_entropy, diagnostics=["gates"], draws=32
        ... ) as probe:
        ...     ds = probe.measure(x, torch.arange(40) % 3)
        >>> bool(ds["gate_closed"].sel(layer="0").item() > 0.9)
        True
    """

    variables: ClassVar[tuple[Variable, ...]] = (
        Variable(
            "gate_participation",
            ("layer",),
            "Share of the units that pass signals, by their mean squared gates",
            source=_SOURCE,
            better="higher",
            valid=(0.0, 1.0),
        ),
        Variable(
            "gate_size",
            ("layer",),
            "Root mean square gate",
            source=_SOURCE,
            valid=(0.0, None),
        ),
        Variable(
            "gate_closed",
            ("layer",),
            "Share of the gates, over units and samples, that are closed",
            better="lower",
            valid=(0.0, 1.0),
        ),
        Variable(
            "units_dead",
            ("layer",),
            "Share of the units whose gate is open on fewer than 5 % of the samples",
            source=_SOURCE,
            better="lower",
            valid=(0.0, 1.0),
        ),
        Variable(
            "units_always_on",
            ("layer",),
            "Share of the units whose gate is open on more than 95 % of the samples",
            source=_SOURCE,
            valid=(0.0, 1.0),
        ),
        Variable(
            "gate_largest",
            ("layer",),
            "Largest gate that the activation allows, where it is known",
            valid=(0.0, None),
        ),
    )
    cost: ClassVar[float] = 0.5

    def measure(self, snapshot: Snapshot) -> Iterator[Reading | NotDefined]:
        """Yield the state of the gates of every hidden layer."""
        gates: dict[str, Gate] = {}
        for layer in snapshot.layers:
            if layer.is_output:
                yield NotDefined("no gate stands behind an output layer", layer=layer.name)
                continue
            gates[layer.name] = gate_of(snapshot.capture, layer)
        # One by one: a stack of whole maps costs more than it saves.
        energies = {name: gate_energies(gate.values) for name, gate in gates.items()}
        sizes = {name: gate_size(each) for name, each in energies.items()}
        mixing, silent = _refused(gates, sizes)
        for name in mixing:
            yield NotDefined("its local backward map is no gain per unit", layer=name)
            del gates[name]
        for name in silent:
            yield NotDefined("none of its units passes anything", layer=name)
        yield from _readings(gates, energies, sizes)


def _refused(gates: Mapping[str, Gate], sizes: Mapping[str, Tensor]) -> tuple[list[str], list[str]]:
    """Return the layers whose map is no gain per unit, and those that pass nothing."""
    held = {name: gate.mismatch for name, gate in gates.items() if gate.mismatch is not None}
    found = fetched([*held.values(), *sizes.values()])
    mixing = [
        name
        for name, value in zip(held, found, strict=False)
        if not gates[name].is_defined(float(value))
    ]
    passed = dict(zip(sizes, found[len(held) :], strict=True))
    return mixing, [name for name, size in passed.items() if name not in mixing and not size > 0]


def _readings(
    gates: Mapping[str, Gate], energies: Mapping[str, Tensor], sizes: Mapping[str, Tensor]
) -> Iterator[Reading]:
    for name, gate in gates.items():
        yield Reading("gate_participation", gate_participation(energies[name]), layer=name)
        yield Reading("gate_size", sizes[name], layer=name)
        share = open_share(gate.values, largest=gate.reference)
        yield Reading("gate_closed", 1.0 - share.mean(), layer=name)
        yield Reading("units_dead", (share < RARELY).double().mean(), layer=name)
        yield Reading("units_always_on", (share > 1.0 - RARELY).double().mean(), layer=name)
        if gate.largest is not None:
            yield Reading("gate_largest", gate.largest, layer=name)

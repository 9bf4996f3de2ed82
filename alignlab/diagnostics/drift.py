"""What moves the mean pre-activations of each layer in one step of a rule (G3)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from alignlab.diagnostics._base import NotDefined, Reading, SnapshotDiagnostic, Variable
from alignlab.diagnostics._budget import budget
from alignlab.diagnostics._means import input_changes, means, means_of, same_layers, spreads_of
from alignlab.diagnostics._together import fetched
from alignlab.kernels.drift import inherited_drift, term_shares
from alignlab.snapshot import MeasuredRule, Snapshot

__all__ = ["Drift"]

_SAME = 1e-3
_CONSTANT = "its pre-activations are the same for all samples"
_TERMS = {
    "leading": "the mean gate times the mean entry signal",
    "residual": "gates that vary with the entry signal",
    "common": "the mean signal along the mean input (leading and residual)",
    "covariance": "signals that vary with the input",
    "other": "what else moves the layer's weight",
    "upstream": "changes of the mean input",
    "cross": "changes of weight and mean input together",
}
_SIZE = "Change of the layer's mean pre-activations in a step, in their standard deviations"


class Drift(SnapshotDiagnostic):
    r"""Why the mean pre-activations of a layer move in one step of a rule, term by term.

    With :math:`\delta` the rule's signal at the pre-activation, s that at the entry,
    :math:`\gamma` the gate between them and h the layer's input, bars the means over samples (and
    positions, R rows in all), a step :math:`\eta` along the rule's updates changes the means by

    .. math:: \Delta\bar a = -\eta\,(\|\bar h\|^2 + 1)\,[\underbrace{R\,\bar\gamma\odot\bar s
        }_{\text{leading}} + \underbrace{\textstyle\sum(\gamma-\bar\gamma)\odot(s-\bar s)
        }_{\text{residual}}] \underbrace{-\,\eta\textstyle\sum(\delta-\bar\delta)\,
        (h-\bar h)\cdot\bar h}_{\text{covariance}} + \underbrace{W\Delta\bar h}_{\text{upstream}}
        + \underbrace{\Delta W\Delta\bar h}_{\text{cross}},

    for DFA :math:`\bar s = B\bar e`. The 1 is the bias. ``common`` is leading and residual
    together; ``other`` is what moves the weight besides: further calls, another layer with the
    same weight, a parametrisation. Each is given as its share in the change,
    :math:`\langle t, \Delta\bar a\rangle/\|\Delta\bar a\|^2`; common, covariance, other,
    upstream and cross add up to 1 exactly, and single ones lie outside of [0, 1] where they
    cancel. ``mean_drift`` is the size of the change over the standard deviation of the
    pre-activations, per length of the step over the norm of all parameters; the step taken is
    one per mille of that norm. ``_true`` is the same of backpropagation.

    ``mean_drift_since`` is how far the means have moved from a state of earlier, in present
    standard deviations, with the shares of the layer's own weights and of its inputs.

    *Reading.* A leading term far above the others says that the common mode of the error moves
    the units, and drives them into saturation if it lasts: centre the error (``common-mode``).
    A high upstream share: the layer is carried along by those below.

    *Expectation.* None by chance; the terms are an exact identity.

    *Undefined* for rules without error signals, or whose updates are no products of signals and
    inputs; for feedback that was drawn for this measurement; for frozen weights; where the step
    moves the means by no more than rounding; leading and residual where the local backward map
    is no gain per unit; where pre-activations are the same for all samples, as behind a dead
    layer; ``_since`` without states of earlier.

    Source: DFA-Stall (repository), for DFA of multilayer perceptrons without normalisation; for
    other rules, convolutions and shared weights our derivation.

    Example:
        >>> import torch
        >>> from alignlab.probe import Probe
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)
        ... )
        >>> with Probe(
        ...     net, torch.nn.functional.cross_entropy, diagnostics=["drift"], draws=32
        ... ) as probe:
        ...     ds = probe.measure(torch.randn(40, 6), torch.arange(40) % 3)
        >>> names = [f"mean_drift_{term}_true" for term in ("common", "covariance", "other")]
        >>> names += ["mean_drift_upstream_true", "mean_drift_cross_true"]
        >>> sum(ds[name] for name in names).values.round(6).tolist()
        [[1.0, 1.0]]
    """

    variables: ClassVar[tuple[Variable, ...]] = (
        Variable(
            *("mean_drift", ("rule", "layer"), _SIZE), source="our derivation", valid=(0.0, None)
        ),
        Variable("mean_drift_true", ("layer",), f"{_SIZE} of backpropagation", valid=(0.0, None)),
        *(
            Variable(
                f"mean_drift_{term}",
                ("rule", "layer"),
                f"Share in that change of {phrase}",
                source="after DFA-Stall (repository)",
            )
            for term, phrase in _TERMS.items()
        ),
        *(
            Variable(
                f"mean_drift_{term}_true",
                ("layer",),
                f"Share in that change of backpropagation of {phrase}",
                source="after DFA-Stall (repository)",
            )
            for term, phrase in _TERMS.items()
        ),
        Variable(
            "mean_drift_since",
            ("layer", "earlier"),
            "Distance of the mean pre-activations from those of earlier, in standard deviations",
            valid=(0.0, None),
        ),
        Variable(
            "mean_drift_since_own",
            ("layer", "earlier"),
            "Share of the layer's own weights in that distance",
        ),
        Variable(
            "mean_drift_since_upstream",
            ("layer", "earlier"),
            "Share of changes of the mean input in that distance",
        ),
    )
    cost: ClassVar[float] = 4.4

    def measure(self, snapshot: Snapshot) -> Iterator[Reading | NotDefined]:
        """Yield the budget of backpropagation and of every rule, and the way since earlier."""
        passes = {"": snapshot.true}
        for measured in snapshot.rules:
            because = _refused(snapshot, measured)
            if because:
                yield NotDefined(because, rule=measured.label)
            else:
                passes[measured.label] = snapshot.passes[measured.label]
        rows: dict[tuple[str, str], Tensor] = {}
        for label, updates in passes.items():
            found = budget(snapshot, updates)
            if isinstance(found, str):
                yield NotDefined(found, rule=label)
                continue
            for layer in snapshot.layers:
                if layer.name in found:
                    rows[label, layer.name] = found[layer.name]
                elif not label:
                    yield NotDefined("its weight is frozen", layer=layer.name)
        if rows:
            (values,) = fetched([torch.stack(list(rows.values()))])
            for (label, name), row in zip(rows, values, strict=True):
                yield from _shown(label, name, row)
        yield from _since(snapshot)


def _refused(snapshot: Snapshot, measured: MeasuredRule) -> str:
    """Return why there is no budget of a rule; empty where there is."""
    if measured.is_drawn:
        return "its feedback was drawn for this measurement, so that nothing was observed"
    if not measured.rule.has_signals:
        return "the rule yields updates of parameters and no error signals"
    return "" if snapshot.is_local(measured) else "its updates are no products with the inputs"


def _shown(label: str, name: str, row: np.ndarray) -> Iterator[Reading | NotDefined]:
    """Yield what the budget says of one layer."""
    suffix = "" if label else "_true"
    size, is_rounding, mismatch, *shares = row.tolist()
    because = _CONSTANT if not np.isfinite(size) else ""
    if because or is_rounding:
        because = because or "the step moves its means by no more than rounding"
        yield NotDefined(because, rule=label, layer=name)
        return
    yield Reading(f"mean_drift{suffix}", size, label, name)
    has_gates = mismatch <= _SAME
    if not has_gates:
        because = "its local backward map is no gain per unit (leading, residual)"
        yield NotDefined(because, rule=label, layer=name)
    for term, share in zip(_TERMS, shares, strict=True):
        if has_gates or term not in {"leading", "residual"}:
            yield Reading(f"mean_drift_{term}{suffix}", share, label, name)


def _since(snapshot: Snapshot) -> Iterator[Reading | NotDefined]:
    """Yield how far the means have moved from the states of earlier, and why."""
    now, spreads = snapshot.shared(means_of), snapshot.shared(spreads_of)
    found: dict[str, list[Tensor]] = {layer.name: [] for layer in snapshot.layers}
    for label in snapshot.earlier:
        with snapshot.at(label) as capture:
            if not same_layers(capture, snapshot.capture):
                yield NotDefined(f"the {label} network calls other layers on the batch")
                return
            inputs = {n: -each for n, each in input_changes(snapshot.capture, capture).items()}
            then = means(capture)
        for name, mean in then.items():
            step = now[name].weight - mean.weight
            own = (step * mean.input).sum(1) + now[name].bias - mean.bias
            upstream, cross = inherited_drift(mean.weight, step, inputs[name])
            total = own + upstream + cross
            shares = term_shares(torch.stack([own, upstream]), total)
            found[name].append(torch.cat([(total.norm() / spreads[name])[None], shares]))
    numbers = fetched([torch.stack(rows, 1) for rows in found.values() if rows])
    for name, (size, own, upstream) in zip(found, numbers, strict=False):
        yield Reading("mean_drift_since", size, layer=name)
        yield Reading("mean_drift_since_own", own, layer=name)
        yield Reading("mean_drift_since_upstream", upstream, layer=name)
        if np.isnan(size).any():
            yield NotDefined(f"{_CONSTANT} (mean_drift_since)", layer=name)
        elif np.isnan(own).any():
            because = "its means have not moved (mean_drift_since_own, _upstream)"
            yield NotDefined(because, layer=name)
    if not snapshot.earlier:
        yield NotDefined("no state of earlier in the training is known (mean_drift_since)")

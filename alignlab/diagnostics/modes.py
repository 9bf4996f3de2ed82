"""How far each mode of the input-output correlation is learned, and how fast (G9)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import torch
from torch import Tensor

from alignlab.diagnostics._base import NotDefined, Reading, SnapshotDiagnostic, Variable
from alignlab.diagnostics._curvature import error_at_output
from alignlab.diagnostics._draws import parameters_by_layer
from alignlab.diagnostics._kernel_numbers import targets_of
from alignlab.diagnostics._together import fetched
from alignlab.engine.pushed import gradients_from_output
from alignlab.errors import MeasurementError
from alignlab.kernels.cosines import wide
from alignlab.kernels.modes import coefficients, correlation_modes, cotangents
from alignlab.snapshot import Snapshot

__all__ = ["Modes"]

COUNT = 8
"""Most modes that are followed."""

LARGEST = 2**26
"""Entries of the correlation up to which it is formed."""

_SAME = 1e-4
_SOURCE = "Saxe et al. 2014, arXiv 1312.6120 (white inputs); for others our derivation"


class Modes(SnapshotDiagnostic):
    r"""Which modes of the task a network has learned, and which its rule is learning now.

    :math:`\Sigma_{yx} = \frac1N \sum_i y_i x_i^\top = \sum_k s_k u_k v_k^\top` is the correlation
    of targets with inputs on this batch. What the network f has of its mode k is

    .. math:: a_k = u_k^\top \Sigma_{fx} v_k,\qquad \Sigma_{fx} = \frac1N \sum_i f(x_i) x_i^\top .

    For a linear network of product W and white inputs that is :math:`u_k^\top W v_k`; any other
    network is read through the linear map closest to it on these samples. Least squares have
    :math:`a_k = s_k`, so that :math:`a_k / s_k` is how far the mode is learned. Its rate under a
    rule is the derivative along the flow of all parameters,
    :math:`\dot a_k = -\langle\nabla a_k, \hat g\rangle`, split over layers.

    **How to read it.** Recorded along steps these are the trajectories of linear theory: under
    backpropagation strong modes are learned first, each along a sigmoid. A mode with a high
    strength, little learned and a rate far below that of backpropagation is one that the rule
    learns late or never; a negative rate unlearns it. ``mode_rate_part`` says which layers move
    it. Values above 1 are overshoot, also from one mode into another while they are not aligned.

    **Expectation.** No alignment: at initialisation a_k is random and small. Of feedback that knows
    nothing of the weights the hidden layers' parts of a rate are 0 on average.

    **Not defined** for inputs that are no numbers, targets that are neither labels nor values in
    the outputs' shape, outputs with positions or after a last nonlinearity, and correlations above
    67 million entries. How far a mode is learned is known for squared error alone: other losses
    have their optimum elsewhere. Rates are not given for feedback drawn for this analysis. Means
    of inputs and targets stay in: where they are large the first mode is the mean.

    Source: Saxe, McClelland & Ganguli 2014, arXiv 1312.6120; for inputs that are not white, for
    nonlinear networks and for other rules our derivation.

    Example:
        >>> from alignlab.probe import Probe
        >>> from alignlab.rules import BP
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
        >>> loss, x = torch.nn.functional.mse_loss, torch.randn(30, 4)
        >>> with Probe(net, loss, rules=[BP()], diagnostics=["modes"], draws=32) as probe:
        ...     recording = probe.measure(x, x[:, :2])
        >>> recording["mode_learned"].shape
        (1, 2)
    """

    variables: ClassVar[tuple[Variable, ...]] = (
        Variable(
            "mode_strength",
            ("component",),
            "Singular value of the correlation of targets with inputs",
            "target x input",
            source=_SOURCE,
            valid=(0.0, None),
        ),
        Variable(
            "mode_coefficient",
            ("component",),
            "What the network has of that mode",
            "output x input",
            source=_SOURCE,
        ),
        Variable(
            "mode_learned",
            ("component",),
            "That over what least squares have of it",
            source=_SOURCE,
        ),
        Variable(
            "mode_rate",
            ("rule", "component"),
            "Rate of that coefficient under the flow of the rule",
            "output x input per unit of step size",
        ),
        Variable(
            "mode_rate_true",
            ("component",),
            "Rate of that coefficient under the flow of backpropagation",
            "output x input per unit of step size",
        ),
        Variable(
            "mode_rate_part",
            ("rule", "layer", "component"),
            "What the parameters of the layer add to the rate",
            "output x input per unit of step size",
        ),
    )
    cost: ClassVar[float] = 5.0

    def measure(self, snapshot: Snapshot) -> Iterator[Reading | NotDefined]:
        """Yield modes, what is learned of them, and the rates of every rule."""
        x, y = _inputs(snapshot), targets_of(snapshot)
        because = "" if x is not None else "the inputs are no numbers"
        if not because and y is None:
            because = "targets are neither labels nor values in the shape of the outputs"
        if not because and snapshot.task.error.dim() != 2:
            because = "outputs have positions"
        if because or x is None or y is None:
            yield NotDefined(because)
            return
        try:
            z, error = error_at_output(snapshot)
        except MeasurementError as failed:
            yield NotDefined(str(failed))
            return
        yield from _of_batch(snapshot, x, y.to(z), z.detach(), error.detach())


def _inputs(snapshot: Snapshot) -> Tensor | None:
    x = snapshot.x
    is_number = isinstance(x, Tensor) and x.is_floating_point()
    return wide(x.flatten(1)) if is_number and x.dim() > 1 else None


def _of_batch(
    snapshot: Snapshot, x: Tensor, y: Tensor, z: Tensor, error: Tensor
) -> Iterator[Reading | NotDefined]:
    if x.shape[1] * y.shape[1] > LARGEST:
        yield NotDefined("the correlation of targets with inputs has too many entries")
        return
    modes = correlation_modes(x, y, count=COUNT)
    if not len(modes.strengths):
        yield NotDefined("targets and inputs are not correlated")
        return
    found = coefficients(modes, x, z)
    yield Reading("mode_strength", modes.strengths)
    yield Reading("mode_coefficient", found)
    if _is_squared(z, y, error):
        yield Reading("mode_learned", found / modes.strengths)
    else:
        yield NotDefined("how far a mode is learned is known for squared error alone")
    yield from _rates(snapshot, cotangents(modes, x))


def _is_squared(z: Tensor, y: Tensor, error: Tensor) -> bool:
    """Return whether the error is a positive multiple of output minus target.

    Where outputs are the targets and there is no error, these are the optimum of any such loss.
    """
    away = z - y
    scale = (error * away).sum() / away.square().sum()
    numbers = [(error - scale * away).norm(), error.norm(), scale, away.norm()]
    gap, size, factor, distance = fetched(numbers)
    if not distance > 0.0:
        return bool(size == 0.0)
    return bool(factor > 0.0 and gap <= _SAME * size)


def _rates(snapshot: Snapshot, directions: Tensor) -> Iterator[Reading | NotDefined]:
    """Yield how the flows of all rules move what the directions in output space read."""
    learned = parameters_by_layer(snapshot)
    for layer, names in learned.items():
        if not names:
            yield NotDefined("no parameter of it learns", layer=layer)
    updates = {"": snapshot.true.parameters}
    for measured in snapshot.rules:
        if measured.is_drawn:
            yield NotDefined("its feedback was drawn for this analysis", measured.label)
        else:
            updates[measured.label] = snapshot.passes[measured.label].parameters
    for label, rates in _moved(snapshot, directions, updates).items():
        total = torch.stack(list(rates.values())).sum(0)
        yield Reading("mode_rate" if label else "mode_rate_true", total, label)
        for layer, names in learned.items() if label else ():
            if names:
                part = torch.stack([rates[name] for name in names]).sum(0)
                yield Reading("mode_rate_part", part, label, layer)


def _moved(
    snapshot: Snapshot, directions: Tensor, updates: Mapping[str, Mapping[str, Tensor]]
) -> dict[str, dict[str, Tensor]]:
    """Return rates by rule and parameter, one entry a direction."""
    names = list(snapshot.true.parameters)
    found: dict[str, list[Tensor]] = {label: [] for label in updates}
    for direction in directions:
        gradients = gradients_from_output(snapshot.capture, direction)
        for label, update in updates.items():
            products = [-(wide(gradients[n]) * wide(update[n])).sum() for n in names]
            found[label].append(torch.stack(products))
    return {
        label: dict(zip(names, torch.stack(rows, 1), strict=True)) for label, rows in found.items()
    }

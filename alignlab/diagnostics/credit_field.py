"""How large a part of a map the credit of one output reaches (F7)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from alignlab.diagnostics._base import NotDefined, Reading, SnapshotDiagnostic, Variable
from alignlab.engine.capture import Capture
from alignlab.errors import MeasurementError
from alignlab.kernels.receptive_field import effective_positions, relative_radius
from alignlab.rules._task import Task
from alignlab.snapshot import Snapshot

if TYPE_CHECKING:
    from alignlab.sites import Layer

__all__ = ["CreditField"]

_TRUE = ""


class CreditField(SnapshotDiagnostic):
    r"""Part of a map that the credit of one output position reaches, and that a unit sees.

    The error of one output position (of the middle one where the output has positions, the whole
    error of a sample where it has none) is carried back by backpropagation and by the rule. With
    :math:`s_p = \sum_k \delta_{kp}^2` the energy of a sample's pre-activation signal at position
    p, the credit field is

    .. math:: \Big(\sum_p s_p\Big)^2\Big/\sum_p s_p^2

    positions, the mean over samples, and ``credit_radius`` the radius of gyration of s over that
    of a uniform map (1: as wide as the map). Under backpropagation it is the effective receptive
    field of the output in this layer. ``receptive_field`` is the same number for what the
    layer's own middle position sees: the energy over the positions of the *input* of the
    gradient of its channels, with random signs.

    How to read it: where the output has positions, the true field is local and grows from layer
    to layer downwards; dense feedback has a global one at every layer and so credits positions
    that had no part in the error, feedback that acts position by position (``structure=position``)
    a single one. Where the output has none, both are global; the true one is smaller where few
    positions decide (pooled maxima, gates).

    Expectation: dense normal feedback reaches P K/(K+2) positions at the entry of a layer of P
    positions and K channels, gates leave somewhat fewer; radius 1.

    Undefined for layers without positions, for rules without error signals, where an output with
    positions is not what the model returns, and for zero signals; the receptive field also for
    batches that are not one tensor of real maps. No trained feedback is needed: of drawn feedback
    the numbers are those of this draw.

    Source: effective receptive field after Luo et al. 2016 (there by the standard deviation);
    credit fields: our derivation.

    Example:
        >>> from torch.nn import Conv1d, Sequential
        >>> from torch.nn.functional import mse_loss
        >>> from alignlab import Probe
        >>> _ = torch.manual_seed(0)
        >>> net = Sequential(Conv1d(2, 4, 1), Conv1d(4, 4, 1), Conv1d(4, 2, 1))
        >>> with Probe(net, mse_loss, draws=32, diagnostics=["credit-field"]) as probe:
        ...     found = probe.measure(torch.randn(9, 2, 8), torch.randn(9, 2, 8))
        >>> round(found["credit_field_true"].sel(layer="0").item(), 6)
        1.0
    """

    variables: ClassVar[tuple[Variable, ...]] = (
        Variable(
            "credit_field_true",
            ("layer",),
            "Positions that the true credit of one output position reaches",
            units="position",
            valid=(1.0, None),
        ),
        Variable(
            "credit_field",
            ("rule", "layer"),
            "Positions that the rule's credit of one output position reaches",
            units="position",
            valid=(1.0, None),
        ),
        Variable(
            "credit_radius_true",
            ("layer",),
            "Radius of gyration of the true credit of one output position, over a uniform map's",
            valid=(0.0, None),
        ),
        Variable(
            "credit_radius",
            ("rule", "layer"),
            "Radius of gyration of the rule's credit of one output position, over a uniform map's",
            valid=(0.0, None),
        ),
        Variable(
            "receptive_field",
            ("layer",),
            "Input positions that the layer's middle position sees",
            units="position",
            source="effective receptive field after Luo et al. 2016; as a participation ratio ours",
            valid=(1.0, None),
        ),
        Variable(
            "receptive_radius",
            ("layer",),
            "Radius of gyration of what the layer's middle position sees, over a uniform map's",
            source="effective receptive field after Luo et al. 2016; relative radius ours",
            valid=(0.0, None),
        ),
    )
    cost: ClassVar[float] = 5.5

    def measure(self, snapshot: Snapshot) -> Iterator[Reading | NotDefined]:
        """Yield credit and receptive fields of every layer on positions."""
        layers = []
        for layer in snapshot.layers:
            if len(_grid(layer)) and layer.positions > 1 and not layer.is_output:
                layers.append(layer)
            elif layer.is_output:
                yield NotDefined("it is the output layer, whose error is exact", layer=layer.name)
            else:
                yield NotDefined("it has one position", layer=layer.name)
        if not layers:
            return
        signals, because = _credits(snapshot)
        for label, reason in because.items():
            yield NotDefined(reason, rule=label)
        for label, by_layer in signals.items():
            suffix = "" if label else "_true"
            for layer in layers:
                if layer.name not in by_layer:
                    yield NotDefined("no signal reaches it", label, layer.name)
                    continue
                energy = _energy(by_layer[layer.name], layer)
                field = effective_positions(energy).nanmean()
                yield Reading(f"credit_field{suffix}", field, label, layer.name)
                radius = relative_radius(energy, _grid(layer)).nanmean()
                yield Reading(f"credit_radius{suffix}", radius, label, layer.name)
        yield from _receptive(snapshot, layers)


def _grid(layer: Layer) -> tuple[int, ...]:
    """Return the positions of a layer along each axis."""
    return layer.shape[1:] if layer.channel_axis == 0 else layer.shape[:-1]


def _energy(signal: Tensor, layer: Layer) -> Tensor:
    """Return a signal's energy at every position, ``(n_samples, n_positions)``."""
    shaped = signal.reshape(-1, *layer.shape)
    # What is tiny in float32 must not vanish when it is squared.
    scale = shaped.abs().amax().clamp_min(torch.finfo(shaped.dtype).tiny)
    energy = (shaped / scale).square().sum(1 if layer.channel_axis == 0 else -1)
    flat: Tensor = energy.flatten(1)
    return flat


def _credits(snapshot: Snapshot) -> tuple[dict[str, Mapping[str, Tensor]], dict[str, str]]:
    """Return the signals of the error of one output position by rule, "" for the true ones."""
    because = {
        m.label: "the rule has no error signals" for m in snapshot.rules if not m.rule.has_signals
    }
    output = snapshot.capture.layout.only_output
    if output is None or output.positions == 1:
        found = {_TRUE: snapshot.true.preactivation}
        found |= {
            m.label: snapshot.passes[m.label].preactivation
            for m in snapshot.rules
            if m.label not in because
        }
        return found, because
    returned = snapshot.capture.output
    if not isinstance(returned, Tensor) or returned.shape[1:] != output.shape:
        return {}, {"": "the output has positions and is not what the model returns"}
    found = {}
    with _one_position(snapshot, output) as capture:
        task = Task(capture, capture.reference())
        found[_TRUE] = task.true.preactivation
        for measured in snapshot.rules:
            if measured.label in because:
                continue
            try:
                found[measured.label] = measured.updates(task, parameters=False).preactivation
            except MeasurementError as error:
                because[measured.label] = f"with the error of one output position {error}"
    return found, because


@contextmanager
def _one_position(snapshot: Snapshot, output: Layer) -> Iterator[Capture]:
    """Run the forward pass with a loss whose error is that of the middle output position."""
    error = snapshot.true.preactivation[output.name].reshape(-1, *output.shape)
    kept = torch.zeros_like(error)
    kept[_at_middle(output)] = error[_at_middle(output)]

    def loss(returned: Any, _: Any) -> Tensor:
        product: Tensor = (returned * kept).sum()
        return product

    given = snapshot.capture
    with given.state.again(given.model):
        capture = Capture(given.model, loss, snapshot.x, snapshot.y, layers=given.chosen)
        try:
            yield capture
        finally:
            capture.close()


def _receptive(snapshot: Snapshot, layers: list[Layer]) -> Iterator[Reading | NotDefined]:
    """Yield what the middle position of every layer sees of the input."""
    x = snapshot.x
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.dim() < 3:
        because = "for the receptive field the batch is not one tensor of real maps"
        yield from (NotDefined(because, layer=layer.name) for layer in layers)
        return
    leaf = x.detach().clone().requires_grad_()
    with torch.enable_grad():
        # Not the leaf itself, which a model may not change in place.
        seen = leaf.clone()
    with snapshot.task.again(x=seen) as capture:
        for number, layer in enumerate(layers):
            snapshot.progress("receptive fields", number + 1, len(layers))
            found: tuple[Tensor | None, ...] = torch.autograd.grad(
                [capture.layout.call(layer).output_edge],
                [leaf],
                grad_outputs=[_middle(layer, snapshot.true.preactivation[layer.name])],
                retain_graph=True,
                allow_unused=True,
            )
            (gradient,) = found
            if gradient is None:
                yield NotDefined("no gradient leads from it to the batch", layer=layer.name)
                continue
            scale = gradient.abs().amax().clamp_min(torch.finfo(gradient.dtype).tiny)
            energy = (gradient / scale).square().sum(1).flatten(1)
            field = effective_positions(energy).nanmean()
            yield Reading("receptive_field", field, layer=layer.name)
            radius = relative_radius(energy, tuple(x.shape[2:])).nanmean()
            yield Reading("receptive_radius", radius, layer=layer.name)


def _middle(layer: Layer, like: Tensor) -> Tensor:
    """Return random signs for the channels of the middle position, zero elsewhere."""
    stream = torch.Generator().manual_seed(0)
    signs = 2.0 * torch.randint(0, 2, (layer.channels,), generator=stream) - 1.0
    tangent = torch.zeros(len(like), *layer.shape)
    tangent[_at_middle(layer)] = signs
    return tangent.to(like).reshape(like.shape)


def _at_middle(layer: Layer) -> tuple[slice | int, ...]:
    """Return the index of all channels of the middle position of every sample."""
    middle = tuple(n // 2 for n in _grid(layer))
    every = slice(None)
    return (every, every, *middle) if layer.channel_axis == 0 else (every, *middle)

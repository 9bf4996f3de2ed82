"""Which calls are layers, where their entries are, and how they hang together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, final

import torch
from torch import Tensor, nn

from alignlab.engine.attach import Call
from alignlab.engine.graph import Segment, reachable_calls, reaches, segments
from alignlab.engine.own_map import MEASURED
from alignlab.engine.structure import Structure
from alignlab.errors import MeasurementError
from alignlab.sites import Layer

__all__ = ["Layout"]


@final
class Layout:
    """The measured calls of one forward pass as layers, with their entries.

    Attributes:
        calls: Calls on which the loss depends, in order.
        segments: Pairs of entry and layers.
        layers: The calls as layers, in the same order.
        structure: What is known of graphs like this one.
    """

    def __init__(
        self, calls: Sequence[Call], start: Any, structure: Structure | None = None
    ) -> None:
        """Keep the calls on which the loss depends.

        Args:
            calls: All calls of a forward pass, in order.
            start: Autograd node of the loss, or of the output layer's pre-activation.
            structure: What is known of the graph; None for nothing.
        """
        self._start: Final = start
        self.structure: Final = Structure() if structure is None else structure
        once = self.structure.once
        inside = once("inside", lambda: _in_the_graph(calls, start))
        self.calls: Final = [calls[k] for k in inside]
        once("samples", lambda: _require_samples(self.calls))
        self.segments: Final = once("segments", lambda: segments(self.calls))
        self.layers: Final = once("layers", lambda: _described(self.calls, self.segments))
        self._index: Final = {layer.name: k for k, layer in enumerate(self.layers)}

    @property
    def outputs(self) -> tuple[Layer, ...]:
        """The layers that no measured layer reads, in call order; the error is theirs."""
        return tuple(layer for layer in self.layers if layer.is_output)

    @property
    def only_output(self) -> Layer | None:
        """The output layer; None where there are several."""
        return self.outputs[0] if len(self.outputs) == 1 else None

    def errors_of(self, layer: Layer) -> slice:
        """Return which entries of a sample's error are those of an output layer."""
        before = [each for each in self.outputs if each.depth < layer.depth]
        start = sum(each.width for each in before)
        return slice(start, start + layer.width)

    def joined(self, signals: Mapping[str, Tensor]) -> Tensor:
        """Return the error: the signals at the pre-activations of all output layers.

        Args:
            signals: By layer name, shape ``(n_samples, *shape)``.

        Returns:
            That of the only output layer as it is; of several, one row per sample, their
            entries one after the other in call order.
        """
        parts = [signals[layer.name] for layer in self.outputs]
        return parts[0] if len(parts) == 1 else torch.cat([p.flatten(1) for p in parts], 1)

    def parted(self, error: Tensor) -> dict[str, Tensor]:
        """Return the error of every output layer from that of all, the inverse of ``joined``."""
        if len(self.outputs) == 1:
            return {self.outputs[0].name: error}
        rows = error.flatten(1)
        return {
            layer.name: rows[:, self.errors_of(layer)]
            .unflatten(1, layer.shape)
            .to(self.call(layer).output_type)
            for layer in self.outputs
        }

    def call(self, layer: Layer) -> Call:
        """Return the call behind a layer."""
        return self.calls[self._index[layer.name]]

    def entry_edge(self, segment: Segment) -> Any:
        """Return the gradient edge of a segment's entry."""
        return self.calls[segment.consumer].input_edge

    def entry_shape(self, segment: Segment) -> tuple[int, ...]:
        """Return the shape of a segment's entry with its samples."""
        return self.calls[segment.consumer].input_shape

    def entry_type(self, segment: Segment) -> torch.dtype:
        """Return the floating type of a segment's entry."""
        return self.calls[segment.consumer].input_dtype

    def at_entry(self, segment: Segment, signal: Tensor) -> Tensor:
        """Return a signal in the shape and floating type of a segment's entry."""
        return signal.reshape(self.entry_shape(segment)).to(self.entry_type(segment))

    def segment_of(self, layer: Layer) -> Segment:
        """Return the segment in which a hidden layer lies."""
        index = self._index[layer.name]
        return next(s for s in self.segments if index in s.members)

    def consumers_of(self, layer: Layer) -> list[Layer]:
        """Return the layers that read a layer's entry."""
        edge = self.entry_edge(self.segment_of(layer))
        return [
            self.layers[k]
            for k, call in enumerate(self.calls)
            if call.input_edge is not None
            and call.input_edge.node is edge.node
            and call.input_edge.output_nr == edge.output_nr
        ]

    def passes_signal_on(self, layer: Layer) -> bool:
        """Return whether a layer's weight carries a signal to a layer below; once a module."""
        edge = self.call(layer).input_edge
        return (
            layer.name == layer.module
            and edge is not None
            and bool(reachable_calls(edge.node, self.calls))
        )

    def is_trunk(self, layer: Layer) -> bool:
        """Return whether every path from the first layer to the loss passes a layer's entry."""
        entry = self.entry_edge(self.segment_of(layer)).node
        first = self.calls[0].output_edge.node
        return entry is first or not reaches(self._start, first, {entry})

    def is_bypassed(self, layer: Layer) -> bool:
        """Return whether the error also reaches a layer on a path around its entry."""
        call = self.call(layer)
        entry = self.entry_edge(self.segment_of(layer)).node
        if entry is call.output_edge.node:
            return False
        return reaches(self._start, call.output_edge.node, {entry})

    def has_one_reader(self, layer: Layer) -> bool:
        """Return whether the error reaches a layer's entry through its consumer alone."""
        segment = self.segment_of(layer)
        reader = self.calls[segment.consumer].output_edge.node
        return not reaches(self._start, self.entry_edge(segment).node, {reader})

    def groups(self, granularity: str) -> list[Segment]:
        """Return the stretches below which direct feedback is injected.

        Args:
            granularity: ``micro``, every segment by itself; ``macro``, the segments of one
                parent module together.

        Raises:
            MeasurementError: There is only one block.
        """
        if granularity == "micro":
            return self.segments
        blocks: dict[str, list[Segment]] = {}
        for segment in self.segments:
            last = self.calls[segment.members[-1]].module_name
            blocks.setdefault(last.rpartition(".")[0], []).append(segment)
        if len(blocks) < 2:
            msg = (
                "All layers have one parent module, so macro feedback would be backpropagation; "
                "group the layers of each block in a module, or use granularity=micro."
            )
            raise MeasurementError(msg)
        return [
            Segment(group[-1].consumer, tuple(sorted(k for s in group for k in s.members)))
            for group in blocks.values()
        ]

    def ends_below(self, segment: Segment) -> set[Any]:
        """Return the nodes at which the stretch below an entry ends.

        They are all pre-activations, and all other entries: a shortcut that leads past the
        layers of a block must not lead into the block below.
        """
        own = self.entry_edge(segment).node
        nodes = {call.output_edge.node for call in self.calls}
        nodes |= {call.input_edge.node for call in self.calls if call.input_edge is not None}
        pre = {self.calls[k].output_edge.node for k in segment.members}
        return (nodes - {own}) | pre

    def around(self, group: Segment, inner: Sequence[Segment]) -> set[Any]:
        """Return the nodes that no signal injected at a group's entry may pass.

        Args:
            group: Layers with one injection.
            inner: Segments inside the group, which backpropagation crosses.
        """
        own = {self.entry_edge(segment).node for segment in (group, *inner)}
        outside = [call for k, call in enumerate(self.calls) if k not in group.members]
        entries = {call.input_edge.node for call in self.calls if call.input_edge is not None}
        return (entries | {call.output_edge.node for call in outside}) - own

    def narrowest_above(self, layer: Layer) -> tuple[int, str] | None:
        """Return the narrowest place through which the error must pass to reach an entry.

        A place counts only where every path from the loss to the entry runs through it,
        so that a shortcut around a narrow layer lifts its limit.

        Args:
            layer: Any hidden layer.

        Returns:
            Units per sample and the name of the layer, or None where there is no such place.
        """
        target = self.entry_edge(self.segment_of(layer)).node
        found: list[tuple[int, str]] = []
        for k, other in enumerate(self.layers):
            if other.is_output or other.depth <= layer.depth:
                continue
            if not reaches(self._start, target, {self.calls[k].output_edge.node}):
                found.append((other.width, other.name))
            entry = self.entry_edge(self.segment_of(other)).node
            if entry is not target and not reaches(self._start, target, {entry}):
                found.append((other.entry_width, other.name))
        return min(found) if found else None


def _in_the_graph(calls: Sequence[Call], start: Any) -> list[int]:
    inside: set[int] = set()
    frontier = reachable_calls(start, calls)
    while frontier:
        inside.update(frontier)
        edges = [calls[k].input_edge for k in frontier]
        reached = {j for e in edges if e is not None for j in reachable_calls(e.node, calls)}
        frontier = sorted(reached - inside)
    if not inside:
        msg = "The loss does not depend on any measured layer."
        raise MeasurementError(msg)
    return sorted(inside)


def _require_samples(calls: Sequence[Call]) -> None:
    last = calls[-1]
    for call in calls:
        axes = 1 + len(getattr(call.module, "kernel_size", ()))
        if len(call.output_shape) <= axes:
            msg = f"The layer {call.name!r} runs on a single sample; give it an axis of samples."
            raise MeasurementError(msg)
        if call.output_shape[0] != last.output_shape[0]:
            msg = (
                f"The layer {call.name!r} runs on {call.output_shape[0]} rows, the last layer "
                f"{last.name!r} on {last.output_shape[0]}; keep the samples on the first axis of "
                "every layer (a Linear takes any number of axes after it)."
            )
            raise MeasurementError(msg)


def _described(calls: Sequence[Call], found: Sequence[Segment]) -> tuple[Layer, ...]:
    consumer = {m: s.consumer for s in found for m in s.members}
    return tuple(
        _layer(call, k + 1, calls[consumer[k]] if k in consumer else None)
        for k, call in enumerate(calls)
    )


def _layer(call: Call, depth: int, consumer: Call | None) -> Layer:
    bias = getattr(call.module, "bias", None)
    kind = next(c.__name__ for c in type(call.module).__mro__ if c in MEASURED)
    channel_axis = 1 if _is_convolution(call.module) else -1
    # Of a transposed convolution the first axis of the weight is that of the inputs.
    fan_in = call.weight[0].numel()
    if isinstance(call.module, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
        fan_in = call.weight[:, 0].numel() // call.module.groups
    return Layer(
        name=call.name,
        module=call.module_name,
        kind=kind,
        depth=depth,
        shape=tuple(call.output_shape[1:]),
        entry_shape=consumer.input_shape[1:] if consumer else (),
        consumer=consumer.name if consumer else "",
        fan_in=fan_in,
        n_parameters=call.weight.numel() + (bias.numel() if bias is not None else 0),
        channels=call.output_shape[channel_axis],
        entry_channel_axis=0 if consumer and _is_convolution(consumer.module) else -1,
    )


def _is_convolution(module: nn.Module) -> bool:
    return not isinstance(module, nn.Linear)

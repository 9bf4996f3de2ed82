"""One forward pass, and every backward pass that is asked of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

import torch
from torch import Tensor, nn

from alignlab.engine.attach import Attachment, Call, measured_modules
from alignlab.engine.graph import (
    Segment,
    leaves_between,
    reachable_calls,
    refuse_custom_backwards,
    segments,
)
from alignlab.engine.state import State
from alignlab.engine.swap import WeightSwap
from alignlab.errors import MeasurementError
from alignlab.sites import Layer

__all__ = ["BackwardPass", "Capture", "Loss"]

Loss = Callable[[Any, Any], Tensor]


@dataclass(frozen=True)
class BackwardPass:
    """The error signals of all layers under one rule.

    Attributes:
        entry: dL/dh by layer name, shape ``(n_samples, *entry_shape)``.
        preactivation: dL/da by layer name, shape ``(n_samples, *shape)``.
        parameters: Gradient by parameter name; empty where it was not asked for.
    """

    entry: Mapping[str, Tensor]
    preactivation: Mapping[str, Tensor]
    parameters: Mapping[str, Tensor]


@final
class Capture:
    """The graph of one forward pass, held open for backward passes of any rule.

    The model is left as it was found: hooks are gone, random states and buffers are put
    back, and no gradient is accumulated. ``close`` drops the graph.

    Attributes:
        layers: Measured layers in call order; the last one is the output layer.
        output: What the model returned.
        loss: The loss, a scalar on the graph.
        state: Random states and buffers before the forward pass.
        without_gradient: Modules that were called where no gradient flows.
    """

    def __init__(self, model: nn.Module, loss_function: Loss, x: Any, y: Any) -> None:
        """Run the forward pass in the model's present mode.

        Args:
            model: Any module whose weights are in Linear and convolution modules.
            loss_function: Takes the output and the targets, returns a scalar.
            x: Batch, first axis samples.
            y: Targets.

        Raises:
            MeasurementError: The model cannot be measured truthfully; says why.
        """
        self.model: Final = model
        self._modules = measured_modules(model)
        self._weights = {name: _parameter(m, "weight") for name, m in self._modules.items()}
        self._swap = WeightSwap(self._weights)
        self.state: Final = State.of(model)
        attachment = Attachment(model, self._swap)
        try:
            with _eager(model), torch.enable_grad(), attachment, self._swap.recording():
                self.output = model(x)
                self.loss = loss_function(self.output, y)
        finally:
            self.state.restore(model)
        self.without_gradient = tuple(attachment.without_gradient)
        self._check_loss()
        refuse_custom_backwards(self.loss.grad_fn)
        self._calls = self._in_the_graph(attachment.calls)
        self._segments = segments(self._calls)
        self.layers = self._describe()
        self._index = {layer.name: k for k, layer in enumerate(self.layers)}

    @property
    def n_samples(self) -> int:
        """Samples in the batch: the first axis of the output layer."""
        return self._calls[-1].output_shape[0]

    @property
    def output_layer(self) -> Layer:
        """The only layer that no measured layer reads.

        Raises:
            MeasurementError: There are several, so there is no single error.
        """
        outputs = [layer for layer in self.layers if layer.is_output]
        if len(outputs) != 1:
            names = ", ".join(layer.name for layer in outputs)
            msg = (
                f"The model ends in {len(outputs)} layers ({names}); direct rules need one "
                "output layer, whose gradient is the error."
            )
            raise MeasurementError(msg)
        return outputs[0]

    @property
    def n_errors(self) -> int:
        """Entries of the error of one sample: the units of the output layer."""
        return self.output_layer.width

    def close(self) -> None:
        """Drop the graph."""
        self._calls = []
        del self.loss, self.output

    def module_weights(self) -> dict[str, Tensor]:
        """Return the forward weights of the measured modules, detached, by module name."""
        return {name: weight.detach() for name, weight in self._weights.items()}

    def input_of(self, layer: Layer) -> Tensor:
        """Return the layer's input, detached, shape ``(n_samples, ...)``."""
        return self._call(layer).input

    def module_of(self, layer: Layer) -> nn.Module:
        """Return the module that the layer calls."""
        return self._call(layer).module

    def reference(self, *, parameters: bool = False) -> BackwardPass:
        """Run backpropagation: the true gradient at every site."""
        edges = [call.output_edge for call in self._calls]
        entries = {segment.consumer: self._entry_edge(segment) for segment in self._segments}
        named = dict(self.model.named_parameters()) if parameters else {}
        wanted = {name: p for name, p in named.items() if p.requires_grad}
        gradients = torch.autograd.grad(
            self.loss,
            [*edges, *entries.values(), *wanted.values()],
            retain_graph=True,
            allow_unused=True,
        )
        at_output = gradients[: len(edges)]
        at_entry = dict(zip(entries, gradients[len(edges) :], strict=False))
        of_parameters = gradients[len(edges) + len(entries) :]
        missing = [c.name for c, g in zip(self._calls, at_output, strict=True) if g is None]
        if missing:
            msg = f"No gradient reached {', '.join(missing)}; the loss does not depend on it."
            raise MeasurementError(msg)
        return BackwardPass(
            entry={
                self.layers[member].name: at_entry[segment.consumer]
                for segment in self._segments
                for member in segment.members
            },
            preactivation={
                layer.name: g for layer, g in zip(self.layers, at_output, strict=True)
            },
            parameters={
                name: torch.zeros_like(p) if g is None else g
                for (name, p), g in zip(wanted.items(), of_parameters, strict=True)
            },
        )

    def replaced(self, weights: Mapping[str, Tensor], *, parameters: bool = False) -> BackwardPass:
        """Run the backward pass with other weights in place of the forward ones.

        Args:
            weights: Backward weight of every measured module, shaped like the forward one.
            parameters: Whether the gradients of the parameters are wanted too.

        Raises:
            MeasurementError: A weight was not seen by the exchange.
        """
        unseen = [call.name for call in self._calls if not call.weight_seen]
        if unseen:
            msg = (
                f"The weight of {', '.join(unseen)} was not seen in the graph (mixed precision or "
                "activation checkpointing); probe in full precision without checkpointing."
            )
            raise MeasurementError(msg)
        with self._swap.replaced(weights):
            return self.reference(parameters=parameters)

    def injection_layers(self, granularity: str) -> list[Layer]:
        """Return the layers at whose entries direct feedback is injected.

        Args:
            granularity: ``micro``, every entry; ``macro``, the last of each block.
        """
        return [self.layers[group.members[-1]] for group in self._groups(granularity)]

    def direct(
        self,
        feedback: Mapping[str, Tensor],
        *,
        error: Tensor,
        granularity: str = "micro",
        parameters: bool = False,
    ) -> BackwardPass:
        """Inject the error at every entry and carry it to the pre-activations.

        Args:
            feedback: By injection layer, shape ``(n_errors, *entry_shape)``.
            error: dL/da at the output, shape ``(n_samples, ...)``.
            granularity: ``micro`` or ``macro``.
            parameters: Whether the gradients of the parameters are wanted too.
        """
        entry: dict[str, Tensor] = {}
        inside: dict[str, Tensor] = {self.output_layer.name: error}
        total: dict[int, Tensor] = {}
        for group in self._groups(granularity):
            edge = self._entry_edge(group)
            owner = self.layers[group.members[-1]]
            signal = project(error, feedback[owner.name], self._entry_shape(group))
            edges = [self._calls[k].output_edge for k in group.members]
            inner = [s for s in self._segments if s.consumer in group.members]
            inner = [s for s in inner if set(s.members) <= set(group.members)]
            stops = {e.node for e in edges} | self._below(group)
            leaves = leaves_between(edge.node, stops) if parameters else []
            leaves = [leaf for leaf in leaves if leaf.requires_grad]
            gradients = torch.autograd.grad(
                edge,  # type: ignore[arg-type]
                [*edges, *(self._entry_edge(s) for s in inner), *leaves],
                grad_outputs=(signal,),
                retain_graph=True,
                allow_unused=True,
            )
            for k, gradient in zip(group.members, gradients, strict=False):
                inside[self.layers[k].name] = gradient
                entry[self.layers[k].name] = signal
            for s, gradient in zip(inner, gradients[len(edges) :], strict=False):
                entry.update({self.layers[k].name: gradient for k in s.members})
            for leaf, gradient in zip(leaves, gradients[len(edges) + len(inner) :], strict=True):
                if gradient is not None:
                    total[id(leaf)] = total.get(id(leaf), 0) + gradient
        grads = self._parameter_gradients(inside, total) if parameters else {}
        return BackwardPass(entry, inside, grads)

    def to_preactivation(self, layer: Layer, signal: Tensor) -> Tensor:
        """Carry a signal from the layer's entry to its pre-activation (V, a local vjp).

        Args:
            layer: Any layer but the output.
            signal: Shape ``(n_samples, *entry_shape)``.
        """
        segment = self._segment_of(layer)
        (result,) = torch.autograd.grad(
            self._entry_edge(segment),  # type: ignore[arg-type]
            [self._call(layer).output_edge],
            grad_outputs=(signal.reshape(self._entry_shape(segment)),),
            retain_graph=True,
        )
        return result

    def to_entry(self, layer: Layer, tangent: Tensor) -> Tensor:
        """Carry a tangent from the pre-activation to the entry (the adjoint of V).

        It is the derivative of the local backward map in its argument, which is linear.

        Args:
            layer: Any layer but the output.
            tangent: Shape ``(n_samples, *shape)``.
        """
        segment = self._segment_of(layer)
        argument = torch.zeros(
            self._entry_shape(segment), dtype=tangent.dtype, device=tangent.device
        ).requires_grad_()
        (image,) = torch.autograd.grad(
            self._entry_edge(segment),  # type: ignore[arg-type]
            [self._call(layer).output_edge],
            grad_outputs=(argument,),
            retain_graph=True,
            create_graph=True,
        )
        if not image.requires_grad:
            return torch.zeros_like(argument.detach())
        (result,) = torch.autograd.grad(image, [argument], grad_outputs=(tangent,))
        return result

    def weight_gradient(self, layer: Layer, signal: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Return the gradients of weight and bias that a pre-activation signal causes.

        Args:
            layer: Any layer.
            signal: Shape ``(n_samples, *shape)``.

        Returns:
            Gradients shaped like weight and bias; None where there is no such parameter
            or it is frozen.
        """
        call = self._call(layer)
        wanted = [_parameter(call.module, "weight"), getattr(call.module, "bias", None)]
        active = [p for p in wanted if p is not None and p.requires_grad]
        found = iter(
            torch.autograd.grad(
                call.output_edge,  # type: ignore[arg-type]
                active,
                grad_outputs=(signal,),
                retain_graph=True,
            )
            if active
            else ()
        )
        pair = [next(found) if p is not None and p.requires_grad else None for p in wanted]
        return pair[0], pair[1]

    def _parameter_gradients(
        self, preactivation: Mapping[str, Tensor], leaves: Mapping[int, Tensor]
    ) -> dict[str, Tensor]:
        total = dict(leaves)
        for layer in self.layers:
            module = self.module_of(layer)
            found = self.weight_gradient(layer, preactivation[layer.name])
            for key, gradient in zip(("weight", "bias"), found, strict=True):
                if gradient is not None:
                    identity = id(getattr(module, key))
                    total[identity] = total.get(identity, 0) + gradient
        return {
            name: total[id(p)] if id(p) in total else torch.zeros_like(p)
            for name, p in self.model.named_parameters()
            if p.requires_grad
        }

    def _groups(self, granularity: str) -> list[Segment]:
        if granularity == "micro":
            return self._segments
        blocks: dict[str, list[Segment]] = {}
        for segment in self._segments:
            last = self._calls[segment.members[-1]].module_name
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

    def _below(self, group: Segment) -> set[Any]:
        """Return the nodes of all entries that lie below a group: its leaves end there."""
        first = group.members[0]
        nodes = {c.output_edge.node for k, c in enumerate(self._calls) if k < first}
        edge = self._calls[first].input_edge
        return nodes | ({edge.node} if edge is not None else set())

    def _entry_edge(self, segment: Segment) -> Any:
        return self._calls[segment.consumer].input_edge

    def _entry_shape(self, segment: Segment) -> tuple[int, ...]:
        return tuple(self._calls[segment.consumer].input.shape)

    def _segment_of(self, layer: Layer) -> Segment:
        index = self._index[layer.name]
        return next(s for s in self._segments if index in s.members)

    def _call(self, layer: Layer) -> Call:
        return self._calls[self._index[layer.name]]

    def _check_loss(self) -> None:
        if not isinstance(self.loss, Tensor) or self.loss.numel() != 1:
            msg = "The loss function must return one number; reduce it over the batch."
            raise MeasurementError(msg)
        if self.loss.grad_fn is None:
            msg = "The loss does not depend on any parameter that requires a gradient."
            raise MeasurementError(msg)
        if not torch.isfinite(self.loss):
            msg = f"The loss is {self.loss.item()}; check weights, inputs and targets."
            raise MeasurementError(msg)

    def _in_the_graph(self, calls: list[Call]) -> list[Call]:
        start = self.loss.grad_fn
        inside: set[int] = set()
        frontier = reachable_calls(start, calls)
        while frontier:
            inside.update(frontier)
            edges = [calls[k].input_edge for k in frontier]
            reached = {
                j for e in edges if e is not None for j in reachable_calls(e.node, calls)
            }
            frontier = sorted(reached - inside)
        if not inside:
            msg = "The loss does not depend on any measured layer."
            raise MeasurementError(msg)
        return [calls[k] for k in sorted(inside)]

    def _describe(self) -> tuple[Layer, ...]:
        consumer = {m: s.consumer for s in self._segments for m in s.members}
        return tuple(
            _layer(call, k + 1, self._calls[consumer[k]] if k in consumer else None)
            for k, call in enumerate(self._calls)
        )


def project(error: Tensor, feedback: Tensor, shape: Sequence[int]) -> Tensor:
    """Return B e in the shape of the entry.

    The whole error of a sample reaches the whole entry.

    Args:
        error: Shape ``(n_samples, ...)``, ``n_errors`` entries a sample.
        feedback: Shape ``(n_errors, *entry_shape)``.
        shape: Shape of the entry with its samples.

    Raises:
        MeasurementError: The shapes do not fit.
    """
    target = tuple(shape)
    matrix = feedback.to(error).reshape(feedback.shape[0], -1)
    rows = error.reshape(error.shape[0], -1)
    if rows.shape[-1] != matrix.shape[0] or rows.shape[0] != target[0]:
        msg = (
            f"The feedback {tuple(feedback.shape)} does not fit an error of shape "
            f"{tuple(error.shape)} and an entry of shape {target}."
        )
        raise MeasurementError(msg)
    result = rows @ matrix
    if result.numel() != _numel(target):
        msg = f"The feedback {tuple(feedback.shape)} does not fit an entry of shape {target}."
        raise MeasurementError(msg)
    return result.reshape(target)


def _layer(call: Call, depth: int, consumer: Call | None) -> Layer:
    weight = _parameter(call.module, "weight")
    bias = getattr(call.module, "bias", None)
    kind = next(c.__name__ for c in type(call.module).__mro__ if c.__module__.startswith("torch.nn"))
    channel_axis = 1 if kind.startswith("Conv") else -1
    return Layer(
        name=call.name,
        module=call.module_name,
        kind=kind,
        depth=depth,
        shape=tuple(call.output_shape[1:]),
        entry_shape=tuple(consumer.input.shape[1:]) if consumer else (),
        consumer=consumer.name if consumer else "",
        fan_in=weight[0].numel(),
        n_parameters=weight.numel() + (bias.numel() if bias is not None else 0),
        channels=call.output_shape[channel_axis],
    )


def _parameter(module: nn.Module, key: str) -> Tensor:
    value = getattr(module, key)
    if not isinstance(value, Tensor):
        msg = f"{type(module).__name__} has no tensor {key!r}."
        raise MeasurementError(msg)
    return value


def _numel(shape: Sequence[int]) -> int:
    return int(torch.Size(shape).numel())


def _eager(model: nn.Module) -> Any:
    """Return a context in which compiled modules run eagerly; hooks need that."""
    if any(type(m).__name__ == "OptimizedModule" for m in model.modules()):
        return torch.compiler.set_stance("force_eager")
    return torch.enable_grad()

"""One forward pass, and every backward pass that is asked of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from types import MappingProxyType
from typing import Any, Final, Literal, final

import torch
from torch import Tensor, nn

from alignlab.engine.attach import Attachment
from alignlab.engine.direct import Injected, Signals, has_leaves, inject, projected
from alignlab.engine.evaluation import evaluated
from alignlab.engine.exchange import Exchange, weight_swap
from alignlab.engine.forward import called, plainly, require_loss
from alignlab.engine.graph import refuse_custom_backwards
from alignlab.engine.layout import Layout
from alignlab.engine.local import own_gradients, to_entry, to_preactivation
from alignlab.engine.modules import own_weights
from alignlab.engine.parameters import parameter_gradients
from alignlab.engine.prepared import Prepared
from alignlab.engine.products import refuse_weights_above
from alignlab.engine.reference import true_updates
from alignlab.engine.state import State
from alignlab.engine.structure import Structure, Structures
from alignlab.engine.swap import WeightSwap
from alignlab.engine.updates import Updates
from alignlab.errors import MeasurementError
from alignlab.feedback import Feedback
from alignlab.sites import Layer

__all__ = ["Capture", "Loss"]

Loss = Callable[[Any, Any], Tensor]


@final
class Capture:
    """The graph of one forward pass, held open for backward passes of any rule.

    The model is left as it was found: hooks are gone, random states and buffers are put
    back, and no gradient is accumulated. ``close`` drops the graph.

    Attributes:
        model: The model.
        loss_function: Takes output and targets.
        x, y, chosen: Batch, targets and the names of the modules that were asked for.
        structures: What knows earlier passes of the model, if anything.
        parameters: The model's, by name.
        layers: Measured layers in call order.
        layout: How they hang together; gone after ``close``.
        output: What the model returned.
        loss: The loss, a scalar on the graph.
        without_gradient: Modules that were called where no gradient flows.
        is_hooked: Whether hooks of the user's wait for the gradients of inputs.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_function: Loss,
        x: Any,
        y: Any,
        *,
        layers: Sequence[str] | None = None,
        keep_state: bool = False,
        structures: Structures | None = None,
        state: State | None = None,
        only: Literal["direct", "replaced"] | None = None,
    ) -> None:
        """Run the forward pass in the model's present mode.

        Args:
            model: Any module that ends in Linear or convolution modules.
            loss_function: Takes the output and the targets, returns a scalar.
            x: Batch, first axis samples; a tuple or a mapping holds several inputs.
            y: Targets.
            layers: Names of the modules that are measured; None for all.
            keep_state: Whether random states and buffers stay as the pass left them.
            structures: Knows earlier passes of the model, and learns this one.
            state: Random states and buffers as they are, where they have been kept already.
            only: The one backward pass that a training step asks for: of direct feedback, for
                which no weights need be kept, or with replaced weights. No state is kept then.

        Raises:
            MeasurementError: The model cannot be measured truthfully; says why.
        """
        self.model, self.loss_function = model, loss_function
        self.x, self.y, self.chosen, self.structures = x, y, layers, structures
        ready = structures.prepared(model, layers) if structures else Prepared(model, layers)
        modules, self._is_compiled = ready.modules, ready.is_compiled
        named = self.parameters = ready.parameters
        is_light = only == "direct" and keep_state and ready.needs_no_record
        self._weights = {} if is_light else own_weights(modules)
        self._swap = WeightSwap({}) if is_light else weight_swap(model, named, self._weights)
        self._state = state or (None if only and keep_state else State.of(model))
        attachment = ready.attachment if is_light else Attachment(modules, self._swap)
        try:
            with torch.enable_grad(), plainly(compiled=self._is_compiled):
                with attachment, nullcontext() if is_light else self._swap.recording():
                    self.output = called(model, x)
                # A penalty on weights in the loss keeps the weights themselves.
                self.loss = loss_function(self.output, y)
        finally:
            if not keep_state:
                self.state.restore(model)
        self.without_gradient = tuple(attachment.without_gradient)
        require_loss(self.loss)
        start, calls = self.loss.grad_fn, attachment.calls
        self.is_hooked: Final = attachment.released()
        known = structures.of(start, calls) if structures else Structure()
        known.once("custom", lambda: refuse_custom_backwards(start))
        self.layout = Layout(calls, start, known)
        self.layers = self.layout.layers
        known.once("above", lambda: refuse_weights_above(start, self.layout.calls, model))
        self._weights |= {call.module_name: call.weight.detach() for call in self.layout.calls}
        self._exchange = Exchange(self._swap, self.layout.calls, start, model, known=known)

    @property
    def state(self) -> State:
        """Random states and buffers before the forward pass."""
        assert self._state is not None
        return self._state

    @property
    def n_samples(self) -> int:
        """Samples in the batch: the first axis of every layer."""
        return self.layout.calls[-1].output_shape[0]

    @property
    def n_errors(self) -> int:
        """Entries of the error of one sample: the units of all output layers."""
        return sum(layer.width for layer in self.layout.outputs)

    @property
    def other_weights(self) -> tuple[str, ...]:
        """Parameters that act as weights outside of the measured modules, by name.

        They lie inside segments: direct feedback is backpropagated through them from the entry,
        and rules that replace weights replace them too.
        """
        return tuple(self._exchange.others)

    def close(self) -> None:
        """Drop the graph."""
        del self.layout, self.loss, self.output, self._exchange

    def module_weights(self) -> dict[str, Tensor]:
        """Return the forward weights, detached, by name.

        Those of measured modules bear the name of their module, all others that of their
        parameter, such as ``attention.in_proj_weight``.
        """
        return self._weights | self._exchange.others

    def input_of(self, layer: Layer) -> Tensor:
        """Return the layer's input, detached, shape ``(n_samples, ...)``."""
        x = self.layout.call(layer).input
        assert x is not None
        return x

    def weight_of(self, layer: Layer) -> Tensor:
        """Return the weight that acted in the layer's call, detached."""
        return self.layout.call(layer).weight.detach()

    def module_of(self, layer: Layer) -> nn.Module:
        """Return the module that the layer calls."""
        return self.layout.call(layer).module

    def reference(self, *, parameters: bool = False) -> Updates:
        """Run backpropagation: the true gradient at every site."""
        return true_updates(self.layout, self.loss, self.parameters if parameters else {})

    def replaced(self, weights: Mapping[str, Tensor], *, parameters: bool = False) -> Updates:
        """Run the backward pass with other weights in place of the forward ones.

        Args:
            weights: Backward weights by the names of ``module_weights``, shaped like those.
            parameters: Whether the gradients of the parameters are wanted too.

        Raises:
            MeasurementError: A weight was not seen by the exchange.
        """
        missing = [name for name in self._exchange.needed if name not in weights]
        if missing:
            msg = f"There is no backward weight for {', '.join(missing)}; give one for each."
            raise MeasurementError(msg)
        if not self._exchange.is_possible:
            own = self.module_weights()
            if all(torch.equal(weights[name], own[name]) for name in self._exchange.needed):
                return self.reference(parameters=parameters)
        with self._exchange.replaced(weights):
            return self.reference(parameters=parameters)

    def require_replaceable(self) -> None:
        """Raise a MeasurementError where weights cannot be replaced by others; names them."""
        self._exchange.require()

    def injection_layers(self, granularity: str) -> list[Layer]:
        """Return the layers at whose entries direct feedback is injected.

        Args:
            granularity: ``micro``, every entry; ``macro``, the last of each block.
        """
        return [self.layers[group.members[-1]] for group in self.layout.groups(granularity)]

    def direct(
        self,
        feedback: Mapping[str, Feedback],
        *,
        error: Tensor,
        sent: Tensor | None = None,
        granularity: str = "micro",
        parameters: bool = False,
    ) -> Updates:
        """Send the error to every entry and carry it to the pre-activations.

        Args:
            feedback: By injection layer, shape ``(n_errors, *entry_shape)``, in any form.
            error: dL/da at the output, ``n_errors`` entries a sample, ``(n_samples, ...)``;
                of several output layers ``layout.joined``.
            sent: What is sent in its place, of the same shape; None for the error itself.
            granularity: ``micro`` or ``macro``.
            parameters: Whether the gradients of the parameters are wanted too.
        """
        signals = projected(error if sent is None else sent, feedback)
        found = inject(
            self.layout, signals, error=error, granularity=granularity, leaves=parameters
        )
        return self._completed(found, parameters=parameters)

    def injected(
        self, signals: Mapping[str, Tensor], *, error: Tensor, parameters: bool = False
    ) -> Updates:
        """Let given signals enter and carry them to the pre-activations.

        Args:
            signals: What enters, by injection layer, ``(n_samples, *entry_shape)``.
            error: dL/da at the output, as in ``direct``.
            parameters: Whether the gradients of the parameters are wanted too.
        """
        found = self._enter(signals, error, leaves=parameters)
        return self._completed(found, parameters=parameters)

    def local(
        self,
        preactivation: Mapping[str, Tensor],
        *,
        entry: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> Updates:
        """Return the updates that signals at the pre-activations cause by local products.

        Parameters between a pre-activation and the next layer, as those of a normalisation, have
        updates that follow from the signals at the entries, and none without.

        Args:
            preactivation: By layer, output layers included, shape ``(n_samples, *shape)``.
            entry: Signals at the entries by layer, where there are any.
        """
        leaves: dict[int, Tensor] = {}
        has_any = self.layout.structure.once("has leaves", lambda: has_leaves(self.layout))
        if entry and has_any:
            error = self.layout.joined(preactivation)
            leaves = self._enter(entry, error, leaves=True).leaves
        return self._completed(Injected(dict(entry), dict(preactivation), leaves), parameters=True)

    def _enter(self, signals: Mapping[str, Tensor], error: Tensor, *, leaves: bool) -> Injected:
        """Let signals enter, by layer."""
        entering: Signals = lambda layer, _shape: signals[layer.name]  # noqa: E731
        return inject(self.layout, entering, error=error, granularity="micro", leaves=leaves)

    def _completed(self, found: Injected, *, parameters: bool) -> Updates:
        """Return signals with the gradients of all parameters that follow from them."""
        if not parameters:
            return Updates(found.entry, found.preactivation)
        gradients = parameter_gradients(
            self.layout,
            self.model,
            self.loss,
            preactivation=found.preactivation,
            between=found.leaves,
        )
        return Updates(found.entry, found.preactivation, gradients)

    def to_preactivation(self, layer: Layer, signal: Tensor) -> Tensor:
        """Carry a signal from the layer's entry to its pre-activation (V, a local vjp).

        Args:
            layer: Any layer but the output.
            signal: Shape ``(n_samples, *entry_shape)``.
        """
        return to_preactivation(self.layout, layer, signal)

    def to_entry(self, layer: Layer, tangent: Tensor) -> Tensor:
        """Carry a tangent from the pre-activation to the entry (the adjoint of V).

        It is the derivative of the local backward map in its argument, which is linear.

        Args:
            layer: Any layer but the output.
            tangent: Shape ``(n_samples, *shape)``.

        Raises:
            MeasurementError: An operation on the way has a backward that cannot be
                differentiated again, as fused attention and recurrent kernels have.
        """
        return to_entry(self.layout, layer, tangent)

    def weight_gradient(self, layer: Layer, signal: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Return the gradients of weight and bias that a pre-activation signal causes.

        Args:
            layer: Any layer.
            signal: Shape ``(n_samples, *shape)``.

        Returns:
            Gradients shaped like weight and bias; None where there is no such parameter
            or it is frozen.
        """
        return own_gradients(self.layout.call(layer), signal)

    def evaluate(self, parameters: Mapping[str, Tensor], *, precision: torch.dtype) -> Tensor:
        """Return the loss with other parameters, on the same batch with the same randomness.

        The pass starts from the buffers of the captured one, and nothing of it remains.

        Args:
            parameters: By name; those left out stay as they are.
            precision: Floating type in which parameters, buffers and batch are taken.

        Returns:
            Scalar, detached.
        """
        with self.state.again(self.model), plainly(compiled=self._is_compiled):
            return evaluated(
                *(self.model, self.loss_function, self.x, self.y),
                parameters=parameters,
                precision=precision,
            )

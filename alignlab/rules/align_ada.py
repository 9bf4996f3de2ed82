"""Align-ada: credit through the initial network, products with present inputs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from alignlab.engine.graph import leaves_between
from alignlab.engine.recurrence import recurrent_products
from alignlab.engine.updates import Updates
from alignlab.errors import InputError, MeasurementError
from alignlab.rules._base import check_choice
from alignlab.rules._initial import Credit, InitialRule

if TYPE_CHECKING:
    from torch import Tensor

    from alignlab.engine.capture import Capture
    from alignlab.rules._base import State
    from alignlab.rules._task import Task

__all__ = ["AlignAda"]


@dataclass(frozen=True)
class AlignAda(InitialRule):
    r"""Align-ada: :math:`\Delta W_l = \delta_l^0 h_{l-1}^\top` with present inputs and error.

    The signals are those of the initial network, run on the same batch, under the present error:
    :math:`\delta_L^0 = e`, :math:`\delta_l^0 = W_{l+1}(0)^\top\delta_{l+1}^0 \odot
    \phi'(a_l^0)`. The products take the inputs of the present network, so the output layer has
    its true gradient. In the first step it is backpropagation. In a recurrent network every call
    of a layer has its signal so, the credit of a step's own output included. Source: Boopathy &
    Fiete 2022, arXiv 2106.08453, and its code.

    Parameters between layers (a normalisation's scale) take the initial network's signal at the
    entry above and the present network's derivative from there [our default: the paper has none].
    Weights outside of measured layers, and parameters below the first ones, have no such product
    and are refused; align-zero is defined for them.

    The state holds the parameters at the first step by name, so it must come from a training.

    Attributes:
        derivative: Whose derivative of the activation acts: ``initial``, as in the code; or
            ``current``, with which only the weights of the backward pass are initial (align-prop).
        credit: ``corrected``; or ``published``, for recurrent networks that are read out in every
            step: as in the published code a state has no credit from the output of its own step,
            and the derivative next to the product is the current one. Then the first step is
            not backpropagation.
    """

    name: ClassVar[str] = "align-ada"
    derivative: str = "initial"
    credit: str = "corrected"

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            InputError: One is not known, or two contradict each other.
        """
        check_choice("derivative", self.derivative, ("initial", "current"))
        check_choice("credit", self.credit, ("corrected", "published"))
        if self.credit == "published" and self.derivative != "initial":
            msg = "The published credit has derivative=initial; leave one of the two out."
            raise InputError(msg)

    def start(self, capture: Capture, *, seed: int) -> State:
        """Keep the present parameters as the initial ones.

        Raises:
            MeasurementError: A parameter has no product; names it.
        """
        self._require_products(capture)
        return super().start(capture, seed=seed)

    def updates(self, task: Task, state: State, *, parameters: bool = True) -> Updates:
        """Form the local products of the initial network's signals and present inputs."""
        capture = task.capture
        self._require_products(capture)
        if self.derivative == "current":
            with self.initial(task, state) as start:
                weights = {name: w.clone() for name, w in start.module_weights().items()}
            return capture.replaced(weights, parameters=parameters)
        is_published = self.credit == "published"
        found = self.initial_credit(task, state, parameters=False, outputs=is_published)
        if is_published:
            found = _without_own_outputs(found, capture)
        if not parameters:
            return found.whole
        local = capture.local(found.whole.preactivation, entry=found.through)
        return replace(found.whole, parameters=local.parameters)

    def _require_products(self, capture: Capture) -> None:
        """Refuse parameters for which there is no product of a signal and an input."""
        if self.derivative == "current":
            capture.require_replaceable()
            return
        capture.layout.structure.once(self.label, lambda: self._refuse_others(capture))

    def _refuse_others(self, capture: Capture) -> None:
        outside = capture.other_weights
        layout, nodes = capture.layout, {c.output_edge.node for c in capture.layout.calls}
        entries = {layout.entry_edge(segment).node for segment in layout.segments}
        names = {id(p): name for name, p in capture.model.named_parameters()}
        inputs = {c.input_edge.node for c in layout.calls if c.input_edge is not None}
        below = [
            names.get(id(leaf), "a tensor")
            for start in inputs - entries - nodes
            for leaf in leaves_between(start, nodes | entries)
            if leaf.requires_grad
        ]
        between = [
            names.get(id(leaf), "a tensor")
            for start in entries - nodes
            for leaf in leaves_between(start, nodes)
            if leaf.requires_grad and leaf.dim() > 1
        ]
        refused = sorted({*outside, *below, *between})
        if refused:
            msg = (
                f"The rule {self.label} has no product of signal and input for "
                f"{', '.join(refused)}, which acts outside of measured layers or below "
                "the first; use align-zero, or derivative=current."
            )
            raise MeasurementError(msg)


def _without_own_outputs(credit: Credit, capture: Capture) -> Credit:
    """Return credit in which no state has that of its own step's output.

    Raises:
        MeasurementError: A state is not read by an output layer of its own step.
    """
    layout = capture.layout
    products = recurrent_products(capture.loss.grad_fn, layout.calls, capture.model)
    again = {product.owner for product in products}
    signals: dict[str, Tensor] = {}
    is_read = False
    for segment in layout.segments:
        members = [layout.layers[k] for k in segment.members]
        readers = layout.consumers_of(members[0])
        goes_on = any(each.module in again for each in readers)
        is_out = any(each.is_output for each in readers)
        if not (any(each.module in again for each in members) or (goes_on and is_out)):
            continue
        if not is_out:
            raise _unread(members[0].name)
        is_read = is_read or goes_on
        signals |= {
            each.name: credit.through[each.name] - credit.outputs[each.name] for each in members
        }
    if not is_read:
        raise _unread(layout.outputs[0].name)
    layers = {layer.name: layer for layer in layout.layers}
    local = {name: capture.to_preactivation(layers[name], one) for name, one in signals.items()}
    whole = replace(
        credit.whole,
        entry={**credit.whole.entry, **signals},
        preactivation={**credit.whole.preactivation, **local},
    )
    return replace(credit, whole=whole, through={**credit.through, **signals})


def _unread(name: str) -> MeasurementError:
    return MeasurementError(
        "align-ada(credit=published) is defined for a recurrence of one layer whose state an "
        f"output layer reads in every step, which is not so at {name!r}; use credit=corrected."
    )

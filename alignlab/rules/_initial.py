"""Rules whose credit runs through the network as it was before the first step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from alignlab.engine.error import carried, direct_errors, from_outputs
from alignlab.errors import MeasurementError
from alignlab.rules._base import Rule, State

if TYPE_CHECKING:
    from alignlab.engine.capture import Capture
    from alignlab.engine.updates import Updates
    from alignlab.rules._task import Task

__all__ = ["Credit", "InitialRule"]


@dataclass(frozen=True)
class Credit:
    """What the initial network makes of the present error.

    Attributes:
        whole: Signals by layer and gradients by parameter name; the signals at entries hold
            what the loss reads there directly.
        through: Signals at the entries without that.
        outputs: The part of these that output layers say which read the entry themselves, where
            it was asked for.
    """

    whole: Updates
    through: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]


class InitialRule(Rule):
    """A rule that keeps the initial parameters, in its state by their own names.

    The initial network runs on the present batch, with the same randomness (dropout masks) and
    from the same buffers; a normalisation in training mode takes the batch's statistics there,
    one in evaluation mode the present running ones. The error that enters is always that of the
    present network: dL/da at the output layers, and at a hidden layer that the loss reads
    besides what it says there directly. What acts on the loss without passing a layer (a
    parameter above the output, a penalty on weights) has its exact gradient.
    """

    keeps_initial: ClassVar[bool] = True
    reads_true: ClassVar[bool] = False

    def start(self, capture: Capture, *, seed: int) -> State:
        """Keep the present parameters as the initial ones."""
        del seed
        named = capture.model.named_parameters()
        return {name: p.detach().clone() for name, p in named}

    @contextmanager
    def initial(self, task: Task, state: State) -> Iterator[Capture]:
        """Run the initial network on the batch; what it yields lives inside.

        Raises:
            MeasurementError: It calls other layers than the present one.
        """
        parameters = {name: one for name, one in state.items() if isinstance(one, Tensor)}
        with task.again(parameters=parameters) as start:
            then, now = (
                [(each.name, each.shape) for each in capture.layers]
                for capture in (start, task.capture)
            )
            if then != now:
                msg = (
                    f"The initial network calls other layers on the batch than the present one, "
                    f"so {self.label} is not defined; give a model whose layers do not depend on "
                    "its parameters."
                )
                raise MeasurementError(msg)
            yield start

    def initial_credit(
        self, task: Task, state: State, *, parameters: bool = True, outputs: bool = False
    ) -> Credit:
        """Return what the initial network makes of the present error.

        Args:
            task: The batch.
            state: Holds the initial parameters.
            parameters: Whether the gradients of the parameters are wanted too.
            outputs: Whether what output layers say by themselves is.
        """
        errors, direct = direct_errors(task.capture.layout, task.capture.loss)
        with self.initial(task, state) as start:
            found = carried(start.layout, start.model, errors, parameters=parameters)
            own = from_outputs(start.layout, errors) if outputs else {}
        entry = {name: g + direct.get(name, 0) for name, g in found.entry.items()}
        return Credit(replace(found, entry=entry), found.entry, own)

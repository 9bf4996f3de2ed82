"""Where feedback enters: at every hidden layer, or with the point missing that the code misses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from alignlab.engine.direct import projected
from alignlab.rules import DFA, State, Task, Updates

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["PublishedHead", "fed"]


def fed(task: Task, state: State) -> dict[str, Tensor]:
    """Return the error through the feedback of every hidden layer, by its name."""
    feed, count = projected(task.error, state), task.capture.n_samples
    hidden = [layer for layer in task.capture.layers if not layer.is_output]
    return {layer.name: feed(layer, (count, *layer.entry_shape)) for layer in hidden}


@dataclass(frozen=True)
class PublishedHead(DFA):
    """Direct feedback as the work's code has it in its convolutional network.

    There its feedback points are told apart by the last digit of the next layer's name, so that
    none lies between the two linear layers: the hidden one learns by backpropagation.

    Attributes:
        missing: Name of the hidden layer that no feedback enters at; the output layer reads it.
    """

    name: ClassVar[str] = "published-head"
    missing: str = "fc"

    def updates(self, task: Task, state: State, *, parameters: bool = True) -> Updates:
        """Send the error to every entry but one, where the true signal is."""
        signals = fed(task, state) | {self.missing: task.true.entry[self.missing]}
        return task.capture.injected(signals, error=task.error, parameters=parameters)

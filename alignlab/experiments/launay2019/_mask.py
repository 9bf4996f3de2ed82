"""The published bottleneck as rules: direct feedback alignment whose gradients are masked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar

import torch

from alignlab.experiments.launay2019._points import fed
from alignlab.feedback import generator
from alignlab.rules import DFA, State, Task, Updates

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["MaskedDFA", "PublishedBottleneck", "mask"]


@lru_cache(maxsize=64)
def mask(seed: int, use: str, shape: tuple[int, ...], keep: float) -> Tensor:
    """Return a fixed mask of ones with chance ``keep``, zeros else; same arguments, same mask."""
    stream = generator(seed, "mask", use)
    return (torch.rand(shape, generator=stream) < keep).float()


@dataclass(frozen=True)
class MaskedDFA(DFA):
    """Direct feedback alignment with a proper feedback point at every layer and one layer masked.

    The updates of that layer's weights and biases are multiplied by fixed masks, so that it
    trains a share ``keep`` of them. The layer itself is as wide as ever, and error signals are
    those of plain direct feedback.

    Attributes:
        masked: Name of the layer.
        keep: Chance of an entry to be trained.
        mask_seed: Of the masks.
    """

    name: ClassVar[str] = "masked-dfa"
    masked: str = "fc2"
    keep: float = 1.0
    mask_seed: int = 0

    def updates(self, task: Task, state: State, *, parameters: bool = True) -> Updates:
        """Send the error to every entry, and mask the updates of one layer."""
        found = super().updates(task, state, parameters=parameters)
        return replace(found, parameters=self.kept(found.parameters))

    def kept(self, updates: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return updates by parameter name, those of the masked layer masked."""
        changed = {
            name: one * self.of_shape(name, one)
            for name, one in updates.items()
            if name.rpartition(".")[0] == self.masked
        }
        return {**updates, **changed}

    def of_shape(self, use: str, like: Tensor) -> Tensor:
        """Return the mask for one use, on the device of a tensor and in its shape."""
        return mask(self.mask_seed, use, tuple(like.shape), self.keep).to(like)


@dataclass(frozen=True)
class PublishedBottleneck(MaskedDFA):
    """The bottleneck as the work's code runs it, which no feedback point precedes.

    The layer below the masked one is not fed by the error: it has what backpropagation through
    the masked layer makes of that layer's own signal, multiplied by a further fixed mask with one
    row for each place in the batch. For chains of linear layers and elementwise functions.

    Attributes:
        below: Name of the layer below the masked one.
    """

    name: ClassVar[str] = "published-bottleneck"
    below: str = "fc1"

    def updates(self, task: Task, state: State, *, parameters: bool = True) -> Updates:
        """Send the error to every entry but the one below the masked layer."""
        capture = task.capture
        signals = fed(task, state)
        masked = next(layer for layer in capture.layers if layer.name == self.masked)
        back = capture.to_preactivation(masked, signals[self.masked]) @ capture.weight_of(masked)
        signals[self.below] = back * self.of_shape("signal", back)
        found = capture.injected(signals, error=task.error, parameters=parameters)
        return replace(found, parameters=self.kept(found.parameters))

    def twin_signals(self, true: Mapping[str, Tensor], *, seed: int) -> Mapping[str, Tensor]:
        """Return the true error signals at the entries as the work's own reference has them.

        Its network that is trained by backpropagation bears the same hook, with masks drawn for
        itself, so that what it measures below the masked layer is masked as well.

        Args:
            true: True signals by layer.
            seed: Of the reference's masks.
        """
        signal = true[self.below]
        twin = replace(self, mask_seed=seed)
        return {**true, self.below: signal * twin.of_shape("signal", signal)}

"""Every weight of one forward pass exchanged for another in a backward pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Final, final

from torch import Tensor, nn

from alignlab.engine.attach import Call
from alignlab.engine.modules import plain_name
from alignlab.engine.products import (
    Use,
    frozen_uses,
    other_uses,
    refuse_hidden_weights,
    use_in,
)
from alignlab.engine.structure import Structure
from alignlab.engine.swap import WeightSwap
from alignlab.errors import MeasurementError

__all__ = ["Exchange", "weight_swap"]


@final
class Exchange:
    """The weights that act in a graph, those outside of measured modules included.

    Nothing is searched before it is asked for.
    """

    def __init__(
        self,
        swap: WeightSwap,
        calls: Sequence[Call],
        start: Any,
        model: nn.Module,
        *,
        known: Structure | None = None,
    ) -> None:
        """Keep what was captured.

        Args:
            swap: Has recorded the forward pass.
            calls: Measured calls.
            start: Autograd node of the loss, or of the output layer's pre-activation.
            model: The model.
            known: What is known of graphs of this structure.
        """
        self._swap: Final = swap
        self._calls: Final = calls
        self._start: Final = start
        self._model: Final = model
        self._known: Final = known or Structure()
        self._is_ready = False

    @property
    def is_possible(self) -> bool:
        """Whether every weight can be replaced."""
        try:
            self.require()
        except MeasurementError:
            return False
        return True

    @cached_property
    def others(self) -> dict[str, Tensor]:
        """Parameters that act as weights outside of measured modules, detached, by name."""
        if not self._others:
            return {}
        named = {plain_name(name): p for name, p in self._model.named_parameters()}
        return {use.owner: named[use.owner].detach() for use in self._others}

    @property
    def weights(self) -> dict[str, Tensor]:
        """All weights that act in the graph, detached, by name."""
        own = {call.module_name: call.weight.detach() for call in self._calls}
        return own | self.others

    @property
    def needed(self) -> set[str]:
        """Names of the weights that act in the graph."""
        return {call.module_name for call in self._calls} | set(self.others)

    def require(self) -> None:
        """Refuse weights that cannot be replaced.

        Raises:
            MeasurementError: Names them.
        """
        if self._is_ready:
            return
        captured = self._start, self._calls, self._model
        self._known.once("hidden weights", lambda: refuse_hidden_weights(*captured))
        hidden = [call for call in self._calls if not call.weight_seen]
        unseen = [call.name for call in hidden if not self._is_claimed(use_in(call))]
        if unseen:
            raise _unseen(unseen)
        for use in self._others:
            if not self._is_claimed(use):
                raise _unseen([use.owner])
        if self._frozen[1]:
            raise MeasurementError(self._frozen[1])
        self._is_ready = True

    @contextmanager
    def replaced(self, weights: Mapping[str, Tensor]) -> Iterator[None]:
        """Run backward passes with other weights.

        Args:
            weights: By name, all that are needed.

        Raises:
            MeasurementError: A weight was not seen by the exchange, or cannot be replaced.
        """
        self.require()
        with self._swap.replaced(weights):
            yield

    @cached_property
    def _others(self) -> list[Use]:
        captured = self._start, self._calls, self._model
        has_others = self._known.once("other weights", lambda: bool(other_uses(*captured)))
        return (other_uses(*captured) if has_others else []) + self._frozen[0]

    @cached_property
    def _frozen(self) -> tuple[list[Use], str]:
        return frozen_uses(self._start, self._calls, self._model, self._swap)

    def _is_claimed(self, use: Use | None) -> bool:
        if use is None:
            return False
        try:
            self._swap.claim(use)
        except MeasurementError:
            return False
        return True


def _unseen(names: Sequence[str]) -> MeasurementError:
    return MeasurementError(
        f"The weight of {', '.join(names)} was not seen in the graph (activation checkpointing); "
        "probe without checkpointing."
    )


def weight_swap(
    model: nn.Module, parameters: Mapping[str, Tensor], weights: Mapping[str, Tensor]
) -> WeightSwap:
    """Return what a model's forward pass saves its weights through.

    Args:
        model: The model.
        parameters: Its own, by name.
        weights: Of its measured modules, those that are parameters, by name.
    """
    others = {plain_name(n): p for n, p in parameters.items() if p.dim() > 1}
    return WeightSwap(weights, others=others, volatile=model.buffers())

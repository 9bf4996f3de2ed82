"""What a rule is given: one batch on a model, with its forward pass and true gradients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from alignlab.engine.capture import Capture
from alignlab.engine.exchanged import at_parameters, write_buffers

if TYPE_CHECKING:
    from torch import Tensor, nn

    from alignlab.engine.updates import Updates

__all__ = ["Task"]


@dataclass(frozen=True)
class Task:
    """One batch on which rules act.

    Attributes:
        capture: The forward pass, its graph held open, which the reference and all rules share.
        true: The reference: true signals, and where the rule yields updates of parameters alone
            true gradients of these. Empty in a training by a rule that does not look at them.
    """

    capture: Capture
    true: Updates

    @property
    def model(self) -> nn.Module:
        """The model."""
        return self.capture.model

    @property
    def x(self) -> Any:
        """The batch, first axis samples."""
        return self.capture.x

    @property
    def y(self) -> Any:
        """The targets."""
        return self.capture.y

    @property
    def error(self) -> Tensor:
        """dL/da at the output layers, ``n_errors`` entries a sample, ``(n_samples, ...)``."""
        return self.capture.layout.joined(self.true.preactivation)

    @contextmanager
    def again(
        self,
        *,
        x: Any = None,
        parameters: Mapping[str, Tensor] = MappingProxyType({}),
        buffers: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> Iterator[Capture]:
        """Run the forward pass again, with the same randomness and from the same buffers.

        Nothing of it remains in the model. What is computed must be used inside.

        Args:
            x: Another batch in place of this one; None for the same.
            parameters: Values by parameter name that take the place of the present ones.
            buffers: Values by name of the buffer, likewise.
        """
        given, batch = self.capture, self.x if x is None else x
        with given.state.again(self.model), at_parameters(self.model, parameters):
            write_buffers(self.model, buffers)
            capture = Capture(
                *(self.model, given.loss_function, batch, self.y),
                layers=given.chosen,
                structures=given.structures,
                # Of a pass from other buffers these are not the ones that it began with.
                state=None if buffers else given.state,
            )
            try:
                yield capture
            finally:
                capture.close()

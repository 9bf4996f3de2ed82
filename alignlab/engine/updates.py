"""What a rule yields on one batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor, nn

from alignlab.errors import MeasurementError

if TYPE_CHECKING:
    from alignlab.feedback import Feedback

__all__ = ["Updates", "complete", "owned"]


@dataclass(frozen=True)
class Updates:
    """Parameter updates, and the error signals from which they follow where a rule has them.

    Attributes:
        entry: dL/dh by layer name, shape ``(n_samples, *entry_shape)``; empty for a rule
            without error signals.
        preactivation: dL/da by layer name, shape ``(n_samples, *shape)``; likewise.
        parameters: By parameter name, as a gradient: the step goes against it. Empty where it
            was not asked for.
        is_local: Whether the update of a layer's weight is the product of its signal at the
            pre-activation with its input, as in backpropagation.
        state: What the rule holds from now on; None where that does not change.
    """

    entry: Mapping[str, Tensor] = field(default_factory=dict)
    preactivation: Mapping[str, Tensor] = field(default_factory=dict)
    parameters: Mapping[str, Tensor] = field(default_factory=dict)
    is_local: bool = True
    state: Mapping[str, Feedback] | None = None


def complete(updates: Updates, parameters: Mapping[str, nn.Parameter], *, rule: str) -> Updates:
    """Return updates that hold one for every parameter that learns, in its shape.

    Args:
        updates: What the rule yields.
        parameters: Those of the model, by name.
        rule: Name of the rule, for messages.

    Raises:
        MeasurementError: One is missing, of another shape, or of no such parameter.
    """
    wanted = {name: tuple(p.shape) for name, p in parameters.items() if p.requires_grad}
    found = {name: tuple(one.shape) for name, one in updates.parameters.items()}
    for name in dict.fromkeys((*wanted, *found)):
        if wanted.get(name) != found.get(name):
            yields = f"of shape {found[name]}" if name in found else "that is missing"
            needs = f"one of shape {wanted[name]}" if name in wanted else "none of that name"
            message = (
                f"The rule {rule} yields an update of {name} {yields}, where the model needs "
                f"{needs}; yield one for every parameter that requires a gradient, zeros where "
                "nothing reaches it."
            )
            raise MeasurementError(message)
    return updates


def owned(gradients: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return gradients that nothing else holds: copies where something else may.

    Args:
        gradients: By parameter name, as a backward pass that has ended returned them.
        parameters: Of what they are the gradients.
    """
    taken: set[int] = set()
    own = {}
    for name, gradient in gradients.items():
        memory = gradient.untyped_storage()
        is_whole = memory.nbytes() == gradient.numel() * gradient.element_size()
        # A hook of the user's may have kept what it saw.
        is_own = is_whole and not parameters[name]._backward_hooks
        own[name] = gradient if is_own and memory.data_ptr() not in taken else gradient.clone()
        taken.add(memory.data_ptr())
    return own

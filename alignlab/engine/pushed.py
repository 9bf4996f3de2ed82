"""Output errors of one's own in place of the loss's, through forward weights or others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor

from alignlab.engine.capture import Capture
from alignlab.errors import MeasurementError

__all__ = ["backward_weights", "gradients_from_output"]


@contextmanager
def backward_weights(capture: Capture, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Let backward passes inside see other weights than the forward ones.

    Args:
        capture: A forward pass that is held open.
        weights: By the names of ``Capture.module_weights``, all that act; none for the
            forward weights.

    Raises:
        MeasurementError: A weight cannot be replaced, and its replacement is another one.
    """
    exchange, own = capture._exchange, capture.module_weights()
    is_needed = weights and (
        exchange.is_possible or any(not torch.equal(weights[n], own[n]) for n in weights)
    )
    with exchange.replaced(weights) if is_needed else nullcontext():
        yield


def gradients_from_output(capture: Capture, error: Tensor) -> dict[str, Tensor]:
    """Return what an error at the output brings to every parameter that learns.

    Args:
        capture: A forward pass that is held open.
        error: At the pre-activation of the only output layer, ``n_errors`` entries a sample.

    Returns:
        By parameter name; zero where it brings nothing.

    Raises:
        MeasurementError: The model ends in several layers.
    """
    output = capture.layout.only_output
    if output is None:
        names = ", ".join(layer.name for layer in capture.layout.outputs)
        msg = f"The model ends in several layers ({names}); an error enters at one output."
        raise MeasurementError(msg)
    call = capture.layout.call(output)
    wanted = {n: p for n, p in capture.model.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(
        call.output_edge,
        list(wanted.values()),
        grad_outputs=(error.reshape(call.output_shape).to(call.output_type),),
        retain_graph=True,
        allow_unused=True,
    )
    pairs = zip(wanted.items(), found, strict=True)
    return {name: torch.zeros_like(p) if g is None else g for (name, p), g in pairs}

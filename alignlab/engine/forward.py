"""How a forward pass of the probe's own runs: eagerly, all of it in one graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import checkpoint

from alignlab.errors import MeasurementError

__all__ = ["called", "exactly", "is_compiled", "plainly", "require_loss"]


def called(model: nn.Module, x: Any) -> Any:
    """Run a model on a batch.

    Args:
        model: Any module.
        x: What it takes: one argument, a tuple or list of arguments, or a mapping of arguments
            by name.
    """
    if isinstance(x, Mapping):
        return model(**x)
    return model(*x) if isinstance(x, tuple | list) else model(x)


@contextmanager
def plainly(*, compiled: bool) -> Iterator[None]:
    """Run compiled modules eagerly, and reentrant checkpointing as if it were not there.

    Encoder layers call their submodules, which in evaluation mode they otherwise do not without
    gradients. Hooks that are placed after compilation are not called. A stretch under reentrant
    checkpointing runs without a graph, and its backward pass can neither be run in parts nor
    twice; run as it stands it computes the same numbers with the same randomness, and costs
    the memory that it would have saved.

    Args:
        compiled: Whether the model has compiled modules.
    """
    with ExitStack() as stack:
        if compiled:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(_without_reentrance())
        stack.enter_context(_without_fused_encoders())
        yield


@contextmanager
def _without_fused_encoders() -> Iterator[None]:
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def _without_reentrance() -> Iterator[None]:
    kind: Any = checkpoint.CheckpointFunction
    kind.apply = staticmethod(_run)
    try:
        yield
    finally:
        del kind.apply


def _run(function: Any, _preserve_randomness: bool, *arguments: Any) -> Any:
    return function(*arguments)


def is_compiled(model: nn.Module) -> bool:
    """Return whether a model has compiled modules."""
    return any(
        type(module).__name__ == "OptimizedModule" or module._compiled_call_impl is not None
        for module in model.modules()
    )


def require_loss(loss: Any) -> None:
    """Refuse what is no scalar, has no gradient or is not finite.

    Args:
        loss: What the loss function returned.

    Raises:
        MeasurementError: Says which.
    """
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        msg = "The loss function must return one number; reduce it over the batch."
        raise MeasurementError(msg)
    if loss.grad_fn is None:
        msg = "The loss does not depend on any parameter that requires a gradient."
        raise MeasurementError(msg)
    if not torch.isfinite(loss):
        msg = f"The loss is {loss.item()}; check weights, inputs and targets."
        raise MeasurementError(msg)


def exactly() -> AbstractContextManager[Any]:
    """Leave gradients of gradients and mixed precision to the user's own backward pass."""
    mixed = [device for device in ("cpu", "cuda") if torch.is_autocast_enabled(device)]
    if not mixed and not torch.is_grad_enabled():
        return nullcontext()
    context = ExitStack()
    if torch.is_grad_enabled():
        context.enter_context(torch.no_grad())
    for device in mixed:
        context.enter_context(torch.autocast(device, enabled=False))
    return context

"""Modules whose backward pass is not the derivative of their forward pass."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction

from alignlab.errors import MeasurementError

__all__ = ["CustomBackward", "custom_backwards", "duplicate", "run", "tensors_in"]


@dataclass(frozen=True)
class CustomBackward:
    """A custom autograd function that a forward pass used.

    Attributes:
        module: Qualified name of the innermost module that called it; empty for the model itself.
        function: Name of the function's class.
    """

    module: str
    function: str

    def __str__(self) -> str:
        return f"{self.module or '(the model itself)'} ({self.function})"


def custom_backwards(model: nn.Module, x: Tensor) -> list[CustomBackward]:
    """Find custom autograd functions on the graph of one forward pass.

    Args:
        model: Any model; a copy of it runs, so that it stays as it was.
        x: Batch of inputs.

    Returns:
        Each module with each function that it calls, in order; functions of torch itself (such as
        activation checkpointing) are left out.

    Raises:
        MeasurementError: The forward pass fails, or the model cannot be copied.
    """
    probe = duplicate(model)
    for parameter in probe.parameters():
        if _is_continuous(parameter):
            parameter.requires_grad_()
    trace = _Trace()
    names = {module: name for name, module in probe.named_modules()}
    handles = []
    for module, name in names.items():
        handles.append(module.register_forward_pre_hook(trace.entering(name), with_kwargs=True))
        handles.append(module.register_forward_hook(trace.leaving))
    with torch.enable_grad():
        run(probe, x)
    for handle in handles:
        handle.remove()
    return list(trace.found)


def duplicate(model: nn.Module) -> nn.Module:
    """Return a deep copy of a model without its backward hooks.

    Results of earlier passes that modules keep as attributes are copied without their graph.

    Raises:
        MeasurementError: The model holds something that cannot be copied.
    """
    kept = [value for module in model.modules() for value in tensors_in(vars(module))]
    memo = {id(value): value.detach().clone() for value in kept if not value.is_leaf}
    try:
        with _same_random_state(model):
            copied = copy.deepcopy(model, memo)
    except Exception as error:
        message = (
            f"{type(model).__name__} cannot be copied ({error}); keep open files and locks out "
            f"of its attributes, or give a plain model with --plain-model SPEC."
        )
        raise MeasurementError(message) from error
    for module in copied.modules():
        module._backward_hooks.clear()
        module._backward_pre_hooks.clear()
        module._is_full_backward_hook = None
    return copied


def run(model: nn.Module, *args: Tensor) -> Any:
    """Run a forward pass that leaves random states as they were and starts from fixed ones.

    Args:
        model: Any model.
        *args: Inputs; the model sees copies that carry gradients where they can.

    Raises:
        MeasurementError: The forward pass fails.
    """
    inputs = [arg.detach() for arg in args]
    if torch.is_grad_enabled():
        inputs = [arg.requires_grad_(_is_continuous(arg)) for arg in inputs]
    with _same_random_state(model) as devices:
        torch.default_generator.manual_seed(0)
        for device in devices:
            torch.cuda.default_generators[device.index].manual_seed(0)
        try:
            with _eagerly(model):
                return model(*(arg.clone() for arg in inputs))
        except Exception as error:
            text = " ".join(str(error).split())
            shapes = ", ".join(str(tuple(arg.shape)) for arg in args)
            message = (
                f"{type(model).__name__} fails on a batch of shape {shapes} "
                f"({type(error).__name__}: {text}); check the model and the data."
            )
            raise MeasurementError(message) from error


def tensors_in(value: object) -> Iterator[Tensor]:
    """Yield the tensors in what a module takes or returns: tuples, lists, dicts, data classes."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)


def _is_continuous(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _eagerly(model: nn.Module) -> AbstractContextManager[object]:
    """Return a context in which compiled modules run their own code, custom functions included."""
    if any(type(module).__name__ == "OptimizedModule" for module in model.modules()):
        eager: AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
        return eager
    return nullcontext()


@contextmanager
def _same_random_state(model: nn.Module) -> Iterator[list[torch.device]]:
    """Restore the random states of the host and of the model's own devices; yield the latter."""
    found = {tensor.device for tensor in model.parameters() if tensor.device.type == "cuda"}
    devices = sorted(found, key=str)
    with torch.random.fork_rng(devices=devices):
        yield devices


class _Trace:
    """Gives each new custom node to the module that runs when it first shows."""

    def __init__(self) -> None:
        self.found: dict[CustomBackward, None] = {}
        self._seen: set[Any] = set()
        self._running: list[str] = [""]

    def entering(self, name: str) -> Any:
        """Return the hook for the start of a module."""

        def hook(_module: nn.Module, args: Any, kwargs: Any) -> None:
            self._take(args, kwargs)
            self._running.append(name)

        return hook

    def leaving(self, _module: nn.Module, _args: Any, output: Any) -> None:
        """Be the hook for the end of a module."""
        self._take(output)
        self._running.pop()

    def _take(self, *values: object) -> None:
        roots = [tensor.grad_fn for value in values for tensor in tensors_in(value)]
        stack: list[Any] = [node for node in roots if node is not None]
        while stack:
            node = stack.pop()
            if node in self._seen:
                continue
            self._seen.add(node)
            function = getattr(type(node), "_forward_cls", None)
            if isinstance(node, BackwardCFunction) and not _is_torchs(function):
                name = function.__name__ if function else type(node).__name__
                self.found[CustomBackward(self._running[-1], name)] = None
            stack.extend(parent for parent, _ in node.next_functions if parent is not None)


def _is_torchs(function: type | None) -> bool:
    return function is not None and function.__module__.partition(".")[0] == "torch"

"""The plain twin of a model that carries feedback: the same outputs, ordinary gradients."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from alignlab.checkpoints._backwards import (
    CustomBackward,
    custom_backwards,
    duplicate,
    run,
    tensors_in,
)
from alignlab.checkpoints._checkpoint import StoredFeedback
from alignlab.checkpoints._module_feedback import feedback_of
from alignlab.errors import MeasurementError

__all__ = ["Twin", "plain_twin"]

_TOLERANCE = 1e-6
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_PLAIN = (nn.Linear, *_CONVOLUTIONS)


@dataclass(frozen=True, kw_only=True)
class Twin:
    """A model to measure on.

    Attributes:
        model: The plain twin; the given model itself where nothing had to be replaced.
        feedback: What was taken out of the replaced modules, under the twin's names.
        replaced: Names of the replaced modules.
        notes: What a reader must know, each one sentence.
    """

    model: nn.Module
    feedback: tuple[StoredFeedback, ...] = ()
    replaced: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def plain_twin(model: nn.Module, x: Tensor) -> Twin:
    """Replace modules that carry feedback by plain ones with the same forward weights.

    Replaced are biotorch's layers and any subclass of ``nn.Linear`` or ``nn.ConvNd`` that calls a
    custom autograd function; backward hooks are taken off the twin.

    Args:
        model: Any model; it stays as it was.
        x: Batch of inputs on which the twin must give the same outputs.

    Returns:
        The twin with the feedback that was taken out.

    Raises:
        MeasurementError: Another module has a custom backward pass, or the outputs of the twin
            differ by more than 1e-6 of their norm; the text names the module.
    """
    inner, notes = _unwrapped(model)
    custom = custom_backwards(inner, x)
    modules = dict(inner.named_modules())
    names = [name for name in modules if _is_replaceable(name, modules[name], custom)]
    _refuse_others(inner, custom, names)
    hooked = [name for name, module in modules.items() if _has_backward_hooks(module)]
    if not names and not hooked:
        return Twin(model=inner, notes=notes)
    calls = _record_calls(inner, x, names)
    twin = _replaced(inner, calls.model, names)
    _check(inner, twin, x, calls)
    feedback, said = feedback_of(modules, names, called=calls.inputs.keys())
    others = [name or "the model" for name in hooked if name not in names]
    if others:
        said = (*said, f"Backward hooks of {', '.join(others)} are not in the twin.")
    return Twin(model=twin, feedback=feedback, replaced=tuple(names), notes=(*notes, *said))


@dataclass(frozen=True)
class _Calls:
    """What one forward pass gave each module at its first call, and the model that ran it."""

    model: nn.Module
    inputs: dict[str, tuple[Tensor, ...]]


def _unwrapped(model: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """Return the network inside biotorch's wrapper, which wants targets in its forward pass."""
    inner = getattr(model, "module", None)
    if _is_biotorch(model) and isinstance(inner, nn.Module):
        return inner, ("The network inside biotorch's BioModule is measured.",)
    return model, ()


def _is_biotorch(module: nn.Module) -> bool:
    return type(module).__module__.partition(".")[0] == "biotorch"


def _is_replaceable(name: str, module: nn.Module, custom: list[CustomBackward]) -> bool:
    is_custom = any(found.module == name for found in custom)
    carries = _is_biotorch(module) and hasattr(module, "weight_backward")
    return isinstance(module, _PLAIN) and type(module) not in _PLAIN and (is_custom or carries)


def _refuse_others(model: nn.Module, custom: list[CustomBackward], names: list[str]) -> None:
    others = [str(found) for found in custom if found.module not in names]
    if others:
        message = (
            f"{type(model).__name__} has its own backward pass in {', '.join(others[:4])}, so that "
            f"its gradients are no reference; give the same network with ordinary gradients: "
            f"--plain-model SPEC."
        )
        raise MeasurementError(message)


def _has_backward_hooks(module: nn.Module) -> bool:
    return bool(module._backward_hooks or module._backward_pre_hooks)


def _record_calls(model: nn.Module, x: Tensor, names: list[str]) -> _Calls:
    """Run a copy of the model and keep what its modules are given."""
    copied = duplicate(model)
    inputs: dict[str, tuple[Tensor, ...]] = {}

    def keep(name: str) -> Any:
        def hook(_module: nn.Module, args: Any, kwargs: Any) -> None:
            inputs.setdefault(name, tuple(arg.clone() for arg in tensors_in((args, kwargs))))

        return hook

    modules = dict(copied.named_modules())
    handles = [
        modules[name].register_forward_pre_hook(keep(name), with_kwargs=True) for name in names
    ]
    with torch.no_grad():
        run(copied, x)
    for handle in handles:
        handle.remove()
    return _Calls(copied, inputs)


def _replaced(model: nn.Module, after: nn.Module, names: list[str]) -> nn.Module:
    """Return a copy with plain modules, their weights as the forward pass left them."""
    twin = duplicate(model)
    modules, used = dict(twin.named_modules()), dict(after.named_modules())
    made: dict[nn.Module, nn.Module] = {}
    for name in names:
        module = modules[name]
        if module not in made:
            made[module] = _plain(module, used[name])
    for parent in list(twin.modules()):
        for child, module in parent._modules.items():
            if module in made:
                parent._modules[child] = made[module]
    return made.get(twin, twin)


def _plain(module: Any, used: Any) -> nn.Module:
    """Return a plain module with the parameters of another, as its forward pass left them."""
    plain: Any
    if isinstance(module, nn.Linear):
        plain = nn.Linear(module.in_features, module.out_features, device="meta")
    else:
        plain = _plain_convolution(module)
    if not torch.equal(module.weight, used.weight):
        with torch.no_grad():
            module.weight.copy_(used.weight)
    plain.weight, plain.bias = module.weight, module.bias
    plain.train(module.training)
    return plain  # type: ignore[no-any-return]


def _plain_convolution(module: Any) -> nn.Module:
    kind = next(kind for kind in _CONVOLUTIONS if isinstance(module, kind))
    # biotorch's forward pass pads with zeros whatever its padding_mode says.
    padding_mode: Any = "zeros" if _is_biotorch(module) else module.padding_mode
    return kind(
        module.in_channels,
        module.out_channels,
        module.kernel_size,
        stride=module.stride,
        padding=module.padding,
        dilation=module.dilation,
        groups=module.groups,
        padding_mode=padding_mode,
        device="meta",
    )


def _check(model: nn.Module, twin: nn.Module, x: Tensor, calls: _Calls) -> None:
    """Refuse a twin whose outputs differ, by the name of the module where it begins."""
    given, plain = dict(calls.model.named_modules()), dict(twin.named_modules())
    for name, args in calls.inputs.items():
        difference = _difference(given[name], plain[name], *args)
        if not difference <= _TOLERANCE:
            raise _unequal(model, f"at module {name}", difference)
    # Dropout masks need not agree: a rule that draws in its forward pass shifts the stream.
    difference = _difference(duplicate(model).eval(), duplicate(twin).eval(), x)
    if not difference <= _TOLERANCE:
        raise _unequal(model, "in its output", difference)


def _difference(given: nn.Module, plain: nn.Module, *args: Tensor) -> float:
    """Return how far two modules are apart, in float64 where rounding would be an excuse."""
    difference = _distance(given, plain, *args)
    if difference <= _TOLERANCE:
        return difference
    try:
        exact = (arg.double() if arg.is_floating_point() else arg for arg in args)
        return _distance(duplicate(given).double(), duplicate(plain).double(), *exact)
    except MeasurementError:
        return difference


def _distance(given: nn.Module, plain: nn.Module, *args: Tensor) -> float:
    """Return the norm of the difference of all outputs over the norm of those expected."""
    with torch.no_grad():
        expected = list(tensors_in(run(given, *args)))
        actual = list(tensors_in(run(plain, *args)))
    if [tuple(a.shape) for a in expected] != [tuple(b.shape) for b in actual]:
        return float("inf")
    pairs = zip(expected, actual, strict=True)
    scale = math.hypot(*(_norm(a) for a in expected))
    error = math.hypot(*(_norm(a.double() - b.double()) for a, b in pairs))
    return error / scale if scale else error


def _norm(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor.double()))


def _unequal(model: nn.Module, where: str, difference: float) -> MeasurementError:
    return MeasurementError(
        f"The plain twin of {type(model).__name__} differs from it {where} by {difference:.1e} of "
        f"the norm; give the network that was trained with ordinary layers: --plain-model SPEC."
    )

"""Forward hooks on the measured modules, which keep gradient edges and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils.parametrize import is_parametrized

from alignlab.errors import MeasurementError
from alignlab.kernels.layers import linear_part

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from alignlab.engine.swap import WeightSwap

__all__ = ["MEASURED", "Attachment", "Call", "has_own_weight", "measured_modules", "plain_name"]

MEASURED = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
"""Modules that are layers: their calls are measured."""

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class Call:
    """One call of a measured module.

    Attributes:
        name: Qualified module name, with ``@k`` for the k-th call.
        module_name: Qualified module name.
        module: The module.
        output_edge: Where the gradient of the pre-activation is read.
        output_shape: Shape of the output.
        input: The input, detached.
        input_edge: Where the gradient of the input is read; None where it has none.
        weight_seen: Whether autograd saved the weight through the exchange.
        weight: The weight that acted, without a graph; of a parametrised module, what its
            parametrisation yielded.
        weight_edge: Where the gradient of a weight that is computed from other tensors is
            read; None where the weight is a parameter or has no gradient.
        output_type: Floating type of the output.
    """

    name: str
    module_name: str
    module: nn.Module
    output_edge: GradientEdge
    output_shape: tuple[int, ...]
    input: Tensor
    input_edge: GradientEdge | None
    weight_seen: bool
    weight: Tensor
    weight_edge: GradientEdge | None
    output_type: torch.dtype

    @property
    def weight_source(self) -> Tensor | GradientEdge | None:
        """Where the weight's gradient is asked for; None where it has none."""
        if self.weight_edge is not None:
            return self.weight_edge
        return self.module.weight if has_own_weight(self.module) else None  # type: ignore[return-value]


def measured_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Return the modules whose calls are layers, by qualified name.

    Raises:
        MeasurementError: The model has none, or has weights without values.
    """
    # Multi-head attention takes the weight of its output projection and never calls it.
    uncalled = {m.out_proj for m in model.modules() if isinstance(m, nn.MultiheadAttention)}
    found: dict[str, nn.Module] = {
        plain_name(name): m
        for name, m in model.named_modules()
        if isinstance(m, MEASURED) and m not in uncalled
    }
    if not found:
        msg = (
            f"{type(model).__name__} has no Linear and no Conv or ConvTranspose module, so there "
            "is nothing to measure; give the model that holds the layers."
        )
        raise MeasurementError(msg)
    for name, parameter in model.named_parameters():
        _require_values(name, parameter)
    return found


def plain_name(name: str) -> str:
    """Return a qualified name without what compilation puts into it."""
    return name.replace("_orig_mod.", "")


def has_own_weight(module: nn.Module) -> bool:
    """Return whether a module's weight is a parameter, not computed from other tensors."""
    if is_parametrized(module, "weight"):
        return False
    return isinstance(module.weight, nn.Parameter)


def _require_values(name: str, parameter: Tensor) -> None:
    if isinstance(parameter, UninitializedParameter):
        owner = name.rpartition(".")[0]
        msg = f"The weight of {owner!r} has no shape yet; run one batch through the model first."
        raise MeasurementError(msg)
    if parameter.is_meta:
        msg = (
            f"The parameter {name!r} is on the meta device and has no values; load or initialise "
            "the model on a real device (model.to_empty(device=...), then its weights)."
        )
        raise MeasurementError(msg)
    if parameter.layout != torch.strided:
        msg = f"The parameter {name!r} is stored as {parameter.layout}; make it dense."
        raise MeasurementError(msg)


class _Open(NamedTuple):
    """A module that is running."""

    name: str
    input: Tensor
    edge: GradientEdge | None
    packed: int


class Attachment:
    """Hooks on every measured module for the length of one forward pass."""

    def __init__(self, model: nn.Module, swap: WeightSwap) -> None:
        """Prepare; hooks are placed on entering the context."""
        self.calls: list[Call] = []
        self.without_gradient: list[str] = []
        self._modules = measured_modules(model)
        self._swap = swap
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._open: list[_Open] = []
        self._count: dict[str, int] = {}
        self._computed: dict[str, Tensor] = {}
        self._checked: dict[str, Callable[[str, Any, Tensor, Tensor, Any], None]] = {}

    def __enter__(self) -> Attachment:
        """Place the hooks."""
        for name, module in self._modules.items():
            if isinstance(module, _TRANSPOSED):
                self._checked[name] = _require_own_size
            elif _base(module) not in MEASURED or "forward" in vars(module):
                self._checked[name] = _require_own_map
            self._handles.append(module.register_forward_pre_hook(self._before(name)))
            self._handles.append(module.register_forward_hook(self._after(name)))
            if is_parametrized(module, "weight"):
                source = module.get_submodule("parametrizations.weight")
                self._handles.append(source.register_forward_hook(self._yielded(name)))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._open.clear()
        self._computed.clear()

    def _before(self, name: str) -> Any:
        def hook(module: nn.Module, arguments: tuple[Any, ...]) -> None:
            if _is_recomputation() or not torch.is_grad_enabled():
                return
            if not arguments or not isinstance(arguments[0], Tensor):
                msg = f"The module {name!r} was called without a tensor as its first argument."
                raise MeasurementError(msg)
            x = arguments[0]
            edge = get_gradient_edge(x) if x.requires_grad else None
            self._open.append(_Open(name, x.detach(), edge, self._swap.packed[name]))
            self._swap.caller = name
            if "weight" in vars(module):
                self._note(name, module.weight)  # set by a hook, as old weight normalisation does

        return hook

    def _yielded(self, name: str) -> Any:
        def hook(_module: nn.Module, _arguments: tuple[Any, ...], weight: Any) -> None:
            if not _is_recomputation() and torch.is_grad_enabled():
                self._note(name, weight)

        return hook

    def _note(self, name: str, weight: Any) -> None:
        assert isinstance(weight, Tensor)
        self._computed[name] = weight
        self._swap.watch(name, weight.detach())

    def _after(self, name: str) -> Any:
        def hook(module: nn.Module, _arguments: tuple[Any, ...], output: Any) -> Any:
            if _is_recomputation() or not torch.is_grad_enabled():
                return None
            opened = self._open.pop()
            self._swap.caller = self._open[-1].name if self._open else ""
            weight = self._computed.get(name)
            if weight is None:
                weight = module._parameters.get("weight")
            if weight is None:
                weight = _cached(module)
            if name in self._checked:
                self._checked[name](name, module, opened.input, weight, output)
            if not output.requires_grad:
                self.without_gradient.append(name)
                return None
            fixed = torch.ops.aten._unsafe_view(output, output.shape) if output._is_view() else None
            out = output if fixed is None else fixed
            count = self._count[name] = self._count.get(name, 0) + 1
            computed = weight.grad_fn is not None
            seen = opened.edge is None or self._swap.packed[name] > opened.packed
            self.calls.append(
                Call(
                    name=name if count == 1 else f"{name}@{count}",
                    module_name=name,
                    module=module,
                    output_edge=get_gradient_edge(out),
                    output_shape=tuple(out.shape),
                    input=opened.input,
                    input_edge=opened.edge,
                    weight_seen=seen,
                    weight=weight.detach() if computed else weight,
                    weight_edge=get_gradient_edge(weight) if computed else None,
                    output_type=out.dtype,
                )
            )
            return fixed

        return hook


def _cached(module: nn.Module) -> Tensor:
    """Return the weight of a parametrisation that is cached, so that it yields nothing anew."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight


def _require_own_map(name: str, module: Any, x: Tensor, weight: Tensor, output: Any) -> None:
    """Refuse a subclass that does something else with its weight than its base class does."""
    with torch.no_grad():
        expected = linear_part(module, x, weight)
        if isinstance(module.bias, Tensor):
            axes = (1,) * (weight.dim() - 2)
            expected = expected + module.bias.reshape(-1, *axes)
    same = isinstance(output, Tensor) and output.shape == expected.shape
    if not same or not torch.allclose(output, expected, rtol=1e-4, atol=1e-5):
        msg = (
            f"The module {name!r} ({type(module).__name__}) does not apply its weight as "
            "its base class does, so its backward weight is not known; give an equal model of "
            "plain modules (--plain-model SPEC)."
        )
        raise MeasurementError(msg)


def _base(module: nn.Module) -> type:
    """Return the class whose forward pass a module has."""
    kind = type(module)
    if kind is nn.modules.linear.NonDynamicallyQuantizableLinear:
        return nn.Linear
    # A parametrised module has a class of its own, which adds the property alone.
    return kind.__base__ or kind if is_parametrized(module) else kind


def _require_own_size(name: str, module: Any, x: Tensor, weight: Tensor, output: Any) -> None:
    """Refuse an output size that was asked for in the call and is not the module's own."""
    if _base(module) not in MEASURED or "forward" in vars(module):
        _require_own_map(name, module, x, weight, output)
    own = tuple(
        (n - 1) * s - 2 * p + d * (k - 1) + o + 1
        for n, s, p, d, k, o in zip(
            x.shape[-len(module.kernel_size) :],
            module.stride,
            module.padding,
            module.dilation,
            module.kernel_size,
            module.output_padding,
            strict=True,
        )
    )
    if tuple(output.shape[-len(own) :]) != own:
        msg = (
            f"The module {name!r} was called with an output_size that its output_padding does "
            "not give; set output_padding when it is built."
        )
        raise MeasurementError(msg)


def _is_recomputation() -> bool:
    """Whether a backward pass is running: activation checkpointing recomputes in it."""
    return bool(torch._C._current_graph_task_id() != -1)

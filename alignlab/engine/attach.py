"""Forward hooks on the measured modules, which keep gradient edges and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils.parametrize import is_parametrized

from alignlab.errors import MeasurementError
from alignlab.kernels.layers import linear_part

if TYPE_CHECKING:
    from types import TracebackType

    from alignlab.engine.swap import WeightSwap

__all__ = ["MEASURED", "Attachment", "Call", "measured_modules"]

MEASURED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Modules that are layers: their calls are measured."""

OPAQUE = (
    nn.MultiheadAttention,
    nn.RNNBase,
    nn.RNNCellBase,
    nn.Bilinear,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
"""Modules with weights inside that no site of this version can see."""


@dataclass(frozen=True)
class Call:
    """One call of a measured module.

    Attributes:
        name: Qualified module name, with ``@k`` for the k-th call.
        module_name: Qualified module name.
        module: The module.
        output_edge: Where the gradient of the pre-activation is read.
        output_shape: Shape of the output.
        input: The input, detached; None where passes are streamed.
        input_shape: Its shape.
        input_dtype: Its precision.
        input_edge: Where the gradient of the input is read; None where it has none.
        weight_seen: Whether autograd saved the weight through the exchange.
    """

    name: str
    module_name: str
    module: nn.Module
    output_edge: GradientEdge
    output_shape: tuple[int, ...]
    input: Tensor | None
    input_shape: tuple[int, ...]
    input_dtype: torch.dtype
    input_edge: GradientEdge | None
    weight_seen: bool


def measured_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Return the modules whose calls are layers, by qualified name.

    Raises:
        MeasurementError: The model has none, or has modules whose weights cannot be seen.
    """
    found: dict[str, nn.Module] = {
        name: m for name, m in model.named_modules() if isinstance(m, MEASURED)
    }
    opaque = {name: m for name, m in model.named_modules() if isinstance(m, OPAQUE)}
    if opaque:
        name, module = next(iter(opaque.items()))
        msg = (
            f"The module {name!r} ({type(module).__name__}) holds weights that this version "
            "does not measure; it measures Linear and Conv1d/2d/3d. Give a model whose weights "
            "are in such modules (--plain-model)."
        )
        raise MeasurementError(msg)
    inside = [name for name in found if any(name.startswith(f"{o}.") for o in opaque)]
    found = {name: m for name, m in found.items() if name not in inside}
    if not found:
        msg = (
            f"{type(model).__name__} has no Linear and no Conv1d/2d/3d module, so there is "
            "nothing to measure; give the model that holds the layers."
        )
        raise MeasurementError(msg)
    for place, measured in found.items():
        _require_own_weight(place, measured)
    return found


def _require_own_weight(name: str, module: nn.Module) -> None:
    weight = module.weight
    if isinstance(weight, UninitializedParameter):
        msg = f"The weight of {name!r} has no shape yet; run one batch through the model first."
        raise MeasurementError(msg)
    if is_parametrized(module, "weight") or not isinstance(weight, nn.Parameter):
        msg = (
            f"The weight of {name!r} is computed from other tensors, as weight and spectral "
            "normalisation do; make it a plain weight first "
            "(torch.nn.utils.parametrize.remove_parametrizations)."
        )
        raise MeasurementError(msg)


class Attachment:
    """Hooks on every measured module for the length of one forward pass.

    Attributes:
        calls: Calls in order.
        without_gradient: Modules that were called where no gradient flows.
        recomputed: Whether a backward pass ran a module again, as checkpointing does.
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        swap: WeightSwap | None,
        *,
        on_call: Callable[[Call, Tensor], None] | None = None,
    ) -> None:
        """Prepare; hooks are placed on entering the context.

        Args:
            modules: Measured modules by name.
            swap: What the weights are saved through, if anything.
            on_call: Told of every call with its input as it ends; calls then keep no
                inputs, so that memory is freed as it would be.
        """
        self.calls: list[Call] = []
        self.recomputed = False
        self._on_call = on_call
        self.without_gradient: list[str] = []
        self._modules = modules
        self._swap = swap
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._open: list[tuple[str, Tensor, GradientEdge | None, int]] = []
        self._count: dict[str, int] = {}

    def __enter__(self) -> Attachment:
        """Place the hooks."""
        for name, module in self._modules.items():
            if self._swap is not None:
                self._handles.append(module.register_forward_pre_hook(self._before(name)))
            self._handles.append(module.register_forward_hook(self._after(name)))
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

    def _before(self, name: str) -> Any:
        def hook(_module: nn.Module, arguments: tuple[Any, ...]) -> None:
            if _is_recomputation():
                self.recomputed = True
                return
            if not torch.is_grad_enabled():
                return
            if not arguments or not isinstance(arguments[0], Tensor):
                msg = f"The module {name!r} was called without a tensor as its first argument."
                raise MeasurementError(msg)
            x = arguments[0]
            edge = get_gradient_edge(x) if x.requires_grad else None
            packed = 0
            if self._swap is not None:
                packed, self._swap.caller = self._swap.packed[name], name
            self._open.append((name, x.detach(), edge, packed))

        return hook

    def _after(self, name: str) -> Any:
        def hook(module: nn.Module, _arguments: tuple[Any, ...], output: Any) -> Any:
            if _is_recomputation() or not torch.is_grad_enabled():
                return None
            if self._swap is None:
                x = _arguments[0]
                edge = get_gradient_edge(x) if x.requires_grad else None
                seen = True
            else:
                _, x, edge, before = self._open.pop()
                seen = edge is None
                self._swap.caller = self._open[-1][0] if self._open else ""
                seen = seen or self._swap.packed[name] > before
            _require_own_map(name, module, x, output)
            if not output.requires_grad:
                self.without_gradient.append(name)
                return None
            fixed = torch.ops.aten._unsafe_view(output, output.shape) if output._is_view() else None
            out = output if fixed is None else fixed
            count = self._count[name] = self._count.get(name, 0) + 1
            call = Call(
                name=name if count == 1 else f"{name}@{count}",
                module_name=name,
                module=module,
                output_edge=get_gradient_edge(out),
                output_shape=tuple(out.shape),
                input=None if self._on_call is not None else x,
                input_shape=tuple(x.shape),
                input_dtype=x.dtype,
                input_edge=edge,
                weight_seen=seen,
            )
            self.calls.append(call)
            if self._on_call is not None:
                self._on_call(call, x)
            return fixed

        return hook


def _require_own_map(name: str, module: nn.Module, x: Tensor, output: Any) -> None:
    """Refuse a subclass that does something else with its weight than its base class does."""
    plain = type(module) in MEASURED or isinstance(
        module, nn.modules.linear.NonDynamicallyQuantizableLinear
    )
    if plain and "forward" not in vars(module):
        return
    weight = module.weight
    assert isinstance(weight, Tensor)
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


def _is_recomputation() -> bool:
    """Whether a backward pass is running: activation checkpointing recomputes in it."""
    return bool(torch._C._current_graph_task_id() != -1)

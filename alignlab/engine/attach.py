"""Forward hooks on the measured modules, which keep gradient edges and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge
from torch.nn.utils.parametrize import is_parametrized

from alignlab.engine.graph import edge_of
from alignlab.engine.modules import has_own_weight
from alignlab.engine.own_map import needs_check, require_own_map
from alignlab.errors import MeasurementError

if TYPE_CHECKING:
    from types import TracebackType

    from alignlab.engine.swap import WeightSwap

__all__ = [
    "Attachment",
    "Call",
]


class Call(NamedTuple):
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
    input: Tensor | None
    input_shape: tuple[int, ...]
    input_dtype: torch.dtype
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


class _Open(NamedTuple):
    """A module that is running."""

    name: str
    input: Tensor
    edge: GradientEdge | None
    packed: int


class Attachment:
    """Hooks on every measured module for the length of one forward pass.

    Attributes:
        calls: Calls in order.
        without_gradient: Modules that were called where no gradient flows.
        recomputed: Whether a backward pass ran a module again, as checkpointing does.
        on_call: Told of every call with its input as it ends.
        on_failure: Told what went wrong in a hook, so that the forward pass goes on; without it
            the hook raises.
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        swap: WeightSwap | None,
        *,
        on_call: Callable[[Call, Tensor], None] | None = None,
        on_failure: Callable[[Exception], None] | None = None,
    ) -> None:
        """Prepare; hooks are placed on entering the context.

        Args:
            modules: Measured modules by name.
            swap: What the weights are saved through, if anything.
            on_call: Told of every call with its input as it ends; calls then keep no
                inputs, so that memory is freed as it would be.
            on_failure: Told what went wrong in a hook; without it the hook raises.
        """
        self.calls: list[Call] = []
        self.without_gradient: list[str] = []
        self.recomputed = False
        self._inputs: list[Tensor] = []
        self.on_call, self.on_failure = on_call, on_failure
        self._swap = swap
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._open: list[_Open] = []
        self._count: dict[str, int] = {}
        self._computed: dict[str, Tensor] = {}
        self._before_calls: list[tuple[nn.Module, Any]] = []
        self._after_calls: list[tuple[nn.Module, Any]] = []
        for name, module in modules.items():
            if swap is not None or not has_own_weight(module):
                self._before_calls.append((module, self._guarded(module, self._before(name))))
            after = self._after(name, is_checked=needs_check(module))
            self._after_calls.append((module, self._guarded(module, after)))
            if is_parametrized(module, "weight"):
                source = module.get_submodule("parametrizations.weight")
                self._after_calls.append((source, self._guarded(source, self._yielded(name))))

    def __enter__(self) -> Attachment:
        """Place the hooks, and forget what was seen before."""
        self.calls, self.without_gradient, self.recomputed = [], [], False
        self._inputs.clear()
        self._count.clear()
        self._handles += [m.register_forward_pre_hook(hook) for m, hook in self._before_calls]
        self._handles += [m.register_forward_hook(hook) for m, hook in self._after_calls]
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

    def released(self) -> bool:
        """Let go of the graph; return whether hooks of the user's wait for gradients of inputs.

        Hooks and attachment hold one another; the graph must not wait for that to be found.
        """
        hooked = any(x._backward_hooks for x in self._inputs)
        self.calls = []
        self._inputs.clear()
        return hooked

    def _guarded(self, module: nn.Module, action: Callable[..., Any]) -> Any:
        """Return a hook for calls of one module that may fail without breaking off the pass."""

        def hook(called: nn.Module, *given: Any) -> Any:
            # A copy of a module that is made meanwhile has its hooks too.
            if called is not module or not self._is_live():
                return None
            try:
                return action(called, *given)
            except Exception as error:
                if self.on_failure is None:
                    raise
                self.on_failure(error)
                return None

        return hook

    def _before(self, name: str) -> Any:
        def hook(module: nn.Module, arguments: tuple[Any, ...]) -> None:
            packed = 0
            if self._swap is not None:
                packed, self._swap.caller = self._swap.packed[name], name
            self._open.append(_opened(name, arguments, packed))
            if "weight" in vars(module):
                self._note(name, module.weight)  # set by a hook, as old weight normalisation does

        return hook

    def _yielded(self, name: str) -> Any:
        def hook(_module: nn.Module, _arguments: tuple[Any, ...], weight: Any) -> None:
            self._note(name, weight)

        return hook

    def _note(self, name: str, weight: Any) -> None:
        assert isinstance(weight, Tensor)
        self._computed[name] = weight
        if self._swap is not None:
            self._swap.watch(name, weight.detach())

    def _after(self, name: str, *, is_checked: bool) -> Any:
        def hook(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> Any:
            # Without an exchange nothing of the time before the call is of interest.
            is_open = bool(self._open) and self._open[-1].name == name
            opened = self._open.pop() if is_open else _opened(name, arguments, 0)
            if self._swap is not None:
                self._swap.caller = self._open[-1].name if self._open else ""
            weight = self._weight(name, module)
            if is_checked:
                require_own_map(name, module, opened.input, weight, output)
            if not output.requires_grad:
                self.without_gradient.append(name)
                return None
            fixed = torch.ops.aten._unsafe_view(output, output.shape) if output._is_view() else None
            call = self._call(name, module, opened, weight, output if fixed is None else fixed)
            self.calls.append(call)
            if self.on_call is None:
                self._inputs.append(opened.input)
            else:
                self.on_call(call, opened.input)
            return fixed

        return hook

    def _call(
        self, name: str, module: nn.Module, opened: _Open, weight: Tensor, output: Tensor
    ) -> Call:
        count = self._count[name] = self._count.get(name, 0) + 1
        computed = weight.grad_fn is not None
        seen = opened.edge is None
        if self._swap is not None:
            seen = seen or self._swap.packed[name] > opened.packed
        x = opened.input
        return Call(
            name if count == 1 else f"{name}@{count}",
            name,
            module,
            edge_of(output),
            tuple(output.shape),
            x.detach() if self.on_call is None else None,
            tuple(x.shape),
            x.dtype,
            opened.edge,
            seen,
            weight.detach() if computed else weight,
            edge_of(weight) if computed else None,
            output.dtype,
        )

    def _is_live(self) -> bool:
        """Whether a call is one of the forward pass, with gradients."""
        if torch._C._current_graph_task_id() != -1:
            # A backward pass is running: activation checkpointing recomputes in it.
            self.recomputed = True
            return False
        return torch.is_grad_enabled()

    def _weight(self, name: str, module: nn.Module) -> Tensor:
        """Return the weight that acted in the call that ends."""
        weight = self._computed.get(name)
        if weight is None:
            weight = module._parameters.get("weight")
        if weight is None:
            # A cached parametrisation yields nothing anew.
            weight = module.weight  # type: ignore[assignment]
        assert isinstance(weight, Tensor)
        return weight


def _opened(name: str, arguments: tuple[Any, ...], packed: int) -> _Open:
    """Return what is known of a call before it runs."""
    if not arguments or not isinstance(arguments[0], Tensor):
        msg = f"The module {name!r} was called without a tensor as its first argument."
        raise MeasurementError(msg)
    x = arguments[0]
    return _Open(name, x, edge_of(x) if x.requires_grad else None, packed)

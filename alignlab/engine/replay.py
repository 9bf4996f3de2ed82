"""The loss of a captured forward pass many times over, each time with something changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, final

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from alignlab.engine.evaluation import evaluated
from alignlab.engine.forward import is_compiled, plainly

if TYPE_CHECKING:
    from alignlab.engine.capture import Capture
    from alignlab.engine.layout import Layout
    from alignlab.sites import Layer

__all__ = ["Replay"]

MOST_KEPT = 2**28
"""Entries of kept outputs above which every run computes all of the forward pass."""

Action = Callable[..., Tensor]


@final
class Replay:
    """The loss at parameters, and that with some parameters changed or pre-activations moved.

    Every run has the batch, the random states and the buffers of the captured pass, and nothing of
    it remains in the model. Layers that run before the first thing that was changed return what
    they returned in the first run, without computing it again.

    Attributes:
        precision: Floating type of all runs.
        loss: That of the first run, in which nothing is changed, a scalar.
    """

    def __init__(
        self,
        capture: Capture,
        *,
        precision: torch.dtype,
        parameters: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> None:
        """Run the forward pass once.

        Args:
            capture: A forward pass, held open.
            precision: Floating type in which parameters, buffers and batch are taken.
            parameters: Values by name that take the place of the present ones in all runs.
        """
        self._capture: Final = capture
        self._compiled: Final = is_compiled(capture.model)
        self._parameters: Final = dict(parameters)
        self._modules: Final = {each.module: capture.module_of(each) for each in capture.layers}
        self._owners: Final = _owners(capture.model, self._modules)
        self._first_use: Final = _first_use(capture.layout, capture.model)
        self._order: Final[dict[str, int]] = {}
        self._kept: Final[list[Tensor | None]] = []
        self._n_kept = 0
        self.precision: Final = precision
        self.loss: Final = self._run({}, _Recording(self._order, self._keep))

    def changed(
        self,
        parameters: Mapping[str, Tensor] = MappingProxyType({}),
        *,
        moved: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> Tensor:
        """Return the loss with something changed.

        Args:
            parameters: Values by name; those left out are as in the first run.
            moved: What is added to pre-activations, by layer, shape ``(n_samples, *shape)``.

        Returns:
            Scalar, detached.
        """
        starts = [self._order.get(call, 0) for name in parameters for call in self._calls_of(name)]
        starts += [self._order.get(name, 0) for name in moved]
        start = min(starts, default=len(self._kept))
        return self._run(parameters, _Resuming(self._kept[:start], moved))

    def can_move(self, layer: Layer) -> bool:
        """Return whether a layer's call can be told from others of its module.

        It cannot where the module also runs without a gradient, or where the loss does not depend
        on it: such calls are no layers, and count here.
        """
        known = sum(each.module == layer.module for each in self._capture.layers)
        return known == sum(_module_of(call) == layer.module for call in self._order)

    def _calls_of(self, parameter: str) -> list[str]:
        """Return calls of which the first is the first on which a parameter acts.

        A call that the graph knows may have run before without a gradient, under its own name.
        """
        return [self._first_use.get(parameter, ""), *self._owners.get(parameter, ())]

    def _keep(self, module: nn.Module, output: Tensor) -> None:
        """Keep the output of a call that does nothing but return it, while there is room."""
        is_plain = type(module).__module__.startswith("torch.nn.modules.")
        has_effects = is_parametrized(module) or next(module.buffers(), None) is not None
        self._n_kept += output.numel()
        is_kept = is_plain and not has_effects and self._n_kept <= MOST_KEPT
        # What follows may change the output in place.
        self._kept.append(output.detach().clone() if is_kept else None)

    def _run(self, parameters: Mapping[str, Tensor], follow: _Recording | _Resuming) -> Tensor:
        given = self._capture
        with given.state.again(given.model), plainly(compiled=self._compiled), ExitStack() as stack:
            for name, module in self._modules.items():
                stack.enter_context(_instead(module, partial(follow, name, module)))
            return evaluated(
                *(given.model, given.loss_function, given.x, given.y),
                parameters=self._parameters | dict(parameters),
                precision=self.precision,
            )


class _Recording:
    """Notes in which order calls end, and hands their outputs on."""

    def __init__(self, order: dict[str, int], keep: Callable[[nn.Module, Tensor], None]) -> None:
        self._order, self._keep = order, keep
        self._names = _Names()

    def __call__(
        self, name: str, module: nn.Module, plain: Action, *arguments: Any, **named: Any
    ) -> Tensor:
        output = plain(*arguments, **named)
        self._order[self._names.following(name)] = len(self._order)
        self._keep(module, output)
        return output


class _Resuming:
    """Returns what was kept of the first calls, and adds to the outputs of others."""

    def __init__(self, kept: list[Tensor | None], moved: Mapping[str, Tensor]) -> None:
        self._kept, self._moved = kept, moved
        self._names = _Names()
        self._number = 0

    def __call__(
        self, name: str, _module: nn.Module, plain: Action, *arguments: Any, **named: Any
    ) -> Tensor:
        number, call = self._number, self._names.following(name)
        self._number += 1
        kept = self._kept[number] if number < len(self._kept) else None
        output = plain(*arguments, **named) if kept is None else kept.clone()
        by = self._moved.get(call)
        return output if by is None else output + by.to(output)


class _Names:
    """Names of calls: that of the module, with ``@k`` from the second on."""

    def __init__(self) -> None:
        self._count: dict[str, int] = {}

    def following(self, module: str) -> str:
        """Return the name of a module's next call."""
        count = self._count[module] = self._count.get(module, 0) + 1
        return module if count == 1 else f"{module}@{count}"


@contextmanager
def _instead(module: nn.Module, action: Callable[..., Tensor]) -> Iterator[None]:
    """Let calls of one module run an action, which is given what would have run."""
    own = vars(module)
    had, before = "forward" in own, own.get("forward")
    own["forward"] = partial(action, module.forward)
    try:
        yield
    finally:
        if had:
            own["forward"] = before
        else:
            del own["forward"]


def _module_of(call: str) -> str:
    return call.rpartition("@")[0] or call


def _owners(model: nn.Module, modules: Mapping[str, nn.Module]) -> dict[str, list[str]]:
    """Return the modules of layers that hold each parameter, by its name."""
    names = {id(p): name for name, p in model.named_parameters()}
    found: dict[str, list[str]] = {}
    for module, each in modules.items():
        for parameter in each.parameters():
            found.setdefault(names[id(parameter)], []).append(module)
    return found


def _first_use(layout: Layout, model: nn.Module) -> dict[str, str]:
    """Return the first call on whose output each parameter acts, by name of the parameter."""
    names = {id(p): name for name, p in model.named_parameters()}
    found: dict[str, str] = {}
    seen: set[Any] = set()
    for call in layout.calls:
        stack = [call.output_edge.node]
        while stack:
            node = stack.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            variable = getattr(node, "variable", None)
            if id(variable) in names:
                found.setdefault(names[id(variable)], call.name)
            stack += [following for following, _ in node.next_functions]
    return found

"""The loss of a captured forward pass many times over, each time with something changed."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, final

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from alignlab.engine.evaluation import evaluated
from alignlab.engine.forward import is_compiled, plainly
from alignlab.engine.repeating import Recording, Resuming, instead

if TYPE_CHECKING:
    from alignlab.engine.capture import Capture
    from alignlab.engine.layout import Layout
    from alignlab.sites import Layer

__all__ = ["Replay", "loss_of"]


def loss_of(
    capture: Capture,
    parameters: Mapping[str, Tensor],
    *,
    precision: torch.dtype,
    loss_precision: torch.dtype | None = None,
) -> Tensor:
    """Return the loss of a captured batch with other parameters, as ``Capture.evaluate`` does.

    Args:
        capture: A forward pass.
        parameters: Values by name; those left out stay as they are.
        precision: Floating type in which parameters, buffers and batch are taken.
        loss_precision: That in which the loss is taken of the output; None for the same.

    Returns:
        Scalar, detached.
    """
    compiled = is_compiled(capture.model)
    with capture.state.again(capture.model), plainly(compiled=compiled):
        return evaluated(
            *(capture.model, capture.loss_function, capture.x, capture.y),
            parameters=parameters,
            precision=precision,
            loss_precision=loss_precision,
        )


@final
class Replay:
    """The loss at parameters, and that with some parameters changed or pre-activations moved.

    Every run has the batch, the random states and the buffers of the captured pass, and nothing of
    it remains in the model. Modules that end before anything that was changed can act on them
    return what they returned in the first run, without computing it again; not where they drew
    numbers then, or changed their inputs or what they hold.

    Attributes:
        loss: That of the first run, in which nothing is changed, a scalar.
    """

    def __init__(
        self,
        capture: Capture,
        *,
        precision: torch.dtype,
        loss_precision: torch.dtype | None = None,
        parameters: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> None:
        """Run the forward pass once, and a second time from its end.

        Args:
            capture: A forward pass, held open.
            precision: Floating type in which parameters, buffers and batch are taken.
            loss_precision: That in which the loss is taken of the output; None for the same.
            parameters: Values by name that take the place of the present ones in all runs.
        """
        self._capture: Final = capture
        self._parameters: Final = dict(parameters)
        layers = {each.module: capture.module_of(each) for each in capture.layers}
        self._modules: Final = _around(capture.model, layers) | layers
        self._owners: Final = _owners(capture.model, self._modules)
        self._first_use: Final = _first_use(capture.layout, capture.model)
        self._precisions: Final = (precision, loss_precision)
        first = Recording(frozenset(layers))
        self.loss: Final = self._run({}, first)
        self._order: Final = first.order
        self._done = first.done
        if not self._repeats():
            self._done = {name: one for name, one in first.done.items() if name in first.order}

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
        start = min(starts, default=len(self._order))
        running = {owner for name in parameters for owner in self._owners.get(name, ())}
        follow = Resuming(self._done, self._order, start, running=running, moved=moved)
        return self._run(parameters, follow)

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
        layers = [name for name in self._owners.get(parameter, ()) if name in self._order]
        return [self._first_use.get(parameter, ""), *layers]

    def _repeats(self) -> bool:
        """Return whether the loss is the same where all that can be is given again."""
        nothing_runs = Resuming(self._done, self._order, len(self._order) + 1)
        try:
            return torch.equal(self._run({}, nothing_runs), self.loss)
        except Exception:
            # What the model misses then, its modules leave in a way that nobody has seen.
            return False

    def _run(self, parameters: Mapping[str, Tensor], follow: Recording | Resuming) -> Tensor:
        precision, loss_precision = self._precisions
        with ExitStack() as stack:
            for name, module in self._modules.items():
                stack.enter_context(instead(module, partial(follow, name, module)))
            return loss_of(
                self._capture,
                self._parameters | dict(parameters),
                precision=precision,
                loss_precision=loss_precision,
            )


def _around(model: nn.Module, layers: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Return the modules that a model is made of beside its layers, by name.

    Those that compute weights are parts of the modules that hold them.
    """
    seen = {id(model), *(id(each) for layer in layers.values() for each in layer.modules())}
    found = {}
    for name, module in model.named_modules():
        if id(module) in seen or isinstance(module, torch.jit.ScriptModule):
            continue
        if not is_parametrized(module):
            found[name] = module
    return found


def _module_of(call: str) -> str:
    return call.rpartition("@")[0] or call


def _owners(model: nn.Module, modules: Mapping[str, nn.Module]) -> dict[str, list[str]]:
    """Return the modules that hold each parameter, themselves or in others, by its name."""
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
        stack: list[Any] = [call.output_edge.node]
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

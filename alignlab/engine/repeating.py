"""What calls of modules did in one forward pass, given again in others."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, final

from torch import Tensor, nn

from alignlab.engine.purity import Watch

__all__ = ["Done", "Recording", "Resuming", "instead"]

MOST_KEPT = 2**28
"""Entries of kept outputs above which no more are kept."""

Action = Callable[..., Any]


@final
@dataclass(frozen=True)
class Done:
    """One call of the first run.

    Attributes:
        output: What it returned; None where that cannot be given again without the call.
        ended: Layers that had run by its end.
        inside: How often it called each module, by name.
    """

    output: Tensor | None
    ended: int
    inside: Mapping[str, int]


class Recording:
    """Notes in which order layers run, and what calls do.

    Attributes:
        order: Number of each layer's call, by its name.
        done: What each call of any module did, likewise.
    """

    def __init__(self, layers: frozenset[str]) -> None:
        """Take the names of the modules that are layers."""
        self.order: dict[str, int] = {}
        self.done: dict[str, Done] = {}
        self._layers = layers
        self._names = _Names()
        self._n_kept = 0

    def __call__(
        self, name: str, module: nn.Module, plain: Action, *arguments: Any, **named: Any
    ) -> Any:
        """Run a call, and note it."""
        call, before = self._names.following(name), dict(self._names.count)
        watch = Watch(module, arguments, named)
        output = plain(*arguments, **named)
        inside = {n: k - before.get(n, 0) for n, k in self._names.count.items()}
        if name in self._layers:
            self.order[call] = len(self.order)
        kept = None
        if watch.allows(output):
            self._n_kept += output.numel()
            # What follows may change the output in place.
            kept = output.detach().clone() if self._n_kept <= MOST_KEPT else None
        inside = {n: k for n, k in inside.items() if k}
        self.done[call] = Done(kept, len(self.order), inside)
        return output


class Resuming:
    """Gives outputs of calls that ended before a layer again, and moves those of layers.

    Between the end of the last layer before that and its own beginning everything runs: there
    parameters of no layer act.
    """

    def __init__(
        self,
        done: Mapping[str, Done],
        order: Mapping[str, int],
        start: int,
        *,
        running: Collection[str] = (),
        moved: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> None:
        """Take what was recorded.

        Args:
            done: By name of the call.
            order: Number of each layer's call.
            start: Number of the layer from which on everything runs.
            running: Modules that run wherever they are called.
            moved: What is added to outputs, by name of the call.
        """
        self._done, self._order, self._start = done, order, start
        self._running, self._moved = running, moved
        self._names = _Names()

    def __call__(
        self, name: str, _module: nn.Module, plain: Action, *arguments: Any, **named: Any
    ) -> Any:
        """Give a call's output, by itself or by running it."""
        call = self._names.following(name)
        done = self._done.get(call)
        kept = None if done is None or name in self._running else done.output
        if done is not None and kept is not None and done.ended < self._end(call):
            self._names.skip(done.inside)
            return kept.clone()
        output = plain(*arguments, **named)
        by = self._moved.get(call)
        return output if by is None else output + by.to(output)

    def _end(self, call: str) -> int:
        """Return how many layers may at most have run by the end of a call, and one more."""
        return self._start + 1 if call in self._order else self._start


class _Names:
    """Names of calls: that of the module, with ``@k`` from the second on."""

    def __init__(self) -> None:
        self.count: dict[str, int] = {}

    def following(self, module: str) -> str:
        """Return the name of a module's next call."""
        count = self.count[module] = self.count.get(module, 0) + 1
        return module if count == 1 else f"{module}@{count}"

    def skip(self, calls: Mapping[str, int]) -> None:
        """Count calls that are not made."""
        for module, count in calls.items():
            self.count[module] = self.count.get(module, 0) + count


@contextmanager
def instead(module: nn.Module, action: Action) -> Iterator[None]:
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

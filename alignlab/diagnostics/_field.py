"""The update of a rule as a vector field over the parameters."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor

from alignlab.diagnostics._draws import draws_anew
from alignlab.engine.capture import Capture
from alignlab.errors import MeasurementError
from alignlab.rules._observed import ObservedRule
from alignlab.rules._task import Task

if TYPE_CHECKING:
    from alignlab.feedback import Feedback
    from alignlab.rules._base import State
    from alignlab.snapshot import MeasuredRule, Snapshot

__all__ = ["Field", "precisely", "why_no_field"]

_SAME_LOSS = 1e-3
_LATER = 2**40


@contextmanager
def precisely(snapshot: Snapshot) -> Iterator[Task]:
    """Yield the batch on a copy of the model in float64, with the same randomness and buffers.

    Where there is no such copy, or its loss is another one, it is the batch itself. What is
    computed must be used inside.
    """
    capture = snapshot.capture
    twin = None
    with capture.state.again(capture.model):
        try:
            twin = _twin(snapshot)
            task = snapshot.task if twin is None else Task(twin, twin.reference(parameters=True))
            yield task
        finally:
            if twin is not None:
                twin.close()


def _twin(snapshot: Snapshot) -> Capture | None:
    own = snapshot.capture
    if snapshot.error.dtype == torch.float64 or snapshot.error.device.type == "mps":
        return None
    try:
        model = copy.deepcopy(own.model).double()
        batch = _doubled(snapshot.x), _doubled(snapshot.y)
        twin = Capture(model, snapshot.loss_function, *batch, layers=own.chosen)
    except (RuntimeError, TypeError, ValueError, MeasurementError):
        return None
    gap = (twin.loss.detach() - own.loss.detach()).abs()
    if bool(gap <= _SAME_LOSS * own.loss.detach().abs()):
        return twin
    twin.close()
    return None


def _doubled(batch: Any) -> Any:
    """Return a batch with its numbers in float64; several inputs as a tuple or a dict."""
    if isinstance(batch, Mapping):
        return {name: _doubled(each) for name, each in batch.items()}
    if isinstance(batch, tuple | list):
        return tuple(_doubled(each) for each in batch)
    is_number = isinstance(batch, Tensor) and batch.is_floating_point()
    return batch.double() if is_number else batch


def why_no_field(measured: MeasuredRule) -> str:
    """Return why a rule's update is no function of the parameters, a clause; else empty."""
    rule = measured.rule
    if isinstance(rule, ObservedRule):
        return "it is read from a training and cannot be called at other weights"
    if measured.is_drawn:
        return "its feedback was drawn for this analysis"
    if rule.needs_history:
        return "its update follows from the past of the training"
    return ""


@final
class Field:
    r"""A rule's update :math:`\hat g(\theta)` near the present parameters, its state held.

    Attributes:
        origin: The parameters that learn as one vector.
    """

    def __init__(self, task: Task, measured: MeasuredRule) -> None:
        """Hold the batch and the rule."""
        self._task, self._measured = task, measured
        named = {n: p.detach() for n, p in task.model.named_parameters() if p.requires_grad}
        self._named = named
        self.origin = torch.cat([p.flatten() for p in named.values()])
        self._state = _cast(measured.feedback, self.origin.dtype)

    def __call__(self, displacement: Tensor) -> Tensor:
        """Return the update at the parameters displaced by a vector, as one vector."""
        return self._at(displacement, self._measured.rule)

    def depends_on_draws(self) -> bool:
        """Return whether the update is another one in another step at the same parameters."""
        rule = self._measured.rule
        if not draws_anew(rule):
            return False
        nothing = torch.zeros_like(self.origin)
        first, second = (self._at(nothing, rule.at_step(_LATER + k)) for k in range(2))
        return not torch.equal(first, second)

    def _at(self, displacement: Tensor, rule: Any) -> Tensor:
        sizes = [p.numel() for p in self._named.values()]
        parts = (self.origin + displacement).split(sizes)
        pairs = zip(self._named.items(), parts, strict=True)
        values = {name: part.view_as(p) for (name, p), part in pairs}
        with self._task.again(parameters=values) as capture:
            true = capture.reference(parameters=not rule.has_signals)
            state = self._state
            if rule.is_derived and self._measured.origin == "derived from weights":
                state = rule.start(capture, seed=int(getattr(rule, "seed", 0)))
            found = rule.updates(Task(capture, true), state).parameters
        return torch.cat([found[name].flatten().to(self.origin) for name in self._named])


def _cast(state: State, dtype: torch.dtype) -> State:
    """Return a state with its plain tensors of numbers in another precision."""

    def cast(one: Feedback) -> Feedback:
        return one.to(dtype) if isinstance(one, Tensor) and one.is_floating_point() else one

    return {name: cast(one) for name, one in state.items()}

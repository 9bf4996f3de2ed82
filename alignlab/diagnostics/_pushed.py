"""Errors of one's own at the output, sent through the backward path of a rule."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, final

from torch import Tensor

from alignlab.engine.jacobian import Jacobian
from alignlab.engine.pushed import backward_weights, gradients_from_output
from alignlab.errors import MeasurementError
from alignlab.rules._base import DirectRule, ReplacedWeightRule

if TYPE_CHECKING:
    from alignlab.engine.capture import Capture
    from alignlab.snapshot import MeasuredRule, Snapshot

__all__ = ["BackwardPath", "backward_path", "clause", "why_no_path"]


class BackwardPath(ABC):
    """What a rule makes of any error at the output, which is linear in it."""

    @abstractmethod
    def signals(self, error: Tensor) -> Mapping[str, Tensor]:
        """Return the signals at the pre-activations by layer.

        Args:
            error: Shape ``(n_samples, n_errors)``.
        """

    @abstractmethod
    def gradients(self, error: Tensor) -> Mapping[str, Tensor]:
        """Return the updates by parameter name.

        Args:
            error: Shape ``(n_samples, n_errors)``.
        """


@contextmanager
def backward_path(snapshot: Snapshot, measured: MeasuredRule | None) -> Iterator[BackwardPath]:
    """Open the backward path of a rule for which ``why_no_path`` is empty.

    Args:
        snapshot: The probing.
        measured: The rule; None for backpropagation.

    Raises:
        MeasurementError: The model ends in several layers, or weights cannot be replaced.
    """
    if measured is not None and isinstance(measured.rule, DirectRule):
        yield _Direct(snapshot, measured, measured.rule.granularity)
        return
    weights = {} if measured is None else measured.backward_weights
    with backward_weights(snapshot.capture, weights):
        yield _Chained(snapshot.capture)


def why_no_path(measured: MeasuredRule) -> str:
    """Return why a rule maps no output error linearly to its updates, a clause; else empty."""
    rule = measured.rule
    if measured.is_drawn:
        return "its feedback was drawn for this analysis"
    if isinstance(rule, DirectRule):
        return "" if rule.sends_true_error else "what it sends is not linear in the output's error"
    if isinstance(rule, ReplacedWeightRule):
        return ""
    return "it is no linear map from the output's error to updates"


def clause(error: MeasurementError) -> str:
    """Return what an error says, to go on after "because"."""
    text = str(error).rstrip(".")
    return text[:1].lower() + text[1:]


@final
class _Direct(BackwardPath):
    """Direct feedback, one matrix for every entry."""

    def __init__(self, snapshot: Snapshot, measured: MeasuredRule, granularity: str) -> None:
        self._capture = snapshot.capture
        self._feedback, self._granularity = measured.feedback, granularity
        self._shape = snapshot.task.error.shape

    def signals(self, error: Tensor) -> Mapping[str, Tensor]:
        given = error.clone().reshape(self._shape)
        found = self._capture.direct(self._feedback, error=given, granularity=self._granularity)
        return found.preactivation

    def gradients(self, error: Tensor) -> Mapping[str, Tensor]:
        given = error.clone().reshape(self._shape)
        found = self._capture.direct(
            self._feedback, error=given, granularity=self._granularity, parameters=True
        )
        return found.parameters


@final
class _Chained(BackwardPath):
    """The weights that act in the backward pass, one after the other."""

    def __init__(self, capture: Capture) -> None:
        self._capture = capture
        self._jacobian = Jacobian(capture)

    def signals(self, error: Tensor) -> Mapping[str, Tensor]:
        return self._jacobian.pulled_back(error).preactivation

    def gradients(self, error: Tensor) -> Mapping[str, Tensor]:
        return gradients_from_output(self._capture, error)

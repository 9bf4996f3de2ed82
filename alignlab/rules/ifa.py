"""Indirect feedback alignment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

from alignlab.engine.direct import projected
from alignlab.kernels.layers import linear_part
from alignlab.rules._drawn import DrawnFeedback
from alignlab.rules._units import refusal, require_unitwise

if TYPE_CHECKING:
    from alignlab.engine.capture import Capture
    from alignlab.engine.updates import Updates
    from alignlab.rules._base import State
    from alignlab.rules._task import Task
    from alignlab.sites import Layer

__all__ = ["IFA"]


@dataclass(frozen=True)
class IFA(DrawnFeedback):
    r"""Indirect feedback alignment: the error enters at the first layer and runs upwards.

    .. math:: \hat g_1 = B e, \qquad \hat g_{l+1} = W_{l+1}\,(\hat g_l \odot \phi'(a_l))

    for entry signals, with the forward weights and without biases. Output layers have their true
    gradient. Source: Nøkland 2016, arXiv 1609.01596.

    It is defined where the layers are one chain: each reads the entry of the one before it and
    nothing else does, and from pre-activation to entry every unit stays by itself (no pooling,
    no normalisation that mixes units, no shortcut). The state is the feedback of the first
    layer, shape ``(n_errors, *entry_shape)``.
    """

    name: ClassVar[str] = "ifa"

    def fed(self, capture: Capture) -> Sequence[Layer]:
        """Return the first layer."""
        return _known_chain(capture)[:1]

    def updates(self, task: Task, state: State, *, parameters: bool = True) -> Updates:
        """Send the error to the first entry, and from there through the forward weights."""
        capture = task.capture
        hidden, n = _known_chain(capture), capture.n_samples
        error, signals = task.error, {}
        if hidden:
            first = hidden[0]
            signals[first.name] = projected(error, state)(first, (n, *first.entry_shape))
        for layer, above in pairwise(hidden):
            local = capture.to_preactivation(layer, signals[layer.name])
            moved = linear_part(
                capture.module_of(above),
                local.reshape(n, *layer.entry_shape),
                capture.weight_of(above),
            )
            signals[above.name] = moved.reshape(n, *above.entry_shape)
        return capture.injected(signals, error=error, parameters=parameters)


def _known_chain(capture: Capture) -> list[Layer]:
    """Return the hidden layers; graphs that are alike are looked through once."""
    return capture.layout.structure.once("ifa chain", lambda: _chain(capture))


def _chain(capture: Capture) -> list[Layer]:
    """Return the hidden layers, from the lowest up.

    Raises:
        MeasurementError: They are no chain; names the first layer that is none of its links.
    """
    layout = capture.layout
    for layer, above in pairwise(capture.layers):
        if layer.consumer != above.name:
            follows = f"{above.name!r} follows it and does not read its entry"
            raise refusal(layer, "ifa", follows)
        require_unitwise(capture, layer, rule="ifa")
        if layout.is_bypassed(layer) or not layout.has_one_reader(layer):
            raise refusal(layer, "ifa", "a shortcut leads around it or around its reader")
    return [layer for layer in capture.layers if not layer.is_output]

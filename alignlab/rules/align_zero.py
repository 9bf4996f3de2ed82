"""Align-zero: the gradient of the linearised network."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from alignlab.engine.error import gradients_above
from alignlab.rules._initial import InitialRule

if TYPE_CHECKING:
    from alignlab.engine.updates import Updates
    from alignlab.rules._base import State
    from alignlab.rules._task import Task

__all__ = ["AlignZero"]


@dataclass(frozen=True)
class AlignZero(InitialRule):
    r"""Align-zero: :math:`\Delta W_l = \delta_l^0 (h_{l-1}^0)^\top` with the present error.

    All factors but the error are the initial network's, run on the same batch:
    :math:`\delta_L^0 = e`, :math:`\delta_l^0 = W_{l+1}(0)^\top\delta_{l+1}^0 \odot
    \phi'(a_l^0)`, those of the output layer included. The update is the initial network's
    Jacobian, transposed, times the present error, for all parameters of any model; of a
    recurrent network it is backpropagation through time in the initial network. In the first
    step it is backpropagation. Source: Boopathy & Fiete 2022, arXiv 2106.08453, where networks
    have the NTK parametrisation (``parametrisation="ntk"`` of the reference networks).

    The signals are those of the initial network; the updates are not their products with the
    present inputs, and no layer's is exact. The state holds the parameters at the first step by
    name, so it must come from a training. See the base class for losses that read more than the
    output layers. Where nothing is random the chance level is that of rotated updates.
    """

    name: ClassVar[str] = "align-zero"
    has_exact_output: ClassVar[bool] = False

    def updates(self, task: Task, state: State, *, parameters: bool = True) -> Updates:
        """Carry the present error back through the initial network."""
        capture = task.capture
        found = self.initial_credit(task, state, parameters=parameters).whole
        if not parameters:
            return replace(found, is_local=False)
        above = gradients_above(capture.layout, capture.model, capture.loss)
        whole = {
            name: g + above[name] if name in above else g for name, g in found.parameters.items()
        }
        return replace(found, parameters=whole, is_local=False)

"""True and approximate signals compared while the user's own backward pass runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, Final, final

from torch import Tensor, nn

from alignlab.engine.attach import Attachment, Call
from alignlab.engine.comparison import Levels
from alignlab.engine.exchange import Exchange, weight_swap
from alignlab.engine.follow import Followed
from alignlab.engine.forward import is_compiled, plainly
from alignlab.engine.graph import refuse_custom_backwards
from alignlab.engine.layout import Layout
from alignlab.engine.modules import measured_modules, own_weights
from alignlab.engine.plan import Direct, Plan, Replaced
from alignlab.engine.statistics import Flushed
from alignlab.errors import MeasurementError
from alignlab.sites import Layer

__all__ = ["Stream"]

MOST_PLANS = 8
"""Structures and batch sizes that are remembered, each with its feedback on the device."""

Draw = Callable[[Layout], Sequence[Direct | Replaced]]
Sink = Callable[[Plan, str, Flushed], None]


@final
class Stream:
    """Follows forward and backward passes that the user runs, and keeps rows of what it saw.

    Nothing of a pass outlives it but the rows. A pass that cannot be followed truthfully is
    refused when it is over, so that the user's own backward pass is never broken off.
    """

    def __init__(
        self,
        model: nn.Module,
        draw: Draw,
        *,
        replaces_weights: bool,
        sink: Sink,
        layers: Sequence[str] | None = None,
    ) -> None:
        """Prepare; nothing is attached yet.

        Args:
            model: The model whose calls are followed.
            draw: Returns the rules with their feedback for a layout; called once for every
                structure that a pass may have.
            replaces_weights: Whether a rule among them replaces weights.
            sink: Takes a plan, a place and those of its rows that were copied to the host.
            layers: Names of the modules that are followed; None for all.

        Raises:
            MeasurementError: The model holds nothing that can be measured.
        """
        self.model: Final = model
        self._draw: Final = draw
        self._sink: Final = sink
        self._replaces_weights: Final = replaces_weights
        self._modules: Final = measured_modules(model, layers)
        self._is_compiled: Final = is_compiled(model)
        self._plans: Final[dict[Any, Plan]] = {}
        self._followed: Followed | None = None
        self._kept: Final[set[int]] = set()
        self._layers: tuple[Layer, ...] = ()
        self._expected: Plan | None = None
        self._attachment: Attachment | None = None

    @property
    def plans(self) -> tuple[Plan, ...]:
        """The structures that were met, in order."""
        return tuple(self._plans.values())

    @contextmanager
    def observe(self, step: int, levels: Levels) -> Iterator[None]:
        """Follow the one forward and backward pass that runs inside.

        Args:
            step: Number under which the rows are kept.
            levels: What is measured; with nothing to measure nothing is attached.

        Raises:
            MeasurementError: What ran could not be followed; says why. Its rows are dropped.
        """
        if not levels.any:
            yield
            return
        if step in self._kept:
            msg = f"Step {step} was observed already; give every step a number of its own."
            raise MeasurementError(msg)
        if self._followed is not None:
            msg = f"Step {step} is observed inside another observed step; end that one first."
            raise MeasurementError(msg)
        swap = None
        if self._replaces_weights:
            named = dict(self.model.named_parameters())
            swap = weight_swap(self.model, named, own_weights(self._modules))
        exchange = None if swap is None else partial(Exchange, swap, model=self.model)
        followed = Followed(
            self._plan, levels, step=step, expected=self._expected, exchange=exchange
        )
        self._followed = followed
        attachment = self._attachment
        if swap is not None or attachment is None:
            attachment = Attachment(self._modules, swap)
            self._attachment = attachment if swap is None else None
        attachment.on_call, attachment.on_failure = followed.on_call, followed.on_failure
        saving = swap.recording() if swap is not None else nullcontext()
        try:
            with plainly(compiled=self._is_compiled), attachment, saving:
                yield
            self._expected = followed.finish(recomputed=attachment.recomputed)
            self._kept.add(step)
            self._layers = self._layers or self._expected.layers
        except BaseException:
            self._expected = None
            raise
        finally:
            followed.close()
            attachment.calls, attachment.on_call, attachment.on_failure = [], None, None
            self._followed = None

    def flush(self) -> None:
        """Hand all kept rows to the sink.

        Raises:
            MeasurementError: A step is being observed.
        """
        if self._followed is not None:
            msg = "A step is being observed; ask for the recording when it is over."
            raise MeasurementError(msg)
        for plan in self._plans.values():
            plan.rows.flush()

    def _plan(
        self, calls: Sequence[Call], signature: tuple[Any, ...], number: int, error: Tensor
    ) -> Plan:
        """Return the plan of a structure that ends in a call; a new one is studied first."""
        key = number, signature
        plan = self._plans.pop(key, None)
        if plan is None:
            start = calls[number].output_edge.node
            refuse_custom_backwards(start)
            plan = Plan(calls, signature, start, error, self._draw, self._sink)
        # A plan may be that of a pass which was refused before the first one that was kept.
        if plan.layers != (self._layers or plan.layers):
            msg = (
                "The layers are not the same in all observed steps, so they make no one "
                "recording; observe each kind of pass with a probe of its own."
            )
            raise MeasurementError(msg)
        if len(self._plans) == MOST_PLANS:
            # The one that was used longest ago; its feedback can be drawn again.
            self._plans.pop(next(iter(self._plans))).rows.flush()
        self._plans[key] = plan
        return plan

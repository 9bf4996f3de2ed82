"""The probe: runs reference and rules over one forward pass and measures them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, final

from torch import Tensor

from alignlab.diagnostics._raw import check_kinds, raw_tensors
from alignlab.diagnostics._run import diagnostics_of, recorded
from alignlab.engine.capture import Capture, Loss
from alignlab.engine.moment import fill_twin
from alignlab.errors import InputError
from alignlab.observation import require_chosen
from alignlab.observer import Observer
from alignlab.plugins import names
from alignlab.reader import Reader, is_read, read
from alignlab.rules._base import Rule
from alignlab.rules._task import Task
from alignlab.schedules import Schedule
from alignlab.snapshot import (
    MeasuredRule,
    Snapshot,
    halves,
    own_origin,
    require_no_history,
    require_states,
)

if TYPE_CHECKING:
    import xarray as xr
    from torch import nn


__all__ = ["Probe"]

FEWEST_DRAWS = 32
MANY_UNITS = 2e7
"""Units times samples from which fewer than 200 redraws are made."""


@final
class Probe:
    """Measures how good the gradient of a rule is, and leaves the model as it was.

    Args:
        model: Any module that ends in Linear or (transposed) convolution modules; it is
            measured in the mode that it is in.
        loss_function: Takes output and targets, returns a scalar.
        rules: Rules, measured with the feedback that their own seed draws, or
            ``MeasuredRule`` objects, which hold the feedback and say where it is from.
        diagnostics: Names of diagnostics; None for all.
        draws: Redraws of feedback for each chance level; at least 32. None for 200, and down
            to 50 for networks of many units.
        seed: Seed of everything that the probe draws for itself.
        save: Which raw tensors to keep: ``signals``, ``weight-gradients``, ``feedback``.
        layers: Names of the modules that are layers: where signals are measured and direct
            feedback enters. What lies between them is part of the way from one to the next.
            None for every Linear and convolution module.
        schedule: When observed steps are measured, by level: ``entry``, ``preactivation``,
            ``weight-gradient``, and ``chance`` for redraws where they cost passes of their own
            (after the entries); see ``usual_schedule``. One schedule alone is that of entry
            and pre-activation. With rules that are read from the training (``Applied``,
            ``Displacement``) it is that of weight gradients, and all rules follow it.
        feedback_draws: Redraws for the chance levels of observed steps that are streamed.
        plain_model: A twin of a model whose backward pass is its own: the same layers under the
            same names, without custom autograd functions. It is given the model's weights and
            takes its place in whatever is measured; its own weights are overwritten.
        earlier: State dicts of earlier in the training by label, for diagnostics that look back;
            ``"initial"`` is the one at which the training began.
        twin: A network of the same layers that was trained by backpropagation, for diagnostics
            that compare with it.
        progress: Called with what is being done, how much is done and how much there is.

    Attributes:
        tensors: Raw tensors of the last measurement by layer, where they were asked for.
        output: What the model returned then, detached; None where it is not one tensor.
        loss: The loss then.

    Example:
        >>> import torch
        >>> from alignlab.rules import DFA
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)
        ... )
        >>> loss = torch.nn.functional.cross_entropy
        >>> with Probe(net, loss, rules=[DFA(seed=0)], diagnostics=["error-signal"], draws=32) as p:
        ...     recording = p.measure(torch.randn(20, 4), torch.arange(20) % 3)
        >>> output = recording["cosine_error_signal"].sel(layer="2", site="preactivation")
        >>> round(output.item(), 6)
        1.0
    """

    def __init__(  # noqa: PLR0913 - each is one property of a measurement
        self,
        model: nn.Module,
        loss_function: Loss,
        *,
        rules: Sequence[Rule | MeasuredRule] = (),
        diagnostics: Sequence[str] | None = None,
        draws: int | None = None,
        seed: int = 0,
        save: Sequence[str] = (),
        layers: Sequence[str] | None = None,
        schedule: Schedule | Mapping[str, Schedule] | None = None,
        feedback_draws: int = 8,
        plain_model: nn.Module | None = None,
        earlier: Mapping[str, Mapping[str, Tensor]] = MappingProxyType({}),
        twin: nn.Module | None = None,
        progress: Callable[[str, int, int], None] = lambda _label, _done, _total: None,
    ) -> None:
        """Choose what is measured; nothing is attached yet."""
        if draws is not None and draws < FEWEST_DRAWS:
            msg = f"{draws} redraws give no chance level; ask for at least {FEWEST_DRAWS}."
            raise InputError(msg)
        check_kinds(save)
        self._model = model
        self._loss_function = loss_function
        self._rules = tuple(rules)
        self._names = tuple(names("alignlab.diagnostics") if diagnostics is None else diagnostics)
        self._draws = draws
        self._seed = seed
        self._save = tuple(save)
        self._progress = progress
        self._layers = layers
        for given in rules if layers is not None else ():
            require_chosen(given, layers or (), model)
        self._plain_model = plain_model
        require_states(earlier, model if plain_model is None else plain_model)
        self._earlier, self._twin = dict(earlier), twin
        self._observer: Observer | Reader
        if any(map(is_read, self._rules)):
            self._observer = Reader(model, self._rules, schedule=schedule, measure=self._measure)
        else:
            self._observer = Observer(
                *(model, self._rules),
                schedule=schedule, draws=feedback_draws, seed=seed, layers=layers,
            )  # fmt: skip
        self.tensors: dict[str, xr.Dataset] = {}
        self.output: Tensor | None = None
        self.loss = float("nan")

    def __enter__(self) -> Probe:
        """Return the probe."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave nothing behind; each measurement has already cleaned up after itself."""

    def measure(self, x: Any, y: Any) -> xr.Dataset:
        """Measure on one batch with a forward and backward pass of the probe's own.

        Args:
            x: Batch, first axis samples.
            y: Targets.

        Returns:
            A recording of one step.

        Raises:
            MeasurementError: The model cannot be measured truthfully; says why.
        """
        return self._measure(x, y, [read(rule, self._model) for rule in self._rules])

    def _measure(self, x: Any, y: Any, rules: Sequence[Rule | MeasuredRule]) -> xr.Dataset:
        """Measure rules at the present weights of the model, or of its twin at the same."""
        diagnostics = diagnostics_of(self._names)
        if self._plain_model is not None:
            fill_twin(self._plain_model, self._model, x)
        network = self._model if self._plain_model is None else self._plain_model
        capture = Capture(network, self._loss_function, x, y, layers=self._layers)
        try:
            output = capture.output
            self.output = output.detach() if isinstance(output, Tensor) else None
            self.loss = float(capture.loss.detach())
            snapshot = self._snapshot(capture, x, y, rules)
            recording = recorded(snapshot, diagnostics, self._model)
            self.tensors = raw_tensors(snapshot, self._save)
            return recording
        finally:
            capture.close()
            capture.state.restore(network)

    def observe(self, step: int, x: Any = None, y: Any = None) -> AbstractContextManager[None]:
        """Measure the step that runs inside, where it is due.

        Parameters, gradients, randomness and hooks are left as they would be without it. True
        signals are those of the user's own backward pass, which must be backpropagation, and
        must be the only one inside.

        With a rule that is read from the training (``Applied``, ``Displacement``) anything may
        run inside: what it left in ``.grad`` or in the weights is compared with the true gradient
        on ``x`` and ``y``, which the probe works out itself from parameters, buffers and
        randomness as they were on entry. All rules are then measured as by ``measure``.

        Args:
            step: Number of the step, from 0.
            x: The batch of the whole step, over all that was accumulated; without effect unless a
                rule is read from the training.
            y: Its targets.

        Raises:
            InputError: A rule is read from the training, and there is no batch.
            MeasurementError: What ran could not be followed or read; says why. The user's own
                step has ended by then.

        Example:
            >>> import torch
            >>> from alignlab.rules import DFA
            >>> net = torch.nn.Sequential(
            ...     torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)
            ... )
            >>> loss_function = torch.nn.functional.cross_entropy
            >>> probe = Probe(net, loss_function, rules=[DFA(seed=0)])
            >>> for step in range(3):
            ...     with probe.observe(step):
            ...         loss_function(net(torch.randn(20, 4)), torch.arange(20) % 3).backward()
            >>> probe.recording()["cosine_error_signal"].sizes["step"]
            3
        """
        if isinstance(self._observer, Reader):
            return self._observer.observe(step, x, y)
        if self._plain_model is not None:
            msg = (
                "A plain model takes part in measure, and in observe with rules that are read from "
                "the training; streamed rules need a backward pass that is backpropagation."
            )
            raise InputError(msg)
        return self._observer.observe(step)

    def recording(self) -> xr.Dataset:
        """Return what was observed so far, along ``step``.

        Raises:
            MeasurementError: Nothing was.
        """
        return self._observer.recording()

    def _snapshot(
        self, capture: Capture, x: Any, y: Any, rules: Sequence[Rule | MeasuredRule]
    ) -> Snapshot:
        true = capture.reference(parameters=True)
        measured = tuple(_with_own_feedback(capture, rule) for rule in rules)
        labels = [each.label for each in measured]
        if len(set(labels)) < len(labels):
            msg = (
                f"The rules {', '.join(labels)} have the same name twice (seeds are not part of a "
                "name); measure one in a run of its own, or give MeasuredRule objects with labels."
            )
            raise InputError(msg)
        task = Task(capture, true)
        return Snapshot(
            capture=capture,
            loss_function=self._loss_function,
            x=x,
            y=y,
            true=true,
            passes={m.label: m.updates(task) for m in measured},
            rules=measured,
            fold=halves(capture.n_samples, seed=self._seed),
            seed=self._seed,
            draws=usual_draws(capture) if self._draws is None else self._draws,
            earlier=self._earlier,
            twin=self._twin,
            progress=self._progress,
        )


def usual_draws(capture: Capture) -> int:
    """Return how many redraws are worth their time: 200, and down to 50 for large networks.

    It depends on the numbers of units and samples alone, so that a measurement can be repeated.
    """
    units = sum(layer.width + layer.entry_width for layer in capture.layers)
    share = MANY_UNITS / (units * capture.n_samples)
    return max(50, min(200, int(200 * share)))


def _with_own_feedback(capture: Capture, given: Rule | MeasuredRule) -> MeasuredRule:
    """Return a rule with what it holds; what follows from weights and batch is made for these."""
    if isinstance(given, MeasuredRule):
        if not given.rule.is_derived or given.origin != "derived from weights":
            return given
        rule = given.rule
        made = rule.start(capture, seed=getattr(rule, "seed", 0))
        return MeasuredRule(rule, made, given.origin, given.label)
    rule = given
    require_no_history(rule)
    feedback = rule.start(capture, seed=getattr(rule, "seed", 0))
    return MeasuredRule(rule, feedback, own_origin(rule))

"""What one probing holds: the true signals, and those of every rule, on the device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from math import nan
from typing import TYPE_CHECKING, Any, TypeVar, final

import torch
from torch import Tensor

from alignlab.engine.updates import Updates, complete
from alignlab.errors import InputError, MeasurementError
from alignlab.feedback import ORIGINS, Feedback, digest
from alignlab.kernels.cosines import wide
from alignlab.layer_view import LayerView
from alignlab.rules._base import ReplacedWeightRule, Rule
from alignlab.rules._task import Task
from alignlab.rules._wrapping import feedback_seed
from alignlab.sites import SITES, Layer

if TYPE_CHECKING:
    from torch import nn

    from alignlab.engine.capture import Capture, Loss

__all__ = ["INITIAL", "MeasuredRule", "Snapshot"]

Progress = Callable[[str, int, int], None]
Made = TypeVar("Made")

INITIAL = "initial"
"""Label of the state at which a training began, among those of earlier."""


@dataclass(frozen=True)
class MeasuredRule:
    """A rule together with the feedback that it is measured with.

    Attributes:
        rule: The rule; its options also say how feedback is drawn again for the null.
        feedback: The state of the rule: for a direct rule, feedback by layer name, in any form;
            for a rule that replaces weights, backward weights by module name.
        origin: Where the feedback came from, one of ``feedback.ORIGINS``.
        label: Name in the recording.
    """

    rule: Rule
    feedback: Mapping[str, Feedback]
    origin: str
    label: str = ""

    def __post_init__(self) -> None:
        """Name the rule after its options unless a label is given."""
        assert self.origin in ORIGINS
        if not self.label:
            object.__setattr__(self, "label", self.rule.label)

    @property
    def is_drawn(self) -> bool:
        """Whether the feedback is not the one that the model was trained with."""
        return self.origin == "drawn"

    @property
    def seed(self) -> float:
        """Seed that gives this feedback; NaN where none is known to, as after learning."""
        seed = feedback_seed(self.rule)
        has_learned = self.rule.learns and self.origin == "training"
        is_seeded = self.origin in {"replayed", "replayed, unverified", "drawn", "training"}
        return nan if seed is None or has_learned or not is_seeded else float(seed)

    @property
    def digest(self) -> str:
        """Hash of the feedback; empty for a rule that holds none."""
        return digest(self.feedback) if self.feedback else ""

    def updates(self, task: Task, *, parameters: bool = True) -> Updates:
        """Return what the rule yields on a batch with this feedback."""
        found = self.rule.updates(task, self.feedback, parameters=parameters)
        if self.rule.has_signals:
            return found
        return complete(found, task.capture.parameters, rule=self.label)

    @property
    def backward_weights(self) -> Mapping[str, Tensor]:
        """What acts in the backward pass of a rule that replaces weights; of others nothing."""
        rule = self.rule
        return rule.acting(self.feedback) if isinstance(rule, ReplacedWeightRule) else {}


@final
@dataclass(frozen=True)
class Snapshot:
    """One probing: a captured forward pass, the reference and the rules.

    Attributes:
        capture: The forward pass, its graph held open.
        loss_function: The loss, to evaluate it again.
        x: The batch.
        y: The targets.
        true: The reference backward pass, with parameter gradients.
        passes: What each rule yields by its label, with updates of parameters.
        rules: The measured rules.
        fold: Samples of the first half, boolean.
        seed: Seed of everything that diagnostics draw.
        draws: Redraws of feedback for each chance level.
        earlier: Parameters and buffers of earlier in the training, by label.
        twin: A network of the same layers that was trained by backpropagation, or None.
        progress: Called with what is being done, how much is done and how much there is.
    """

    capture: Capture
    loss_function: Loss
    x: Any
    y: Any
    true: Updates
    passes: Mapping[str, Updates]
    rules: tuple[MeasuredRule, ...]
    fold: Tensor
    seed: int
    draws: int
    earlier: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    twin: nn.Module | None = None
    progress: Progress = field(default=lambda _label, _done, _total: None)
    _kept: dict[Callable[..., Any], Any] = field(default_factory=dict, repr=False)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """All measured layers in call order."""
        return self.capture.layers

    @property
    def hidden(self) -> tuple[Layer, ...]:
        """Measured layers but the output, whose gradient is exact by construction."""
        return tuple(layer for layer in self.layers if not layer.is_output)

    @property
    def initial(self) -> Mapping[str, Tensor] | None:
        """Parameters and buffers at which the training began; None where they are not known."""
        return self.earlier.get(INITIAL)

    def shared(self, make: Callable[[Snapshot], Made]) -> Made:
        """Return what a function makes of this snapshot, made once for all who ask."""
        if make not in self._kept:
            self._kept[make] = make(self)
        found: Made = self._kept[make]
        return found

    @contextmanager
    def at(self, label: str) -> Iterator[Capture]:
        """Run the forward pass with parameters and buffers of earlier in the training.

        Randomness is that of this snapshot. What is computed must be used inside.

        Args:
            label: One of ``earlier``.
        """
        state = self.earlier[label]
        model = self.capture.model
        parameters = {name: state[name] for name, _ in model.named_parameters()}
        buffers = {name: state[name] for name, _ in model.named_buffers() if name in state}
        with self.task.again(parameters=parameters, buffers=buffers) as capture:
            yield capture

    @cached_property
    def task(self) -> Task:
        """The batch as the rules are given it."""
        return Task(self.capture, self.true)

    def is_local(self, measured: MeasuredRule) -> bool:
        """Whether updates of weights under a rule are products of its signals with inputs."""
        return measured.rule.has_signals and self.passes[measured.label].is_local

    def compared(self, measured: MeasuredRule) -> tuple[Layer, ...]:
        """Measured layers whose gradient under a rule is not exact by construction."""
        return self.hidden if measured.rule.has_exact_output else self.layers

    @property
    def error(self) -> Tensor:
        """The error e = dL/da at all output layers, one row per sample, ``(n_samples, n)``."""
        signal = self.capture.layout.joined(self.true.preactivation)
        return signal.reshape(signal.shape[0], -1)

    @cached_property
    def exact_error(self) -> Tensor:
        """The error in float64, shape ``(n_samples, n)``, for ranks and spaces.

        Of a well-trained network the errors in float32 are mostly rounding, which fills
        directions that the true errors leave empty. Where the output layer's pre-activation
        is the model's output the error is formed again in float64.
        """
        plain = wide(self.error)
        output = self.capture.output
        if not isinstance(output, Tensor) or output.shape != self.error.shape:
            return plain
        if output.device.type == "mps":
            return plain
        exact = output.detach().double().requires_grad_()
        target = self.y.double() if _is_floating(self.y) else self.y
        with torch.enable_grad():
            (error,) = torch.autograd.grad(self.loss_function(exact, target), exact)
        same = (error - plain).norm() <= 1e-2 * plain.norm() + 1e-6 / len(plain)
        return error if bool(same) else plain

    def view(self, layer: Layer, updates: Updates) -> LayerView:
        """Return a layer under a rule."""
        return LayerView(self.capture, layer, updates, fold=self.fold, shared=self.shared)

    def sites(self, layer: Layer) -> tuple[str, ...]:
        """Return the sites that a layer has: both, or the pre-activation of the output."""
        return SITES[1:] if layer.is_output else SITES

    def chance_kind(self, measured: MeasuredRule) -> str:
        """Return what is drawn for a rule's chance level, one of ``schema.NULL_KINDS``."""
        if measured.rule.has_random_feedback:
            return "feedback_draw"
        drawn = measured.rule.redraw(self.capture, seed=0)
        return "output_rotation" if drawn is None else "rule_draw"

    def redrawn(self, measured: MeasuredRule, count: int) -> Iterator[MeasuredRule]:
        """Yield the rule with fresh feedback, ``count`` times, from streams of their own."""
        for number in range(count):
            feedback = measured.rule.redraw(self.capture, seed=-1 - number - 1_000_003 * self.seed)
            assert feedback is not None
            yield MeasuredRule(measured.rule, feedback, "drawn", measured.label)

    def run(self, measured: MeasuredRule, *, parameters: bool = False) -> Updates:
        """Return what a rule yields with given feedback."""
        return measured.updates(self.task, parameters=parameters)


def _is_floating(batch: Any) -> bool:
    return isinstance(batch, Tensor) and batch.is_floating_point()


def require_no_history(rule: Rule) -> None:
    """Refuse a rule that cannot be started at the present weights to be measured.

    Raises:
        MeasurementError: Its state must come from a training.
    """
    if rule.needs_history or rule.keeps_initial:
        msg = (
            f"The rule {rule.label} remembers parameters of earlier in the training, which the "
            "present ones do not tell; measure it during a training (Learner.measured), or give "
            "its state with it (MeasuredRule)."
        )
        raise MeasurementError(msg)


def require_states(earlier: Mapping[str, Mapping[str, Tensor]], model: nn.Module) -> None:
    """Refuse states of earlier in a training that are not those of the model.

    Raises:
        InputError: A parameter has no value there, or one of another shape.
    """
    for label, state in earlier.items():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            is_parameter = isinstance(value, torch.nn.Parameter)
            found = state.get(name)
            if found is None and not is_parameter:
                continue
            if found is None or found.shape != value.shape:
                has = "none" if found is None else f"one of shape {tuple(found.shape)}"
                msg = (
                    f"The state {label!r} of earlier has {has} for {name}, of which "
                    f"{type(model).__name__} has {tuple(value.shape)}; give a state_dict of the "
                    "same model."
                )
                raise InputError(msg)


def own_origin(rule: Rule) -> str:
    """Return where feedback comes from that a rule is started with by itself."""
    wrapped = getattr(rule, "rule", None)
    if isinstance(wrapped, Rule):
        return own_origin(wrapped)
    is_held = rule.has_random_feedback or rule.learns
    return "replayed, unverified" if is_held else "derived from weights"


def halves(n_samples: int, *, seed: int) -> Tensor:
    """Return a random half of the samples.

    Args:
        n_samples: Size of the batch.
        seed: Seed of the choice.

    Returns:
        Boolean, shape ``(n_samples,)``, on the host; ``n_samples // 2`` are true.
    """
    order = torch.randperm(n_samples, generator=torch.Generator().manual_seed(seed))
    fold = torch.zeros(n_samples, dtype=torch.bool)
    fold[order[: n_samples // 2]] = True
    return fold

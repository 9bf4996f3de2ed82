"""What a rule is: a named way for the learning signal to reach the parameters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from alignlab.errors import InputError
from alignlab.feedback import Feedback

if TYPE_CHECKING:
    from alignlab.engine.capture import Capture
    from alignlab.engine.updates import Updates
    from alignlab.rules._task import Task
    from alignlab.sites import Layer

__all__ = ["DirectRule", "ReplacedWeightRule", "Rule", "State", "check_choice"]

State = Mapping[str, Feedback]
"""What a rule holds beside the model: feedback and whatever it learns, by name."""


class Rule(ABC):
    """A learning rule: given a model and a batch, it yields parameter updates.

    Frozen dataclasses derive from it and hold its options. Whatever changes from step to step
    is its state, which is handed in and returned.

    Attributes:
        name: Its name.
        keeps_initial: Whether its state is made of the parameters at ``start``, which must then
            be the initial ones.
        has_random_feedback: Whether its state is drawn, so that a chance level can be had by
            drawing it again.
        has_signals: Whether it yields error signals, or parameter updates alone.
        has_exact_output: Whether output layers have their true gradient.
        reads_true: Whether ``updates`` looks at the true gradients of its task; where it does not,
            training spares their backward pass, and the task's hold nothing.
        learns: Whether its state changes from step to step.
        is_derived: Whether its state follows from the present weights, and is made anew for
            every step.
        needs_history: Whether its state says what happened since the training began, so that
            it cannot be started in the middle to be measured.
    """

    name: ClassVar[str]
    keeps_initial: ClassVar[bool] = False
    has_random_feedback: ClassVar[bool] = False
    has_signals: ClassVar[bool] = True
    has_exact_output: ClassVar[bool] = True
    reads_true: ClassVar[bool] = True
    learns: ClassVar[bool] = False
    is_derived: ClassVar[bool] = False
    needs_history: ClassVar[bool] = False

    @property
    def label(self) -> str:
        """Name with the options that differ from their defaults, seed and step left out."""
        options = [
            f"{field.name}={_shown(getattr(self, field.name))}"
            for field in fields(self)  # type: ignore[arg-type]
            if field.name not in {"seed", "step"} and getattr(self, field.name) != field.default
        ]
        return f"{self.name}({', '.join(options)})" if options else self.name

    def at_step(self, step: int) -> Rule:
        """Return the rule as it acts in one pass of a training.

        Args:
            step: Number of the pass, from 0.

        Returns:
            The rule itself, but for rules that draw something anew in every pass.
        """
        del step
        return self

    def start(self, capture: Capture, *, seed: int) -> State:
        """Return what the rule holds before its first step.

        Args:
            capture: A captured forward pass of the model, at its initial parameters.
            seed: Seed of what is drawn; without effect where nothing is.

        Raises:
            MeasurementError: The rule is not defined for this model; names the layer.
        """
        del capture, seed
        return {}

    def redraw(self, capture: Capture, *, seed: int) -> State | None:
        """Return a state that knows nothing of the model's weights, for the chance level.

        Args:
            capture: A captured forward pass.
            seed: Seed of the draw.

        Returns:
            None where there is no such draw; the chance level is then that of the same updates
            rotated among the output units.
        """
        return self.start(capture, seed=seed) if self.has_random_feedback else None

    @abstractmethod
    def updates(self, task: Task, state: State, *, parameters: bool = True) -> Updates:
        """Return what the rule yields on a batch.

        Args:
            task: The batch, with its forward pass and true gradients.
            state: What the rule holds, from ``start`` or from the step before.
            parameters: Whether the updates of the parameters are wanted beside the signals.

        Raises:
            MeasurementError: The rule is not defined for this model; names the layer.
        """

    def followed(self, state: State, *, before: State, after: State) -> State:
        """Return the state after the weights have moved.

        Args:
            state: What the rule holds.
            before: Parameters before the step of the optimizer, by every name that they have
                (tied ones have several).
            after: Parameters after it.
        """
        del before, after
        return state


class DirectRule(Rule):
    """A rule that sends the error at the output directly to the entry of every layer."""

    has_random_feedback: ClassVar[bool] = True
    granularity: str = "micro"

    @property
    def sends_true_error(self) -> bool:
        """Whether ``sent`` is the error itself, which the user's own backward pass brings."""
        return type(self).sent is DirectRule.sent

    def sent(self, error: Tensor, target: Any) -> Tensor:
        """Return what is sent in place of the error.

        Args:
            error: dL/da at the output layers, ``n_errors`` entries a sample.
            target: Targets of the batch.

        Returns:
            A tensor of the same shape; the error itself unless a rule says otherwise.
        """
        del target
        return error

    def start(self, capture: Capture, *, seed: int) -> State:
        """Draw the feedback for a captured model; see ``draw``."""
        layers = capture.injection_layers(self.granularity)
        return self.draw(layers, capture.n_errors, seed=seed, output=capture.layout.only_output)

    def updates(self, task: Task, state: State, *, parameters: bool = True) -> Updates:
        """Send the error through the feedback to every entry."""
        return task.capture.direct(
            state,
            error=task.error,
            sent=self.sent(task.error, task.y),
            granularity=self.granularity,
            parameters=parameters,
        )

    @abstractmethod
    def draw(
        self,
        layers: Sequence[Layer],
        n_errors: int,
        *,
        seed: int,
        output: Layer | None = None,
    ) -> Mapping[str, Feedback]:
        """Draw the feedback of every layer that has an entry.

        Args:
            layers: Layers at whose entries the error is injected.
            n_errors: Entries of the error per sample (classes).
            seed: Seed of the draw.
            output: The output layer, for rules that tell the positions of the error from its
                channels; None for an error without positions.

        Returns:
            Feedback by layer name, each of shape ``(n_errors, *entry_shape)``, in any form.

        Raises:
            MeasurementError: The rule has no feedback for these shapes.
        """


class ReplacedWeightRule(Rule):
    """A rule that runs the backward pass with other weights in place of the forward ones."""

    def start(self, capture: Capture, *, seed: int) -> State:
        """Return the backward weights for a captured model; see ``backward_weights``."""
        return self.backward_weights(capture.module_weights(), seed=seed)

    def redraw(self, capture: Capture, *, seed: int) -> State | None:
        """Return backward weights by chance; see ``by_chance``."""
        return self.by_chance(capture.module_weights(), seed=seed)

    def updates(self, task: Task, state: State, *, parameters: bool = True) -> Updates:
        """Run the backward pass with the backward weights."""
        return task.capture.replaced(self.acting(state), parameters=parameters)

    def acting(self, state: State) -> Mapping[str, Tensor]:
        """Return the weights that act in the backward pass, by name; the state holds them."""
        return {name: one for name, one in state.items() if isinstance(one, Tensor)}

    def by_chance(self, weights: Mapping[str, Tensor], *, seed: int) -> Mapping[str, Tensor] | None:
        """Return backward weights that know nothing of the forward ones.

        They are what the rule is compared with by chance.

        Args:
            weights: Forward weights by module name.
            seed: Seed of the draw.

        Returns:
            Tensors of the same names and shapes; None where the rule has no such draw.
        """
        return self.backward_weights(weights, seed=seed) if self.has_random_feedback else None

    @abstractmethod
    def backward_weights(self, weights: Mapping[str, Tensor], *, seed: int) -> Mapping[str, Tensor]:
        """Return the weight that the backward pass of every module uses.

        Args:
            weights: Forward weights by module name.
            seed: Seed of the draw; without effect where nothing is drawn.

        Returns:
            Tensors of the same names and shapes.
        """


def _shown(value: object) -> str:
    return value.label if isinstance(value, Rule) else str(value)


def check_choice(option: str, value: str, choices: Sequence[str]) -> None:
    """Refuse an option whose value is not among the choices.

    Raises:
        InputError: The value is not known.
    """
    if value not in choices:
        msg = f"The option {option}={value!r} is not known; choose {' or '.join(choices)}."
        raise InputError(msg)

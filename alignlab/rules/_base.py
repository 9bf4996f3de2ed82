"""What a rule is: a named way for the learning signal to reach the parameters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import fields
from typing import TYPE_CHECKING, ClassVar

from alignlab.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from alignlab.feedback import Feedback
    from alignlab.sites import Layer

__all__ = ["DirectRule", "ReplacedWeightRule", "Rule", "check_choice"]


class Rule(ABC):
    """A learning rule; frozen dataclasses derive from it and hold its options."""

    name: ClassVar[str]
    has_random_feedback: ClassVar[bool] = False
    """Whether feedback is drawn, so that a chance level can be had by drawing it again."""

    @property
    def label(self) -> str:
        """Name with the options that differ from their defaults, the seed left out."""
        options = [
            f"{field.name}={getattr(self, field.name)}"
            for field in fields(self)  # type: ignore[arg-type]
            if field.name != "seed" and getattr(self, field.name) != field.default
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


class DirectRule(Rule):
    """A rule that sends the error at the output directly to the entry of every layer."""

    has_random_feedback: ClassVar[bool] = True
    granularity: str = "micro"

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


def check_choice(option: str, value: str, choices: Sequence[str]) -> None:
    """Refuse an option whose value is not among the choices.

    Raises:
        InputError: The value is not known.
    """
    if value not in choices:
        msg = f"The option {option}={value!r} is not known; choose {' or '.join(choices)}."
        raise InputError(msg)

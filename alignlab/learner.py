"""A rule in any training loop: it leaves its updates where the optimizer finds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, final

import torch
from torch import Tensor, nn

from alignlab.engine.capture import Capture, Loss
from alignlab.engine.forward import called
from alignlab.engine.modules import measured_modules, own_weights
from alignlab.engine.one_pass import direct_step
from alignlab.engine.structure import Structures
from alignlab.engine.updates import Updates, complete, owned
from alignlab.errors import InputError
from alignlab.feedback import Feedback, decoded, encoded
from alignlab.rules._base import DirectRule, ReplacedWeightRule, Rule, State
from alignlab.rules._observed import ObservedRule
from alignlab.rules._signs import SignConcordantRule
from alignlab.rules._task import Task
from alignlab.rules.bp import BP
from alignlab.snapshot import MeasuredRule

__all__ = ["Learner"]

Moves = list[tuple[nn.Parameter, Tensor]]
"""Parameters, and what is added to their ``.grad``."""


@final
class Learner:
    """A rule with its state, beside a model and its loss.

    Args:
        model: Any model that can be measured.
        loss_function: Takes output and targets, returns a scalar.
        rule: Any rule; its state is drawn from its own seed before the first step.
        layers: Names of the modules at which direct feedback enters, with backpropagation
            between them; None for every Linear and convolution module.

    Example:
        >>> from alignlab.rules import FA
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
        >>> learner = Learner(net, torch.nn.functional.cross_entropy, FA(seed=0))
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        >>> for _ in range(2):
        ...     optimizer.zero_grad()
        ...     loss = learner.backward(torch.randn(20, 4), torch.arange(20) % 3)
        ...     optimizer.step()
        >>> sorted(learner.state)
        ['0', '2']
    """

    def __init__(
        self,
        model: nn.Module,
        loss_function: Loss,
        rule: Rule,
        *,
        layers: Sequence[str] | None = None,
    ) -> None:
        """Wait for the first batch.

        Raises:
            InputError: The rule is read from a training, and makes none.
        """
        if isinstance(rule, ObservedRule):
            msg = (
                f"The rule {rule.label} is read from what another training leaves, so it cannot "
                "train; measure it with Probe."
            )
            raise InputError(msg)
        self.model: Final = model
        self.rule: Final = rule
        self._loss_function: Final = loss_function
        self._layers: Final = layers
        self._state: State | None = None
        self._before: dict[str, Tensor] = {}
        self._structures: Final = Structures()
        self._number = 0

    @property
    def state(self) -> State:
        """What the rule holds at the present parameters; empty before the first step."""
        self._follow()
        return {} if self._state is None else self._state

    @property
    def feedback(self) -> Mapping[str, Feedback]:
        """What must be kept to go on: all but what follows from the present weights."""
        rule = self.rule
        if isinstance(rule, SignConcordantRule) and rule.has_fixed_magnitudes:
            weights = own_weights(measured_modules(self.model, self._layers))
            return rule.magnitudes(weights, seed=self._seed)
        return {} if rule.is_derived else self.state

    def backward(self, x: Any, y: Any) -> Tensor:
        """Add the rule's updates on a batch to ``.grad``, as a backward pass does.

        Args:
            x: Batch, first axis samples.
            y: Targets.

        Returns:
            The loss before the step, detached.

        Raises:
            MeasurementError: The rule is not defined for this model.
        """
        run = self._backpropagated if isinstance(self.rule, BP) else self._approximate
        loss, updates = run(x, y)
        for parameter, update in updates:
            grad = parameter.grad
            parameter.grad = update if grad is None else grad + update
        self._number += 1
        return loss.detach()

    def measured(self, label: str = "") -> MeasuredRule:
        """Return the rule with its present state, for a probe.

        Raises:
            InputError: There is none yet.
        """
        if not self._number and self._state is None and not self.rule.is_derived:
            msg = (
                f"The learner of {self.rule.label} has seen no batch and holds nothing; call "
                "backward before, or measure the rule itself."
            )
            raise InputError(msg)
        rule = self.rule.at_step(self._number)
        origin = "derived from weights" if rule.is_derived else "training"
        return MeasuredRule(rule, self.state, origin, label)

    def state_dict(self) -> dict[str, Any]:
        """Return all that is needed to go on, as tensors and plain values."""
        return {
            "rule": self.rule.label,
            "seeds": _seeds(self.rule),
            "step": self._number,
            "state": encoded({} if self.rule.is_derived else self.state),
        }

    def load_state_dict(self, held: Mapping[str, Any]) -> None:
        """Go on from where ``state_dict`` was taken; the model's own is loaded beside it.

        Raises:
            InputError: It is that of another rule or seed, or no such state.
        """
        missing = [key for key in ("rule", "seeds", "step", "state") if key not in held]
        if missing:
            msg = f"This is no state of a learner: it has no {missing[0]!r}; give a state_dict()."
            raise InputError(msg)
        own = self.rule.label, _seeds(self.rule)
        if (held["rule"], list(held["seeds"])) != own:
            msg = (
                f"The state is that of {held['rule']} with seeds {list(held['seeds'])}, the "
                f"learner's rule is {own[0]} with seeds {own[1]}; load it into a learner with the "
                "same rule, options and seeds."
            )
            raise InputError(msg)
        place = next((p.device for p in self.model.parameters()), torch.device("cpu"))
        state = {name: decoded(value) for name, value in held["state"].items()}
        self._number, self._before = int(held["step"]), {}
        self._state = {
            name: one.to(place) if isinstance(one, Tensor) else one for name, one in state.items()
        } or None

    @property
    def _seed(self) -> int:
        return int(getattr(self.rule, "seed", 0))

    def _backpropagated(self, x: Any, y: Any) -> tuple[Tensor, Moves]:
        """Return the loss and the true gradients of what it reaches."""
        wanted = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        with torch.enable_grad():
            loss = self._loss_function(called(self.model, x), y)
        found = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
        pairs = zip(wanted, found, strict=True)
        reached = {name: one for name, one in pairs if one is not None}
        return loss, _paired(owned(reached, wanted), wanted)

    def _approximate(self, x: Any, y: Any) -> tuple[Tensor, Moves]:
        """Return loss and updates that nothing else holds; buffers are kept, as in any training."""
        self._follow()
        rule = self.rule.at_step(self._number)
        is_started = self._state is not None and not rule.is_derived
        only = _way(rule) if is_started else None
        capture = Capture(
            *(self.model, self._loss_function, x, y),
            layers=self._layers,
            keep_state=True,
            structures=self._structures,
            only=only,
        )
        try:
            if self._state is None or rule.is_derived:
                self._state = rule.start(capture, seed=self._seed)
            if isinstance(rule, DirectRule) and only == "direct":
                updates = direct_step(
                    *(capture, self._state),
                    sent=lambda error: rule.sent(error, y),
                    granularity=rule.granularity,
                )
            else:
                found = complete(self._found(capture, rule), capture.parameters, rule=rule.label)
                self._state = self._state if found.state is None else found.state
                if only == "replaced":
                    updates = owned(found.parameters, capture.parameters)
                else:
                    updates = {name: one.detach().clone() for name, one in found.parameters.items()}
            if type(rule).followed is not Rule.followed:
                self._before = _copied(self.model)
            return capture.loss.detach(), _paired(updates, capture.parameters)
        finally:
            capture.close()

    def _found(self, capture: Capture, rule: Rule) -> Updates:
        """Return what the rule yields; the true gradients are had where it may look at them."""
        assert self._state is not None
        if isinstance(rule, ReplacedWeightRule) and _way(rule) == "replaced":
            return capture.replaced(rule.acting(self._state), parameters=True)
        if rule.reads_true:
            true = capture.reference(parameters=not rule.has_signals)
        else:
            # Whether gradients reach all layers is asked once of graphs that are alike.
            capture.layout.structure.once("reached", lambda: capture.reference().state)
            true = Updates()
        return rule.updates(Task(capture, true), self._state)

    def _follow(self) -> None:
        """Let the state follow the step that the optimizer has made since, if it has made one.

        Between backward and step, and between the parts of an accumulated gradient, it has not.
        """
        if not self._before:
            return
        named = self.model.named_parameters(remove_duplicate=False)
        after = {name: p.detach() for name, p in named}
        has_moved = any(not torch.equal(one, after[name]) for name, one in self._before.items())
        if has_moved and self._state is not None:
            self._state = self.rule.followed(self._state, before=self._before, after=after)
            self._before = {}


def _paired(updates: Mapping[str, Tensor], parameters: Mapping[str, nn.Parameter]) -> Moves:
    """Return parameters with their updates."""
    return [(parameters[name], update) for name, update in updates.items()]


def _way(rule: Rule) -> Literal["direct", "replaced"] | None:
    """Return the one backward pass that a rule is; None where it may ask for others."""
    ways: dict[Any, Literal["direct", "replaced"]] = {
        DirectRule.updates: "direct",
        ReplacedWeightRule.updates: "replaced",
    }
    return ways.get(type(rule).updates)


def _seeds(rule: Rule) -> list[int]:
    """Return the seeds of a rule and of those that it is around."""
    inner = getattr(rule, "rule", None)
    own = [int(getattr(rule, "seed", 0))]
    return own + (_seeds(inner) if isinstance(inner, Rule) else [])


def _copied(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of the parameters by every name that they have; of tied ones one copy."""
    copies = {id(p): p.detach().clone() for p in model.parameters()}
    return {name: copies[id(p)] for name, p in model.named_parameters(remove_duplicate=False)}

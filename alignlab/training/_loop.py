"""The loop: epochs of steps by any rule, watched, kept, and gone on with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from alignlab.engine.capture import Loss
from alignlab.errors import DivergedError, InputError
from alignlab.feedback import Feedback, decoded
from alignlab.learner import Learner
from alignlab.rules._base import Rule
from alignlab.schedules import Schedule, never
from alignlab.training._checkpoint import Best, Training
from alignlab.training._held import require_held
from alignlab.training._random import seeded_apart
from alignlab.training._recipe import Recipe
from alignlab.training._resuming import Keeper, Part, identity
from alignlab.training._steps import Moment, Steps

__all__ = ["train"]


def train(  # noqa: PLR0913 - each is one property of a training
    model: nn.Module,
    loss_function: Loss,
    *,
    x: Tensor,
    y: Tensor,
    rule: Rule,
    recipe: Recipe,
    held: tuple[Tensor, Tensor] | None = None,
    watch: Callable[[Moment], Mapping[str, Any]] | None = None,
    when: Schedule = never,
    keep: str | Path | None = None,
    keep_ended: bool = False,
    progress: Callable[[str, int, int], None] = lambda _label, _done, _total: None,
) -> Training:
    """Train a model in place with the updates of a rule.

    Feedback is drawn once, from the rule's own seed, before the first step; rules that draw in
    every pass do so from that seed and the number of the step, and rules that learn their
    feedback change it after every step. Torch's global random state is left as it was.

    Args:
        model: Trained in place, in training mode, on the device that it is on.
        loss_function: Takes output and targets, returns a scalar.
        x: Inputs, shape ``(n_samples, ...)``; batches are moved to the model's device.
        y: Targets.
        rule: Any rule.
        recipe: How.
        held: Inputs and targets for loss and accuracy after every epoch, in evaluation mode.
        watch: Called before the steps that are due, counted from 0, and after the last; returns
            plain values and tensors. What it draws at random does not change the training.
        when: Which steps are due.
        keep: File in which the training is kept while it goes on; one that is found there is
            gone on with, to the same bits, and it is removed at the end. One process at a time.
        keep_ended: Leave that file at the end, for a caller who has yet to write what was done.
        progress: Called with what is done, how much of it and of how much.

    Returns:
        What was done. The model has the last weights; ``restore_best`` gives it the best.

    Raises:
        DivergedError: Loss or weights are no longer finite; holds what was ``reached``.
        InputError: A frozen name is not in the model, inputs and targets are not as many, or
            what is kept is that of another training.
    """
    _require_pairs(x, y)
    require_held(recipe, held)
    optimizer = recipe.optimizer_of(_learning(model, recipe.frozen))
    learner = Learner(model, loss_function, rule)
    steps = Steps(learner, loss_function, optimizer, recipe=recipe, watch=watch, when=when)
    keeper = _keeper(keep, steps, x, y)
    with seeded_apart(recipe.dropout_seed, steps.device):
        model.train()
        steps.go_on_from(keeper.found())
        for _ in _epochs(steps, keeper, x, recipe.targets(y), held):
            label = f"training by {rule.label}, loss {steps.losses[-1]:.3f}"
            progress(label, len(steps.losses), recipe.epochs)
        steps.look(float(len(steps.losses)), steps.last_loss, last=True)
    if not keep_ended:
        keeper.remove()
    return _left(steps)


def _epochs(
    steps: Steps, keeper: Keeper, x: Tensor, y: Tensor, held: tuple[Tensor, Tensor] | None
) -> Iterator[None]:
    """Yield after every epoch, when it is kept, until all are done.

    Raises:
        DivergedError: With what was reached.
    """
    while not steps.is_over():
        try:
            steps.epoch(x, y, held)
        except DivergedError as error:
            error.reached = _left(steps)
            raise
        keeper.keep(steps.values())
        yield


def _left(steps: Steps) -> Training:
    steps.learner.model.zero_grad()
    best = steps.best
    return Training(
        rule=steps.learner.rule,
        feedback=steps.learner.feedback,
        losses=tuple(steps.losses),
        options=steps.recipe.options(),
        history=tuple(steps.history),
        held_losses=tuple(steps.held_losses),
        held_accuracies=tuple(steps.held_accuracies),
        steps=steps.step,
        best=Best(**best | {"feedback": _decoded(best["feedback"])}) if best else None,
    )


def _decoded(feedback: Mapping[str, Any]) -> dict[str, Feedback]:
    return {name: decoded(value) for name, value in feedback.items()}


def _require_pairs(x: Tensor, y: Tensor) -> None:
    if not len(x) or len(x) != len(y):
        msg = f"There are {len(x)} inputs and {len(y)} targets; give as many, and at least one."
        raise InputError(msg)


def _keeper(path: str | Path | None, steps: Steps, x: Tensor, y: Tensor) -> Keeper:
    """Return what keeps the training; hashes are taken only where something is kept."""
    parts: dict[str, Part] = {
        "model": steps.learner.model,
        "optimizer": steps.optimizer,
        "learner": steps.learner,
    }
    if steps.schedule is not None:
        parts["schedule"] = steps.schedule
    same: dict[str, Any] = {}
    if path is not None:
        rule = steps.learner.rule
        same = {"rule": rule.label, **steps.recipe.options(), **identity(steps.learner.model, x, y)}
    return Keeper(path, parts, device=steps.device, same=same)


def _learning(model: nn.Module, frozen: tuple[str, ...]) -> list[nn.Parameter]:
    """Return the parameters that learn."""
    named = dict(model.named_parameters())
    unknown = [name for name in frozen if name not in named]
    if unknown:
        message = (
            f"There is no parameter {unknown[0]!r} to freeze in {type(model).__name__}; it has "
            f"{', '.join(named)}."
        )
        raise InputError(message)
    learning = [p for name, p in named.items() if name not in frozen and p.requires_grad]
    if not learning:
        message = f"No parameter of {type(model).__name__} learns; freeze fewer."
        raise InputError(message)
    return learning

"""What a training leaves, and the checkpoint that holds it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from alignlab.errors import InputError
from alignlab.feedback import Feedback, digest, encoded
from alignlab.rules._base import DirectRule, ReplacedWeightRule, Rule
from alignlab.rules._drawn import DrawnFeedback
from alignlab.rules._wrapping import feedback_seed
from alignlab.training._steps import host_state

__all__ = ["Best", "Training", "restore_best", "save_checkpoint"]


@dataclass(frozen=True)
class Best:
    """A training after the epoch with the least loss on held-out data.

    Attributes:
        epoch: Number of that epoch, from 1.
        step: How many steps were made.
        weights: State of the model, on the host.
        feedback: What the rule held, on the host.
    """

    epoch: int
    step: int
    weights: Mapping[str, Any]
    feedback: Mapping[str, Feedback]


@dataclass(frozen=True)
class Training:
    """What a training leaves beside the trained model.

    Attributes:
        rule: The rule.
        feedback: What it holds at the end: feedback by layer or module, drawn once or learned;
            of signs with fixed magnitudes the magnitudes; empty where nothing stays.
        losses: Mean training loss of every epoch.
        options: Everything else that is needed to train the same model again.
        history: What was watched, in the order of the steps; each with ``step`` and ``epoch``.
        held_losses: Mean loss on held-out data after every epoch; empty where there are none.
        held_accuracies: Accuracy there; NaN where the targets are no classes.
        steps: How many steps were made.
        best: The best epoch, where the recipe has patience; ``restore_best`` goes back to it.
    """

    rule: Rule
    feedback: Mapping[str, Feedback]
    losses: tuple[float, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    history: Sequence[Mapping[str, Any]] = ()
    held_losses: tuple[float, ...] = ()
    held_accuracies: tuple[float, ...] = ()
    steps: int = 0
    best: Best | None = None


def restore_best(model: nn.Module, training: Training) -> Training:
    """Give a model the weights of the best epoch.

    Args:
        model: The trained model, which ``train`` leaves with the weights of the last epoch.
        training: What ``train`` returned.

    Returns:
        The training as it was after that epoch, for ``save_checkpoint``.

    Raises:
        InputError: The training had no patience, so that no epoch was kept.
    """
    best = training.best
    if best is None:
        msg = "No best epoch was kept; train by a recipe with patience, and with held-out data."
        raise InputError(msg)
    model.load_state_dict(best.weights)
    return replace(
        training,
        feedback=best.feedback,
        losses=training.losses[: best.epoch],
        history=[moment for moment in training.history if moment["step"] <= best.step],
        held_losses=training.held_losses[: best.epoch],
        held_accuracies=training.held_accuracies[: best.epoch],
        steps=best.step,
    )


def save_checkpoint(
    path: str | Path,
    model: nn.Module,
    training: Training,
    *,
    feedback: bool = True,
    **metadata: Any,
) -> Path:
    """Write weights, feedback and what is needed to train the same model again.

    Args:
        path: File; written under a temporary name and renamed.
        model: The trained model.
        training: What ``train`` returned.
        feedback: Whether the feedback itself is stored; its hash is in any case, so that a
            replay from the seed can be proven.
        **metadata: Further plain values, and lists and dicts of them.

    Returns:
        The path.
    """
    path = Path(path)
    ours: dict[str, Any] = {
        "schema": 1,
        "rule": training.rule.name,
        "rule_spec": training.rule.label,
        "feedback_seed": feedback_seed(training.rule) or 0,
        "final_loss": training.losses[-1] if training.losses else float("nan"),
        **training.options,
        **metadata,
    }
    if training.feedback:
        ours["feedback_sha256"] = digest(training.feedback)
        ours["feedback_kind"] = _kind(training.rule, training.feedback)
        if feedback:
            ours["feedback"] = encoded(training.feedback)
    draft = path.with_name(f".{path.name}.part")
    torch.save({"model": host_state(model), "alignlab": ours}, draft)
    return draft.replace(path)


def _kind(rule: Rule, state: Mapping[str, Feedback]) -> str:
    """Return what a rule's state is: direct feedback, weights that act, or of another form."""
    if isinstance(rule, DirectRule | DrawnFeedback) and not rule.learns:
        return "direct"
    if isinstance(rule, ReplacedWeightRule):
        acting = rule.acting(state)
        if all(acting.get(name) is one for name, one in state.items()):
            return "weight"
    return "state"

"""An earlier checkpoint of the same training, and the way from it to the measured one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from alignlab.checkpoints import Checkpoint
from alignlab.errors import InputError
from alignlab.rules._base import Rule
from alignlab.rules.displacement import Displacement
from alignlab.snapshot import MeasuredRule

__all__ = [
    "along",
    "displaced",
    "is_measured_before",
    "require_alone",
    "require_needed",
    "where",
]


def is_measured_before(rules: Sequence[Rule]) -> bool:
    """Return whether rules are measured at the earlier weights: a displacement began there."""
    return not rules or any(isinstance(rule, Displacement) for rule in rules)


def require_needed(rules: Sequence[Rule]) -> None:
    """Refuse an earlier checkpoint from which no rule takes anything.

    Raises:
        InputError: As above.
    """
    if not is_measured_before(rules) and not any(rule.keeps_initial for rule in rules):
        named = ", ".join(rule.label for rule in rules)
        message = (
            f"No rule among {named} takes anything from an earlier checkpoint; add --rule "
            "displacement, or give it to the diagnostics that look back with --earlier LABEL=FILE."
        )
        raise InputError(message)


def require_alone(since: str | Path | None) -> None:
    """Refuse an earlier checkpoint where weights alone are read.

    Raises:
        InputError: There is one.
    """
    if since is not None:
        message = "--since is measured with --model and --data, or read with --recover; add one."
        raise InputError(message)


def where(earlier: Checkpoint, *, at: Checkpoint) -> dict[str, str]:
    """Return what a recording says of an earlier checkpoint, and at which all was measured."""
    return {
        "since": earlier.path.name,
        "since_sha256": earlier.sha256,
        "measured_at": at.path.name,
    }


def displaced(
    rule: Rule, *, before: nn.Module, after: nn.Module, paths: tuple[Path, Path]
) -> MeasuredRule:
    """Return the displacement from one checkpoint of a model to another.

    Args:
        rule: The rule.
        before: The model with the earlier weights.
        after: The same model with the later ones.
        paths: Both files, for messages.

    Raises:
        InputError: Both hold the same weights.
    """
    first, second = (
        {name: p.detach().cpu() for name, p in model.named_parameters()}
        for model in (before, after)
    )
    if all(torch.equal(first[name], second[name]) for name in first):
        message = (
            f"{paths[0]} and {paths[1]} hold the same weights, so nothing has moved; give --since "
            "a checkpoint of another moment of the training."
        )
        raise InputError(message)
    return MeasuredRule(rule, Displacement.between(first, second), "observed")


def along(rule: Rule, earlier: Checkpoint, later: Checkpoint) -> Checkpoint:
    """Return the file whose feedback a rule has at the earlier weights.

    Feedback that is not learned is the same at both; the later file may be the one that has it.
    """
    has_own = any(entry.rule in {"", rule.name} for entry in earlier.feedback)
    return earlier if has_own or rule.learns or rule.is_derived else later

"""The reference trainer: any rule, on any model that can be measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from alignlab.engine.capture import Capture, Loss
from alignlab.errors import InputError
from alignlab.feedback import digest
from alignlab.rules._base import Rule
from alignlab.rules.bp import BP
from alignlab.snapshot import MeasuredRule, fresh_feedback, run_rule

__all__ = ["Training", "save_checkpoint", "train"]


@dataclass(frozen=True)
class Training:
    """What a training leaves beside the trained model.

    Attributes:
        rule: The rule.
        feedback: Its feedback, by layer or module; empty for backpropagation.
        losses: Mean training loss of every epoch.
        options: Everything else that is needed to train the same model again.
    """

    rule: Rule
    feedback: Mapping[str, Tensor]
    losses: tuple[float, ...]
    options: Mapping[str, Any] = field(default_factory=dict)


def train(
    model: nn.Module,
    loss_function: Loss,
    *,
    x: Tensor,
    y: Tensor,
    rule: Rule,
    epochs: int,
    batch_size: int = 64,
    learning_rate: float = 0.1,
    momentum: float = 0.9,
    seed: int = 0,
    frozen: tuple[str, ...] = (),
    progress: Callable[[str, int, int], None] = lambda _label, _done, _total: None,
) -> Training:
    """Train a model in place with the gradients of a rule and SGD.

    Feedback is drawn once, from the rule's own seed, before the first step.

    Args:
        model: Trained in place, in training mode.
        loss_function: Takes output and targets, returns a scalar.
        x: Inputs, shape ``(n_samples, ...)``.
        y: Targets.
        rule: Any rule.
        epochs: Passes over the data.
        batch_size: Samples a step; the last batch of an epoch may be smaller.
        learning_rate: Of SGD.
        momentum: Of SGD.
        seed: Of the order of the data.
        frozen: Names of parameters that stay as they are, for controls.
        progress: Called with what is done, how much of it and of how much.

    Returns:
        Feedback, losses and options.

    Raises:
        InputError: The loss is no longer finite.
    """
    parameters = {n: p for n, p in model.named_parameters() if n not in frozen}
    optimizer = torch.optim.SGD(parameters.values(), lr=learning_rate, momentum=momentum)
    order = torch.Generator().manual_seed(seed)
    measured: MeasuredRule | None = None
    losses: list[float] = []
    model.train()
    for epoch in range(epochs):
        total = 0.0
        for chosen in torch.randperm(len(x), generator=order).split(batch_size):
            batch, target = x[chosen.to(x.device)], y[chosen.to(y.device)]
            if isinstance(rule, BP):
                loss = loss_function(model(batch), target)
                gradients = _backpropagated(loss, parameters)
            else:
                measured, loss, gradients = _by_rule(
                    model, loss_function, (batch, target), measured or rule
                )
            if not torch.isfinite(loss):
                message = f"The loss is {loss.item()} in epoch {epoch + 1}; lower learning_rate."
                raise InputError(message)
            for name, parameter in parameters.items():
                parameter.grad = gradients[name]
            optimizer.step()
            total += loss.item() * len(chosen)
        losses.append(total / len(x))
        progress(f"training by {rule.label}, loss {losses[-1]:.3f}", epoch + 1, epochs)
    optimizer.zero_grad()
    options = {
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "momentum": momentum,
        "order_seed": seed,
    }
    return Training(rule, measured.feedback if measured else {}, tuple(losses), options)


def save_checkpoint(
    path: str | Path,
    model: nn.Module,
    training: Training,
    *,
    feedback: bool = True,
    **metadata: str | float,
) -> Path:
    """Write weights, feedback and what is needed to train the same model again.

    Args:
        path: File; written under a temporary name and renamed.
        model: The trained model.
        training: What ``train`` returned.
        feedback: Whether the feedback itself is stored; its hash is in any case, so that a
            replay from the seed can be proven.
        **metadata: Further plain values.

    Returns:
        The path.
    """
    path = Path(path)
    ours: dict[str, Any] = {
        "schema": 1,
        "rule": training.rule.name,
        "rule_spec": training.rule.label,
        "feedback_seed": getattr(training.rule, "seed", 0),
        "final_loss": training.losses[-1] if training.losses else float("nan"),
        **training.options,
        **metadata,
    }
    if training.feedback:
        plain = {name: t.detach().cpu().contiguous() for name, t in training.feedback.items()}
        ours["feedback_sha256"] = digest(plain)
        if feedback:
            ours["feedback"] = plain
    draft = path.with_name(f".{path.name}.part")
    torch.save({"model": model.state_dict(), "alignlab": ours}, draft)
    return draft.replace(path)


def _by_rule(
    model: nn.Module,
    loss_function: Loss,
    batch: tuple[Tensor, Tensor],
    rule: Rule | MeasuredRule,
) -> tuple[MeasuredRule, Tensor, Mapping[str, Tensor]]:
    """Return the rule with its feedback, the loss, and the gradients of the parameters.

    What the forward pass writes into buffers is kept, as in any training.
    """
    capture = Capture(model, loss_function, *batch, keep_state=True)
    try:
        if isinstance(rule, Rule):
            drawn = fresh_feedback(capture, rule, seed=int(getattr(rule, "seed", 0)))
            rule = MeasuredRule(rule, drawn, "replayed")
        true = capture.reference()
        backward = run_rule(capture, rule, true, parameters=True)
        return rule, capture.loss.detach(), backward.parameters
    finally:
        capture.close()


def _backpropagated(loss: Tensor, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found = torch.autograd.grad(loss, list(parameters.values()))
    return dict(zip(parameters, found, strict=True))

"""Updates, losses and Hessians of small networks, from plain torch."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from alignlab.engine.capture import Capture
from alignlab.engine.updates import Updates
from alignlab.rules._base import Rule
from alignlab.rules._task import Task
from tests.case import Batch

__all__ = ["hessian", "inner", "loss_at", "norm", "stepped", "updates_of"]


def updates_of(batch: Batch, rule: Rule, *, seed: int = 0) -> tuple[Updates, Updates]:
    """Return what a rule and what backpropagation yield."""
    capture = Capture(batch.model, batch.loss, batch.x, batch.y)
    true = capture.reference(parameters=True)
    state = rule.start(capture, seed=seed)
    found = rule.updates(Task(capture, true), state)
    capture.close()
    return found, true


def loss_at(batch: Batch, parameters: Mapping[str, Tensor]) -> float:
    """Return the loss of a copy of the model with other parameters."""
    model = copy.deepcopy(batch.model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in parameters:
                parameter.copy_(parameters[name])
        return float(batch.loss(model(batch.x), batch.y))


def stepped(batch: Batch, update: Mapping[str, Tensor], step: float) -> dict[str, Tensor]:
    """Return parameters after a step against an update; those that it leaves out stay."""
    own = dict(batch.model.named_parameters())
    return {name: own[name].detach() - step * each for name, each in update.items()}


def inner(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> float:
    return float(sum((first[name].double() * second[name].double()).sum() for name in first))


def norm(update: Mapping[str, Tensor]) -> float:
    return inner(update, update) ** 0.5


def hessian(batch: Batch) -> tuple[Tensor, list[str]]:
    """Return the Hessian of the loss, and the name of the parameter behind each of its rows."""
    named = {name: p.detach() for name, p in batch.model.named_parameters()}
    names = [name for name, p in named.items() for _ in range(p.numel())]

    def loss(flat: Tensor) -> Any:
        parts = flat.split([p.numel() for p in named.values()])
        given = {
            name: part.view_as(p) for (name, p), part in zip(named.items(), parts, strict=True)
        }
        return batch.loss(functional_call(batch.model, given, (batch.x,)), batch.y)

    point = nn.utils.parameters_to_vector(named.values())
    return torch.autograd.functional.hessian(loss, point), names

"""Everything that a probing could disturb, as plain values that can be compared."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.cases import Batch

__all__ = ["state_of", "touch"]


def touch(batch: Batch) -> None:
    """Give some parameters a gradient, and the model a hook, as a training run would."""
    for number, parameter in enumerate(batch.model.parameters()):
        if number % 2:
            parameter.grad = torch.full_like(parameter, 0.5)
    batch.model.register_forward_hook(lambda *_: None)


def state_of(batch: Batch) -> dict[str, Any]:
    """Return names, identities and bytes of all that belongs to a model, and the random states."""
    model = batch.model
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": str(np.random.get_state()),  # noqa: NPY002
        "torch": _bytes(torch.get_rng_state()),
        "grad mode": torch.is_grad_enabled(),
        "x": _bytes(batch.x),
        "y": _bytes(batch.y),
        "x gradient": batch.x.grad,
    }
    for name, p in model.named_parameters(remove_duplicate=False):
        gradient = None if p.grad is None else (id(p.grad), _bytes(p.grad))
        state[f"parameter {name}"] = id(p), p._version, _bytes(p), p.requires_grad, gradient
        state[f"hooks of {name}"] = str(p._backward_hooks)
    for name, module in model.named_modules():
        state[f"module {name}"] = _module(module)
    return state


def _module(module: nn.Module) -> dict[str, Any]:
    """Return a module's own attributes; its buffers with identity and values."""
    found: dict[str, Any] = {"type": type(module)}
    for key, value in vars(module).items():
        if key == "_buffers":
            found[key] = {
                name: None if b is None else (id(b), b._version, b.requires_grad, _bytes(b))
                for name, b in value.items()
            }
        elif key in ("_parameters", "_modules"):
            found[key] = {name: id(each) for name, each in value.items()}
        else:
            found[key] = repr(value)
    return found


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().numpy().tobytes()

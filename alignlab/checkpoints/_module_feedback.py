"""Feedback that sits on the modules of a model."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

from alignlab.checkpoints._checkpoint import StoredFeedback
from alignlab.checkpoints._feedback import WEIGHT_RULES, effective

__all__ = ["feedback_of"]

_OWN = ("weight", "bias")


def feedback_of(
    modules: Mapping[str, nn.Module], names: Sequence[str], *, called: Collection[str]
) -> tuple[tuple[StoredFeedback, ...], tuple[str, ...]]:
    """Return the feedback of modules and what to say about what is left.

    Args:
        modules: Every module of a model by name.
        names: Modules that were replaced.
        called: Those among them whose forward pass ran.

    Returns:
        The feedback, and sentences about tensors that no backward pass uses or that are not
        understood.
    """
    found: list[StoredFeedback] = []
    notes: list[str] = []
    for name in names:
        module = modules[name]
        entries = _entries(name, module)
        if entries and name not in called:
            notes.append(
                f"{name} carries feedback that its network never uses: it calls the weight "
                f"directly, and training there was backpropagation."
            )
        elif entries:
            found += entries
        else:
            extra = [key for key in _tensors(module) if key not in _OWN]
            if extra:
                notes.append(
                    f"{name or 'The model'} carries {', '.join(extra)}, not known as feedback; "
                    f"name it with --feedback {name}={name}.KEY if it is."
                )
    return tuple(found), tuple(notes)


def _entries(name: str, module: nn.Module) -> list[StoredFeedback]:
    """Return the feedback of one module."""
    tensors = _tensors(module)
    weight = tensors["weight"]
    if type(module).__module__.startswith("biotorch.layers.dfa"):
        backward = tensors["weight_backward"].detach()
        key = f"{name}.weight_backward"
        return [
            StoredFeedback(
                kind="direct", layer=name, at="input", tensor=backward, key=key, rule="dfa"
            )
        ]
    named = getattr(module, "type", "")
    rule = named if named in WEIGHT_RULES and "weight_backward" in tensors else ""
    fitting = [
        key
        for key, value in tensors.items()
        if key not in _OWN and value.shape == weight.shape and value.is_floating_point()
    ]
    if len(fitting) != 1:
        return []
    backward = effective(rule, tensors[fitting[0]], weight)
    return [
        StoredFeedback(
            kind="weight",
            layer=name,
            at="input",
            tensor=backward,
            key=f"{name}.{fitting[0]}",
            rule=rule,
        )
    ]


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return parameters, buffers and plain tensor attributes of one module."""
    attributes = {key: value for key, value in vars(module).items() if torch.is_tensor(value)}
    return {
        **{key: value for key, value in module._parameters.items() if value is not None},
        **{key: value for key, value in module._buffers.items() if value is not None},
        **attributes,
    }

"""Everything that a forward pass may disturb, kept and put back."""

from __future__ import annotations

import random
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np
import torch
from torch.autograd.grad_mode import _unsafe_preserve_version_counter
from torch.nn import RNNBase

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor, nn

__all__ = ["State"]


@final
class _Kept:
    """A buffer with its values and its version, which a graph of the user's may depend on."""

    def __init__(self, buffer: Tensor) -> None:
        self.buffer: Final = buffer
        self._copy: Final = buffer.detach().clone()
        self._versions: Final = _unsafe_preserve_version_counter(buffer)

    def restore(self) -> None:
        """Put values and version back."""
        with torch.no_grad(), self._versions:
            if not torch.equal(self.buffer, self._copy):
                self.buffer.copy_(self._copy)


@dataclass(frozen=True)
class State:
    """Random states and buffers at one moment.

    Attributes:
        buffers: By module name and key.
        attributes: Tensors that modules hold besides parameters and buffers, by name and key.
        flat_weights: The lists of weights that recurrent modules keep besides, by name and key.
        torch_state: State of the host generator of torch.
        device_states: States of the generators of the devices in use.
        numpy_state: State of numpy's global generator.
        python_state: State of Python's generator.
    """

    buffers: Mapping[str, Mapping[str, _Kept | None]]
    attributes: Mapping[str, Mapping[str, Tensor]]
    flat_weights: Mapping[str, Mapping[str, list[Any]]]
    torch_state: Tensor
    device_states: dict[int, Tensor]
    numpy_state: Any
    python_state: Any

    @classmethod
    def of(cls, model: nn.Module) -> State:
        """Return the present state, all tensors copied."""
        modules = list(model.named_modules())
        devices = {p.device.index for p in model.parameters() if p.device.type == "cuda"}
        return cls(
            buffers={
                name: {
                    key: None if buffer is None else _Kept(buffer)
                    for key, buffer in module._buffers.items()
                }
                for name, module in modules
            },
            attributes={name: _tensors(module) for name, module in modules},
            flat_weights={name: _lists(module) for name, module in modules},
            torch_state=torch.get_rng_state(),
            device_states={i: torch.cuda.get_rng_state(i) for i in devices if i is not None},
            numpy_state=np.random.get_state(),  # noqa: NPY002
            python_state=random.getstate(),
        )

    @contextmanager
    def again(self, model: nn.Module) -> Iterator[None]:
        """Go back to this moment for a while, and leave nothing of what happens there."""
        after = State.of(model)
        self.restore(model)
        try:
            yield
        finally:
            after.restore(model)

    def restore_random(self) -> None:
        """Put the random states back."""
        torch.set_rng_state(self.torch_state)
        for index, state in self.device_states.items():
            torch.cuda.set_rng_state(state, index)
        np.random.set_state(self.numpy_state)  # noqa: NPY002
        random.setstate(self.python_state)

    def restore(self, model: nn.Module) -> None:
        """Put random states and buffers back: the same tensors with the same values."""
        self.restore_random()
        for name, module in model.named_modules():
            if name not in self.buffers:
                continue
            module._buffers.clear()
            for key, kept in self.buffers[name].items():
                module._buffers[key] = None if kept is None else kept.buffer
                if kept is not None:
                    kept.restore()
            # What a forward pass leaves in its modules would keep the graph alive.
            for key in _tensors(module).keys() - self.attributes[name].keys():
                del vars(module)[key]
            vars(module).update(self.attributes[name])
            for key, weights in self.flat_weights[name].items():
                vars(module)[key][:] = weights


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {key: value for key, value in vars(module).items() if isinstance(value, torch.Tensor)}


def _lists(module: nn.Module) -> dict[str, list[Any]]:
    """Return what ``torch.func.functional_call`` exchanges in recurrent modules and leaves so."""
    keys = ("_flat_weights", "_flat_weight_refs") if isinstance(module, RNNBase) else ()
    return {key: list(vars(module)[key]) for key in keys if key in vars(module)}

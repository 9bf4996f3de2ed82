"""Weights exchanged in the backward pass alone, through the tensors that autograd saved."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from alignlab.errors import MeasurementError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["WeightSwap"]


@dataclass(frozen=True)
class _Handle:
    """A saved view of a weight: which one, and where in its storage."""

    name: str
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    version: int


@dataclass(frozen=True)
class _Kept:
    """Any other saved tensor, and its version."""

    tensor: Tensor
    version: int


class WeightSwap:
    """Lets a backward pass see other weights than the forward pass used.

    While it is recording, autograd saves a handle in place of every tensor that lives in
    the storage of a measured weight; the handle is turned back into the weight, or into
    what replaces it. Input gradients then run through the replacement and weight
    gradients stay those of the forward weight, as feedback alignment demands.

    Attributes:
        packed: How often each weight was saved.
        caller: Name of the module that is running; of tied weights, it is its own that it saves.
    """

    def __init__(self, weights: Mapping[str, Tensor], *, volatile: Iterable[Tensor] = ()) -> None:
        """Prepare for these weights.

        Args:
            weights: By name.
            volatile: Tensors that change before the backward pass; they are saved as copies.
        """
        self.packed: Counter[str] = Counter()
        self.caller = ""
        self._weights = dict(weights)
        self._names: dict[int, list[str]] = {}
        for name, weight in weights.items():
            self._names.setdefault(_memory(weight), []).append(name)
        self._volatile = {_memory(tensor) for tensor in volatile}
        self._replacement: Mapping[str, Tensor] | None = None

    def recording(self) -> torch.autograd.graph.saved_tensors_hooks:
        """Return the context in which the forward pass runs."""
        return torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack)

    def replaced(self, replacement: Mapping[str, Tensor]) -> _Replaced:
        """Return a context in which backward passes see ``replacement``, by name."""
        return _Replaced(self, replacement)

    def _pack(self, tensor: Tensor) -> _Kept | _Handle:
        name = self._name_of(tensor)
        if name is None:
            # An output that its own node kept would keep the whole graph alive.
            kept = tensor.clone() if _memory(tensor) in self._volatile else tensor
            return _Kept(kept.detach(), kept._version)
        self.packed[name] += 1
        weight = self._weights[name]
        offset = int(tensor.storage_offset()) - int(weight.storage_offset())
        return _Handle(name, tuple(tensor.shape), tensor.stride(), offset, weight._version)

    def _name_of(self, tensor: Tensor) -> str | None:
        """Return whose weight a tensor is a view of; several may lie in one piece of memory."""
        names = [
            name
            for name in self._names.get(_memory(tensor), ())
            if tensor.storage_offset() in _extent(self._weights[name])
        ]
        return self.caller if self.caller in names else next(iter(names), None)

    def _unpack(self, saved: _Kept | _Handle) -> Tensor:
        if isinstance(saved, _Kept):
            if saved.tensor._version != saved.version:
                msg = (
                    f"A tensor of shape {tuple(saved.tensor.shape)} that the backward pass needs "
                    "was changed in place; change a copy of it."
                )
                raise MeasurementError(msg)
            return saved.tensor
        weight = self._weights[saved.name]
        if weight._version != saved.version:
            msg = (
                f"The weight of {saved.name!r} changed between the forward and the backward "
                "pass; probe before the optimizer's step."
            )
            raise MeasurementError(msg)
        source = weight if self._replacement is None else self._replacement[saved.name]
        return source.detach().as_strided(
            saved.size, saved.stride, source.storage_offset() + saved.offset
        )

    def _set(self, replacement: Mapping[str, Tensor] | None) -> None:
        if replacement is None:
            self._replacement = None
            return
        self._replacement = {
            name: _laid_out_like(replacement[name], weight)
            for name, weight in self._weights.items()
        }


class _Replaced:
    """The context manager of ``WeightSwap.replaced``."""

    def __init__(self, swap: WeightSwap, replacement: Mapping[str, Tensor]) -> None:
        self._swap = swap
        self._replacement = replacement

    def __enter__(self) -> None:
        self._swap._set(self._replacement)

    def __exit__(self, *_: object) -> None:
        self._swap._set(None)


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _extent(weight: Tensor) -> range:
    start = int(weight.storage_offset())
    return range(start, start + weight.numel())


def _laid_out_like(tensor: Tensor, weight: Tensor) -> Tensor:
    if tensor.stride() == weight.stride():
        return tensor.detach()
    result = torch.empty_like(weight, memory_format=torch.preserve_format)
    return result.copy_(tensor.detach()).detach()

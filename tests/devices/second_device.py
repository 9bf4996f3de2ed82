"""A second device made of the host's memory: what would not run on an accelerator fails here.

Tensors on it compute what the host computes, to the bit, and refuse what an accelerator refuses:
one operation over two devices, ``numpy()``, a generator of the host. What is particular to CUDA
(its own generators, its kernels, waits) it does not show; the tests marked ``gpu`` do.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

__all__ = ["SECOND", "second_device"]

SECOND = torch.device("lazy", 0)
"""A device type that torch knows and no backend of this build fills."""

_BETWEEN = {"aten::copy_", "aten::_to_copy", "aten::set_"}
"""Operations that may read one device and write the other."""

_CHOSEN_BY_HOST = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
"""Operations whose places may lie on the host, whatever the values do."""

_JOINS = {"aten::cat", "aten::stack"}
"""Operations in which not even a scalar of the host is taken beside tensors of a device."""


class _There(Tensor):
    """A tensor on the second device, and the host's tensor that holds its values."""

    values: Tensor

    @staticmethod
    def __new__(cls, values: Tensor) -> _There:
        """Wrap a tensor of the host."""
        made: _There = Tensor._make_wrapper_subclass(
            cls,
            values.size(),
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            device=SECOND,
            dispatch_sizes_strides_policy="sizes",
        )
        made.values = values
        return made

    @classmethod
    def __torch_dispatch__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Compute on the host."""
        return _computed(function, args, kwargs or {})

    def tolist(self) -> Any:
        """Return the values, as a tensor of any device does."""
        return self.values.tolist()

    @property
    def data(self) -> Tensor:  # type: ignore[override]
        """The values, detached; what is assigned takes their place."""
        return Tensor.data.__get__(self)

    @data.setter
    def data(self, other: _There) -> None:
        Tensor.data.__set__(self, other)
        self.values = other.values

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        """Return a leaf of the same values, a parameter where this is one."""
        made: Tensor = _There(self.values.detach().clone())
        if isinstance(self, nn.Parameter):
            made = nn.Parameter(made, self.requires_grad)
        memo[id(self)] = made
        return made

    def untyped_storage(self) -> torch.UntypedStorage:
        """Return the memory that the values lie in, which tells views apart."""
        return self.values.untyped_storage()

    def data_ptr(self) -> int:
        """Return where the values lie."""
        return self.values.data_ptr()

    def __repr__(self, **_: Any) -> str:
        """Name the device beside the values."""
        return f"{SECOND}: {self.values!r}"


class _Mode(TorchDispatchMode):
    """Sends what is made on the second device there."""

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Compute on the host."""
        return _computed(function, args, kwargs or {})


class _Constants(TorchFunctionMode):
    """Makes tensors of numbers on the host first: torch fills them below its dispatch."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Make the tensor on the host and send it."""
        named = dict(kwargs or {})
        if function in {torch.tensor, torch.as_tensor} and _is_there(named.get("device")):
            return function(*args, **{**named, "device": "cpu"}).to(SECOND)
        if function is Tensor.new_tensor and isinstance(args[0], _There):
            return function(args[0].values, *args[1:], **named).to(SECOND)
        return function(*args, **named)


@contextmanager
def second_device() -> Iterator[torch.device]:
    """Let tensors be made on the second device while the context is open."""
    with _Mode(), _Constants():
        yield SECOND


def _computed(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    there = [tensor for tensor in tensors if isinstance(tensor, _There)]
    named = kwargs.get("device")
    is_there = bool(there) if named is None else _is_there(named)
    _refuse(function, args, kwargs, tensors)
    on_host = kwargs if named is None else {**kwargs, "device": torch.device("cpu")}
    if not there and not is_there:
        return function(*args, **kwargs)
    args, on_host = tree_map(_on_host, args), tree_map(_on_host, on_host)
    found = function(*args, **on_host)
    known = {id(tensor.values): tensor for tensor in there}
    if function._schema.name == "aten::copy_":
        return tensors[0]

    def placed(value: Any) -> Any:
        if not isinstance(value, Tensor) or not is_there:
            return value
        return known[id(value)] if id(value) in known else _There(value)

    return tree_map(placed, found)


def _is_there(device: Any) -> bool:
    return device is not None and torch.device(device).type == SECOND.type


def _on_host(value: Any) -> Any:
    return value.values if isinstance(value, _There) else value


def _refuse(function: Any, args: Any, kwargs: dict[str, Any], tensors: list[Tensor]) -> None:
    name = function._schema.name
    there = [tensor for tensor in tensors if isinstance(tensor, _There)]
    host = [tensor for tensor in tensors if not isinstance(tensor, _There)]
    generator = kwargs.get("generator")
    drawn_there = bool(there) or _is_there(kwargs.get("device"))
    if drawn_there and generator is not None:
        msg = f"{name} draws on {SECOND} with a generator of the host."
        raise RuntimeError(msg)
    if name in _BETWEEN or not there:
        return
    if name in _CHOSEN_BY_HOST and isinstance(args[0], _There):
        host = [each for each in host if each.is_floating_point()]
    if name not in _JOINS:
        host = [each for each in host if each.dim() > 0]
    if host:
        shapes = [(tuple(each.shape), str(each.device)) for each in tensors]
        msg = f"{name} was called with tensors of two devices: {shapes}."
        raise RuntimeError(msg)

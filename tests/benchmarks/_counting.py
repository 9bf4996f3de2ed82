"""Counts what a step asks of the machine: kernels launched, and waits of the host for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["Counts", "counted"]

aten = torch.ops.aten

WITHOUT_KERNEL = {
    aten._unsafe_view,
    aten._reshape_alias,
    aten.detach,
    aten.alias,
    aten.lift_fresh,
    aten.empty,
    aten.empty_like,
    aten.empty_strided,
    aten.empty_permuted,
    aten.new_empty,
    aten.new_empty_strided,
    aten.resize_,
    aten.set_,
    aten.is_same_size,
    aten._local_scalar_dense,
    aten.record_stream,
    aten.is_pinned,
}
"""Calls that allocate or describe; views are told by their schema."""

WAITS = {
    aten._local_scalar_dense,
    aten.nonzero,
    aten.masked_select,
    aten.equal,
    aten._unique2,
    aten.unique_dim,
    aten.unique_consecutive,
    aten.bincount,
    aten.repeat_interleave,
}
"""Calls whose result, or its shape, the host must wait for."""

INDEXED = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}
"""Calls that wait where an index is a mask."""


class Counts(TorchDispatchMode):
    """Counts while it is entered, in backward passes too.

    A transfer to the host that a CPU tensor makes without a call below autograd (``.cpu()``,
    ``.numpy()``, ``.tolist()``, ``.to("cpu")``) is counted where it is written, so that the
    numbers are those of any device.

    Attributes:
        launches: Calls that run a kernel, by name.
        waits: Waits of the host, by name.
    """

    def __init__(self) -> None:
        super().__init__()
        self.launches: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = str(func.overloadpacket)
        if not func.is_view and func.overloadpacket not in WITHOUT_KERNEL:
            self.launches[name] += 1
        if _waits(func.overloadpacket, args, kwargs):
            self.waits[name] += 1
        return func(*args, **kwargs)


@contextmanager
def counted() -> Iterator[Counts]:
    """Count what is done inside.

    Yields:
        The counts, complete when the context is left.
    """
    counts = Counts()
    with ExitStack() as stack:
        for name in ("cpu", "numpy", "tolist"):
            stack.enter_context(patch.object(Tensor, name, _noticed(counts, name)))
        stack.enter_context(patch.object(Tensor, "to", _noticed_move(counts)))
        stack.enter_context(counts)
        yield counts


def _waits(packet: Any, args: Any, kwargs: Any) -> bool:
    if packet in WAITS:
        return not (packet is aten.repeat_interleave and kwargs.get("output_size") is not None)
    if packet in INDEXED:
        return any(_is_mask(each) for each in tree_leaves(args[1]))
    if packet is aten.copy_:
        into, source = args[0], args[1]
        blocking = not (kwargs.get("non_blocking") or (len(args) > 2 and args[2]))
        return blocking and into.device.type == "cpu" and source.device.type != "cpu"
    return False


def _is_mask(index: Any) -> bool:
    return isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)


def _noticed(counts: Counts, name: str) -> Callable[..., Any]:
    original = getattr(Tensor, name)

    def method(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        counts.waits[f"Tensor.{name}"] += 1
        return original(tensor, *args, **kwargs)

    return method


def _noticed_move(counts: Counts) -> Callable[..., Any]:
    original = Tensor.to

    def method(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        target = kwargs.get("device", kwargs.get("other", args[0] if args else None))
        device = target.device if isinstance(target, Tensor) else target
        # On a CPU, the device of another tensor may as well have been that of a GPU.
        written = isinstance(device, str) and torch.device(device).type == "cpu"
        to_host = isinstance(device, torch.device) and device.type == "cpu" != tensor.device.type
        if (written or to_host) and not (
            kwargs.get("non_blocking") or any(each is True for each in args)
        ):
            counts.waits["Tensor.to"] += 1
        return original(tensor, *args, **kwargs)

    return method

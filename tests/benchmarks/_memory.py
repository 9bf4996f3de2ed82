"""Counts the bytes that tensors hold, from what operations return, on any machine alike."""

from __future__ import annotations

import gc
import os
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["Footprint", "Growth", "LiveBytes", "footprint", "growth", "resident_bytes"]


@dataclass(frozen=True)
class Footprint:
    """What a step holds once it is warm.

    Attributes:
        peak: Most bytes that live at one time in a step, over ``kept``.
        kept: Bytes that live between steps, the gradients left out.
    """

    peak: int
    kept: int


class LiveBytes(TorchDispatchMode):
    """Counts storages that operations make while it is entered, until they are freed.

    What exists before is not counted, nor what an operation allocates for itself and frees, nor
    tensors on the device ``meta``, which hold nothing.

    Attributes:
        live: Bytes that are held now.
        peak: Most bytes that were held since ``mark``.
        count: Storages that are held now.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = self.count = 0
        self._seen: dict[int, int] = {}
        self._counted: dict[int, int] = {}

    def mark(self) -> None:
        """Forget the peak so far."""
        self.peak = self.live

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = _storages((args, kwargs))
        for storage in given:
            if storage._cdata not in self._seen:
                self._follow(storage, storage.nbytes(), is_new=False)
        result = func(*args, **kwargs)
        for storage in (*given, *_storages(result)):
            if storage._cdata not in self._seen:
                self._follow(storage, 0, is_new=True)
                self.count += 1
            grown = storage.nbytes() - self._seen[storage._cdata]
            self._seen[storage._cdata] += grown
            self._counted[storage._cdata] += grown
            self.live += grown
        self.peak = max(self.peak, self.live)
        return result

    def _follow(self, storage: torch.UntypedStorage, size: int, *, is_new: bool) -> None:
        """Begin to follow a storage, of which the given bytes do not count."""
        self._seen[storage._cdata] = size
        self._counted[storage._cdata] = 0
        # The wrapper of a storage lives as long as the storage, also while only C++ holds it.
        end = weakref.finalize(storage, self._free, storage._cdata, is_new=is_new)
        end.atexit = False

    def _free(self, key: int, *, is_new: bool) -> None:
        del self._seen[key]
        self.live -= self._counted.pop(key)
        self.count -= is_new


@dataclass(frozen=True)
class Growth:
    """What many steps leave behind, from the end of the first tenth to the end of the last.

    Attributes:
        live: Bytes of tensors.
        storages: Storages of tensors.
        resident: Bytes of the process.
    """

    live: int
    storages: int
    resident: int


def footprint(step: Callable[[], object], model: nn.Module) -> Footprint:
    """Return what the fourth of four steps holds.

    Args:
        step: Begins with ``zero_grad``, which frees the gradients.
        model: Whose gradients are left between steps.
    """
    gc.collect()
    gc.disable()
    try:
        with LiveBytes() as bytes_of:
            for _ in range(3):
                step()
            gradients = sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
            kept = bytes_of.live - gradients
            bytes_of.mark()
            step()
    finally:
        gc.enable()
    return Footprint(peak=bytes_of.peak - kept, kept=kept)


def growth(step: Callable[[], object], *, steps: int) -> Growth:
    """Return by how much what is left behind grows over many steps."""
    with LiveBytes() as bytes_of:
        found = []
        for _ in range(10):
            for _ in range(steps // 10):
                step()
            gc.collect()
            found.append((bytes_of.live, bytes_of.count, resident_bytes()))
    return Growth(*(last - first for first, last in zip(found[0], found[-1], strict=True)))


def resident_bytes() -> int:
    """Return the memory of this process in bytes, from the kernel; Linux only."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _storages(values: Any) -> list[torch.UntypedStorage]:
    tensors = [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
    return [
        tensor.untyped_storage()
        for tensor in tensors
        if tensor.layout == torch.strided and not tensor.is_meta
    ]

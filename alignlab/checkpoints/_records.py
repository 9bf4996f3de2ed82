"""Tensors and arrays as a pickle describes them, built by us from raw bytes with bounds checked."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "ArrayRecord",
    "DtypeRecord",
    "StorageRecord",
    "TensorRecord",
    "rebuild",
    "scalar",
    "storage_dtype",
]

_STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": torch.uint8,
}
_NUMERIC = re.compile(r"[biufc](1|2|4|8|16)")


def storage_dtype(name: str) -> torch.dtype | None:
    """Return the element type of a storage class by its name, or None where there is none."""
    return _STORAGES.get(name.removeprefix("_"))


@dataclass(frozen=True)
class StorageRecord:
    """A flat run of numbers that tensors look into.

    Attributes:
        key: Name of the bytes in the file.
        dtype: Type of an element.
        offset: First element of this view into the bytes.
        payload: The bytes themselves, where the pickle carries them.
    """

    key: str
    dtype: torch.dtype
    offset: int = 0
    payload: bytes | None = None


@dataclass(frozen=True)
class TensorRecord:
    """A tensor before its numbers are read: shape and place in a storage."""

    storage: StorageRecord
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype

    def tensor(self, read: Callable[[str], bytes]) -> Tensor:
        """Read the numbers.

        Args:
            read: Returns the bytes of a storage by its key.

        Returns:
            The tensor, on the host, with memory of its own.

        Raises:
            ValueError: Shape and strides reach outside the storage.
        """
        storage = self.storage
        raw = read(storage.key) if storage.payload is None else storage.payload
        size = storage.dtype.itemsize
        flat = raw[storage.offset * size :]
        count = len(flat) // self.dtype.itemsize
        sizes = (*self.shape, *self.strides, self.offset)
        if not all(type(number) is int and number >= 0 for number in sizes):
            message = f"a tensor of shape {self.shape} and strides {self.strides}"
            raise ValueError(message)
        if not prod(self.shape):
            return torch.zeros(self.shape, dtype=self.dtype)
        pairs = zip(self.shape, self.strides, strict=True)
        if self.offset + sum((n - 1) * step for n, step in pairs) >= count:
            message = f"a tensor of shape {self.shape} reaches beyond its {count} stored numbers"
            raise ValueError(message)
        numbers = torch.frombuffer(bytearray(flat), dtype=self.dtype, count=count)
        return numbers.as_strided(self.shape, self.strides, self.offset)


def rebuild(
    storage: StorageRecord, offset: int, shape: Sequence[int], strides: Sequence[int], *rest: Any
) -> TensorRecord:
    """Stand in for torch's functions that rebuild a tensor from a storage.

    Args:
        storage: What it looks into.
        offset: First element.
        shape: Its shape.
        strides: Its strides.
        *rest: Gradient flag and hooks, without effect; a dtype among them decides.
    """
    dtypes = [item for item in rest if isinstance(item, torch.dtype)]
    dtype = dtypes[0] if dtypes else storage.dtype
    return TensorRecord(storage, offset, tuple(shape), tuple(strides), dtype)


@dataclass
class DtypeRecord:
    """A NumPy dtype before it is trusted."""

    code: str
    order: str = "="

    @property
    def is_numeric(self) -> bool:
        """Whether it is one of plain numbers: no objects, strings or structures."""
        return bool(_NUMERIC.fullmatch(self.code)) and self.order in {"<", ">", "=", "|"}

    def dtype(self) -> np.dtype[Any]:
        """Return it, where it is one of plain numbers.

        Raises:
            ValueError: Objects, strings, structures.
        """
        if not self.is_numeric:
            message = f"an array of dtype {self.code!r}"
            raise ValueError(message)
        return np.dtype(self.order + self.code)


@dataclass
class ArrayRecord:
    """A NumPy array before it is read: shape, dtype, raw bytes."""

    shape: tuple[int, ...] = ()
    kind: DtypeRecord = field(default_factory=lambda: DtypeRecord("O"))
    raw: bytes = b""
    is_fortran: bool = False

    def tensor(self) -> Tensor:
        """Return the numbers.

        Raises:
            ValueError: Not plain numbers, or not as many bytes as the shape needs.
        """
        numbers = np.frombuffer(self.raw, dtype=self.kind.dtype())
        array = numbers.reshape(self.shape, order="F" if self.is_fortran else "C")
        native = array.astype(array.dtype.newbyteorder("="), copy=True)
        return torch.from_numpy(np.ascontiguousarray(native).reshape(self.shape))


def scalar(kind: DtypeRecord, raw: bytes | str = b"") -> object:
    """Stand in for NumPy's function that rebuilds a number; others are returned as they are."""
    if not kind.is_numeric:
        return raw
    data = raw.encode("latin1") if isinstance(raw, str) else raw
    return np.frombuffer(data, dtype=kind.dtype(), count=1)[0].item()

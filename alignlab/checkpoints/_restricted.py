"""An unpickler that imports and calls nothing that a file names.

It knows a fixed set of constructions of our own (tensors, arrays, plain containers); every other
class or function in the file becomes an inert placeholder that only remembers what it was given.
"""

from __future__ import annotations

import io
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from typing import IO, Any, ClassVar

import torch

from alignlab.checkpoints._foreign import Foreign, HostileError
from alignlab.checkpoints._records import (
    ArrayRecord,
    DtypeRecord,
    StorageRecord,
    TensorRecord,
    rebuild,
    scalar,
    storage_dtype,
)

__all__ = ["RestrictedUnpickler"]

_HOSTILE = re.compile(
    r"(bdb|codeop|commands|ctypes|http|importlib|marshal|multiprocessing|nt|os|pdb|_?pickle|pip|"
    r"popen2|posix|pty|requests|runpy|shutil|socket|subprocess|sys|tempfile|timeit|torch\.hub|"
    r"urllib|webbrowser|zipimport)\..*"
    r"|_?io\.(open|open_code|FileIO)"
    r"|builtins\.(__import__|apply|breakpoint|compile|delattr|eval|exec|execfile|exit|globals|help|"
    r"input|locals|open|quit|setattr|vars)(\..*)?"
)
_RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg"}


class _Bounded:
    """A file that makes no room for more bytes than it has."""

    def __init__(self, file: IO[bytes]) -> None:
        start = file.tell()
        self._end = file.seek(0, io.SEEK_END)
        file.seek(start)
        self._file = file
        self.readline = file.readline

    def read(self, count: int) -> bytes:
        """Return that many bytes.

        Raises:
            EOFError: There are fewer.
        """
        if count > self._end - self._file.tell():
            message = f"{count} bytes promised, {self._end - self._file.tell()} there"
            raise EOFError(message)
        return self._file.read(count)


class RestrictedUnpickler(pickle._Unpickler):
    """Read one pickle without importing or calling anything that it names.

    The interpreter's own unpickler in Python is the base: unlike the one in C it allocates nothing
    on the word of a damaged byte.

    Attributes:
        foreign: Names of the classes that placeholders stand for, in order.
        storages: Element types of the storages that tensors look into, by key.
    """

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(pickle._Unpickler.dispatch)

    def __init__(self, file: IO[bytes], read_storage: Callable[[bytes], StorageRecord]) -> None:
        """Prepare to read.

        Args:
            file: Where the pickle begins.
            read_storage: Reads a storage that was saved as bytes inside a pickle.
        """
        super().__init__(_Bounded(file), encoding="latin1")
        self.foreign: list[str] = []
        self.storages: dict[str, torch.dtype] = {}
        self._placeholders: dict[str, type[Foreign]] = {}
        self._known = {**_KNOWN, "torch.storage._load_from_bytes": read_storage}

    def find_class(self, module: str, name: str) -> Any:
        """Return our own construction for a name, or a placeholder; never the thing itself.

        Raises:
            HostileError: The name is of a kind that only an attack needs.
        """
        module = _RENAMED.get(module, module)
        path = f"{module}.{name}"
        if _HOSTILE.fullmatch(path):
            message = f"would run {path} when it is unpickled"
            raise HostileError(message)
        if path in self._known:
            return self._known[path]
        if module == "torch" and isinstance(torch.__dict__.get(name), torch.dtype):
            return torch.__dict__[name]
        if module in {"torch", "torch.cuda", "torch.storage"} and storage_dtype(name):
            return storage_dtype(name)
        if path not in self._placeholders:
            self.foreign.append(path)
            self._placeholders[path] = type(name, (Foreign,), {"path": path})
        return self._placeholders[path]

    def persistent_load(self, pid: Any) -> Any:
        """Return what a mark in the pickle stands for: a storage, or a class with its source.

        Raises:
            pickle.UnpicklingError: The mark is that of something else.
        """
        if pid[0] == "module":
            return pid[1]
        kind, dtype, key, _location, _numel, *view = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            message = f"a mark of kind {kind!r}"
            raise pickle.UnpicklingError(message)
        self.storages[str(key)] = dtype
        offset = view[0][1] if view and view[0] else 0
        return StorageRecord(str(key), dtype, offset)

    def load_build(self) -> None:
        """Set state on our own kinds only."""
        state = self.stack.pop()  # type: ignore[attr-defined]
        target = self.stack[-1]  # type: ignore[attr-defined]
        if isinstance(target, Foreign):
            target.state = state
        elif isinstance(target, DtypeRecord):
            target.order = str(state[1])
        elif isinstance(target, ArrayRecord):
            _fill(target, state)
        elif not isinstance(target, dict | TensorRecord):
            message = f"state for a {type(target).__name__}"
            raise pickle.UnpicklingError(message)

    def load_bytearray(self) -> None:
        """Read bytes before making room for them."""
        length = int.from_bytes(self.read(8), "little")  # type: ignore[attr-defined]
        self.append(bytearray(self.read(length)))  # type: ignore[attr-defined]

    def refuse_extension(self) -> None:
        """Refuse the codes that stand for names registered in this process."""
        message = "a registered extension"
        raise pickle.UnpicklingError(message)

    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray
    dispatch[pickle.EXT1[0]] = refuse_extension
    dispatch[pickle.EXT2[0]] = refuse_extension
    dispatch[pickle.EXT4[0]] = refuse_extension


def _fill(target: ArrayRecord, state: tuple[Any, ...]) -> None:
    """Set what NumPy pickles of an array: shape, dtype, order, bytes."""
    shape, kind, is_fortran, raw = state[-4:]
    target.shape, target.kind, target.is_fortran = tuple(shape), kind, bool(is_fortran)
    target.raw = raw.encode("latin1") if isinstance(raw, str) else raw


def _array_from_buffer(
    raw: bytes, kind: DtypeRecord, shape: tuple[int, ...], order: str
) -> ArrayRecord:
    return ArrayRecord(tuple(shape), kind, bytes(raw), order == "F")


def _encode(text: str, encoding: str = "latin1") -> bytes:
    return text.encode("latin1" if encoding == "latin1" else "utf-8")


def _first(value: object, *_: object) -> object:
    return value


def _from_type(function: Callable[..., object], _kind: object, args: Any, *_: object) -> object:
    return function(*args)


def _plain_dict(*args: Any) -> dict[Any, Any]:
    """Stand in for the kinds of dict whose first argument is no mapping."""
    return dict(args[-1]) if args and isinstance(args[-1], dict) else {}


def _reconstructed(kind: Callable[[], object], *_: object) -> object:
    return kind()


def _text(*args: object) -> str:
    return ":".join(map(str, args))


def _new_array(*_: object) -> ArrayRecord:
    return ArrayRecord()


def _new_dtype(code: object, *_: object) -> DtypeRecord:
    return DtypeRecord(str(code))


_KNOWN: dict[str, Callable[..., object]] = {
    "collections.OrderedDict": OrderedDict,
    "collections.defaultdict": _plain_dict,
    "collections.Counter": _plain_dict,
    "builtins.set": set,
    "builtins.frozenset": frozenset,
    "builtins.complex": complex,
    "builtins.dict": dict,
    "builtins.list": list,
    "builtins.tuple": tuple,
    "_codecs.encode": _encode,
    "copyreg._reconstructor": _reconstructed,
    "torch.Size": tuple,
    "torch.device": _text,
    "torch._utils._rebuild_tensor": rebuild,
    "torch._utils._rebuild_tensor_v2": rebuild,
    "torch._utils._rebuild_tensor_v3": rebuild,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch._tensor._rebuild_from_type_v2": _from_type,
    "torch.Tensor": _first,
    "torch.nn.parameter.Parameter": _first,
    "torch.nn.parameter.Buffer": _first,
    "numpy.dtype": _new_dtype,
    "numpy.ndarray": ArrayRecord,
    "numpy.core.multiarray._reconstruct": _new_array,
    "numpy._core.multiarray._reconstruct": _new_array,
    "numpy.core.multiarray.scalar": scalar,
    "numpy._core.multiarray.scalar": scalar,
    "numpy.core.numeric._frombuffer": _array_from_buffer,
    "numpy._core.numeric._frombuffer": _array_from_buffer,
}

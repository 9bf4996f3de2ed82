"""Reading the pickles of standard archives without letting them run anything."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np

from alignlab.errors import InputError

__all__ = ["load_plain"]


def load_plain(content: bytes, *, source: Path) -> object:
    """Unpickle containers, numbers, text and numpy arrays of numbers, and nothing else.

    Args:
        content: A pickle; byte strings of Python 2 stay bytes.
        source: File for the error's text.

    Returns:
        The object.

    Raises:
        InputError: It asks for anything else, which is never imported; or it is damaged.
    """
    try:
        return _PlainUnpickler(io.BytesIO(content), source).load()
    except InputError:
        raise
    except Exception as error:
        message = f"{source} cannot be read as a pickle of arrays: {type(error).__name__}: {error}."
        raise InputError(message) from error


def _encode(text: str, encoding: str) -> bytes:
    """Stand in for ``_codecs.encode``, with which newer pickles spell bytes."""
    if encoding != "latin1":
        message = f"the encoding {encoding!r} is not allowed"
        raise ValueError(message)
    return text.encode("latin1")


def _empty_array(kind: type, shape: tuple[int, ...], _code: bytes) -> np.ndarray:
    """Stand in for numpy's ``_reconstruct``: an empty array, which its state then fills."""
    if kind is not np.ndarray or shape != (0,):
        message = "only plain arrays are allowed"
        raise ValueError(message)
    return np.ndarray(0, dtype=np.int8)


def _dtype(code: str | bytes, *_flags: object) -> np.dtype:
    """Stand in for ``numpy.dtype``: the types of numbers only."""
    name = code.decode("ascii") if isinstance(code, bytes) else code
    dtype = np.dtype(name, False, True)  # a copy: the state that follows must not touch numpy's own
    if dtype.kind not in "biuf":
        message = f"the type {dtype} is not allowed"
        raise ValueError(message)
    return dtype


_ALLOWED: dict[tuple[str, str], Callable[..., object]] = {
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): dict,
    ("numpy", "dtype"): _dtype,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy._core.multiarray", "_reconstruct"): _empty_array,
    ("numpy.core.multiarray", "_reconstruct"): _empty_array,
}


class _PlainUnpickler(pickle.Unpickler):
    """An unpickler that hands out its own stand-ins and imports nothing."""

    def __init__(self, file: io.BytesIO, source: Path) -> None:
        super().__init__(file, encoding="bytes")
        self._source = source

    def find_class(self, module: str, name: str) -> Callable[..., object]:
        """Return the stand-in for an allowed name; refuse all others."""
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        message = (
            f"{self._source} asks for {module}.{name}, which a pickle of arrays does not need; it "
            "was not run. Get the file from its publisher again."
        )
        raise InputError(message)

    def persistent_load(self, _key: object) -> object:
        """Refuse objects that lie outside of the file."""
        message = f"{self._source} refers to objects outside of itself; it is no data set."
        raise InputError(message)

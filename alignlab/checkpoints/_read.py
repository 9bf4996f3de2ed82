"""A file's bytes to a tree of plain containers, tensors and inert placeholders."""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch

from alignlab.checkpoints._archive import check_records, find_record
from alignlab.checkpoints._foreign import Foreign, HostileError
from alignlab.checkpoints._records import ArrayRecord, StorageRecord, TensorRecord
from alignlab.checkpoints._restricted import RestrictedUnpickler
from alignlab.checkpoints._sniff import LEGACY, PICKLE, SAFETENSORS, ZIP
from alignlab.errors import CheckpointError

__all__ = ["Tree", "one_line", "read_tree"]

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_VERSION = 1001
_LONGEST = 2000


@dataclass(frozen=True)
class Tree:
    """What a file holds.

    Attributes:
        root: Containers, tensors, plain values, placeholders.
        foreign: Classes that placeholders stand for.
        header: Text beside the tensors of a safetensors file.
        notes: What a reader must know.
    """

    root: object
    foreign: tuple[str, ...] = ()
    header: Mapping[str, str] | None = None
    notes: tuple[str, ...] = ()


def read_tree(path: Path, form: str) -> Tree:
    """Read a file of a known format; nothing that it names is imported or called.

    ``torch.load(weights_only=True)`` reads what it accepts; the rest goes through an unpickler
    that turns every foreign class into a placeholder.

    Args:
        path: File.
        form: What ``file_format`` said.

    Raises:
        CheckpointError: Damaged, truncated, or a pickle that attacks.
    """
    try:
        if form == SAFETENSORS:
            return _read_safetensors(path)
        note = check_records(path) if form == ZIP else ""
        notes = (note,) if note else ()
        if form != PICKLE:
            try:
                return Tree(_torch_load(path), notes=notes)
            except Exception:
                # The restricted reader below says what the file is.
                pass
        root, foreign = _READERS[form](path)
        return Tree(root, foreign, notes=notes)
    except HostileError as error:
        message = f"{path} is a malicious pickle: it {error}. Nothing was run; delete the file."
        raise HostileError(message) from error
    except CheckpointError:
        raise
    except MemoryError as error:
        message = f"{path} needs more memory than there is; free some or use another machine."
        raise CheckpointError(message) from error
    except Exception as error:
        message = (
            f"{path} is a truncated or damaged {form} file ({_reason(error)}); "
            f"copy or download it again."
        )
        raise CheckpointError(message) from error


def one_line(text: str) -> str:
    """Return a text on one line, printable, and cut where it has no end."""
    shown = "".join(letter if letter.isprintable() else " " for letter in text[:_LONGEST])
    return " ".join(shown.split()) + ("..." if len(text) > _LONGEST else "")


def _reason(error: BaseException) -> str:
    text = one_line(str(error)) or type(error).__name__
    return text if len(text) <= 120 else f"{text[:117]}..."


def _torch_load(path: Path) -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.load(path, map_location="cpu", weights_only=True)


def _read_safetensors(path: Path) -> Tree:
    from safetensors import safe_open  # noqa: PLC0415 - needed for this format only

    with safe_open(path, framework="pt", device="cpu") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return Tree(tensors, header=dict(file.metadata() or {}))


def _read_zip(path: Path) -> tuple[object, tuple[str, ...]]:
    with zipfile.ZipFile(path) as archive:

        def read(key: str) -> bytes:
            return archive.read(find_record(archive, f"data/{key}"))

        with archive.open(find_record(archive, "data.pkl")) as stream:
            pickle_bytes = io.BytesIO(stream.read())
        unpickler = RestrictedUnpickler(pickle_bytes, _read_storage)
        root = unpickler.load()
        return _Realised(read)(root), tuple(unpickler.foreign)


def _read_legacy(path: Path) -> tuple[object, tuple[str, ...]]:
    with path.open("rb") as file:
        root, storages, foreign = _legacy_parts(file)
    return _Realised(storages.__getitem__)(root), foreign


def _read_pickle(path: Path) -> tuple[object, tuple[str, ...]]:
    with path.open("rb") as file:
        unpickler = RestrictedUnpickler(file, _read_storage)
        root = unpickler.load()
    return _Realised(_no_storage)(root), tuple(unpickler.foreign)


_READERS: dict[str, Callable[[Path], tuple[object, tuple[str, ...]]]] = {
    ZIP: _read_zip,
    LEGACY: _read_legacy,
    PICKLE: _read_pickle,
}


def _legacy_parts(file: IO[bytes]) -> tuple[object, dict[str, bytes], tuple[str, ...]]:
    """Read the five pickles of the legacy format and the raw storages behind them."""
    magic, version, _system = (RestrictedUnpickler(file, _read_storage).load() for _ in range(3))
    if magic != _LEGACY_MAGIC or version != _LEGACY_VERSION:
        message = "its magic number is wrong"
        raise ValueError(message)
    unpickler = RestrictedUnpickler(file, _read_storage)
    root = unpickler.load()
    keys = RestrictedUnpickler(file, _read_storage).load()
    storages = {}
    for key in map(str, keys):
        count = int.from_bytes(_exactly(file, 8), "little")
        size = unpickler.storages[key].itemsize
        storages[key] = _exactly(file, count * size)
    return root, storages, tuple(unpickler.foreign)


def _exactly(file: IO[bytes], count: int) -> bytes:
    start = file.tell()
    end = file.seek(0, io.SEEK_END)
    file.seek(start)
    if count > end - start:
        message = f"{count} bytes promised, {end - start} there"
        raise ValueError(message)
    return file.read(count)


def _read_storage(raw: bytes) -> StorageRecord:
    """Read a storage that ``pickle.dump`` wrote as the bytes of a legacy file."""
    root, storages, _ = _legacy_parts(io.BytesIO(raw))
    if not isinstance(root, StorageRecord):
        message = "a storage that is none"
        raise TypeError(message)
    return StorageRecord("", root.dtype, root.offset, storages[root.key])


def _no_storage(key: str) -> bytes:
    message = f"a storage {key} outside the pickle"
    raise ValueError(message)


class _Realised:
    """Copy a tree with its tensors read; a container that appears twice is copied once."""

    def __init__(self, read: Callable[[str], bytes]) -> None:
        self._read = read
        self._done: dict[int, Any] = {}

    def __call__(self, node: object) -> object:
        if isinstance(node, TensorRecord):
            return node.tensor(self._read)
        if isinstance(node, ArrayRecord):
            return node.tensor() if node.kind.is_numeric else f"<array of {node.kind.code}>"
        if isinstance(node, Foreign):
            return self._filled(node)
        if not isinstance(node, dict | list | tuple):
            return node
        if id(node) not in self._done:
            self._done[id(node)] = node if isinstance(node, tuple) else type(node)()
            self._done[id(node)] = self._copy(node)
        return self._done[id(node)]

    def _filled(self, node: Foreign) -> Foreign:
        """Read what a placeholder for a kind of dict holds."""
        if node.entries and id(node) not in self._done:
            self._done[id(node)] = node
            node.entries = {key: self(value) for key, value in node.entries.items()}
        return node

    def _copy(self, node: dict[Any, Any] | list[Any] | tuple[Any, ...]) -> object:
        if isinstance(node, tuple):
            return tuple(self(item) for item in node)
        copy = self._done[id(node)]
        if isinstance(node, dict):
            copy.update({key: self(value) for key, value in node.items()})
        else:
            copy.extend(self(item) for item in node)
        return copy

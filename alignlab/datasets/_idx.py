"""Image sets in the idx format: MNIST and those that copy its files."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alignlab.datasets import _files
from alignlab.datasets._npz import read_npz
from alignlab.datasets._samples import Arrays
from alignlab.datasets._split import published
from alignlab.errors import InputError

__all__ = ["IdxSet", "parse_idx"]

_PREFIX = {"train": "train", "test": "t10k"}
_SIZE = {"train": 60_000, "test": 10_000}


@dataclass(frozen=True)
class IdxSet:
    """A data set of grey images, as four idx files, plain or gzipped, or one npz.

    Attributes:
        name: Public name.
        folders: Folders of ``ALIGNLAB_DATA`` in which it may lie; downloads go into the first.
        md5: Published MD5s by file name.
        n_classes: Number of classes.
    """

    name: str
    folders: tuple[str, ...]
    md5: Mapping[str, str]
    n_classes: int = 10

    def read(self, split: str, *, download: bool) -> Arrays:
        """Return a split; images uint8, shape ``(N, 1, H, W)``."""
        folders = _files.places(self.name, *self.folders)
        arrays = self._from_npz(folders, split) or Arrays(
            x=self._part(folders, f"{_PREFIX[split]}-images-idx3-ubyte", download=download)[
                :, None
            ],
            y=self._part(folders, f"{_PREFIX[split]}-labels-idx1-ubyte", download=download),
        )
        return published(arrays, split, size=_SIZE[split], n_classes=self.n_classes)

    def _from_npz(self, folders: Sequence[Path], split: str) -> Arrays | None:
        """Return what an npz holds, where there is one and no idx file."""
        stem = f"{_PREFIX[split]}-images-idx3-ubyte"
        path = _files.find(folders, f"{self.name}.npz")
        if path is None or _files.find(folders, f"{stem}.gz", stem):
            return None
        return read_npz(path, split)

    def _part(self, folders: Sequence[Path], stem: str, *, download: bool) -> NDArray[np.uint8]:
        """Return the images or the labels."""
        names = (f"{stem}.gz", stem)
        path = _files.find(folders, *names)
        if path is None and download:
            path = _files.fetch(self.name, names[0], self.md5[names[0]], into=folders[0])
        if path is None:
            raise _files.missing(self.name, folders, [*names, f"{self.name}.npz"])
        content = _files.read_published(path, self.md5.get(path.name))
        return parse_idx(content, source=path)


def parse_idx(content: bytes, *, source: Path) -> NDArray[np.uint8]:
    """Read an idx file of bytes.

    Two zero bytes, the type (8 for uint8), the number of axes, their lengths as big-endian 32-bit
    integers, then the entries.

    Args:
        content: The file, plain or gzipped.
        source: File for the error's text.

    Returns:
        The entries in the shape that the file gives.

    Raises:
        InputError: Not idx, another type, or cut off.

    Example:
        >>> parse_idx(bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 9]), source=Path("labels"))
        array([7, 9], dtype=uint8)
    """
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            message = f"{source} is a damaged gzip file: {error}."
            raise InputError(message) from error
    if len(content) < 4 or content[:3] != b"\x00\x00\x08":
        message = (
            f"{source} is no idx file of bytes: it begins with {content[:4].hex() or 'nothing'}."
        )
        raise InputError(message)
    start = 4 + 4 * content[3]
    if len(content) < start:
        message = f"{source} is cut off: {len(content)} bytes are less than its header."
        raise InputError(message)
    shape = np.frombuffer(content[4:start], dtype=">u4").astype(int)
    held = np.frombuffer(content, dtype=np.uint8, offset=start)
    if held.size != int(np.prod(shape)):
        message = (
            f"{source} holds {held.size} entries and its header says {tuple(shape.tolist())}; get "
            "the file again."
        )
        raise InputError(message)
    return held.reshape(shape)

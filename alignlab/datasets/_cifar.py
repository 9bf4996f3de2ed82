"""The layouts of the CIFAR sets: archives and folders, pickled or binary, and npz."""

from __future__ import annotations

import io
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from alignlab.datasets import _files
from alignlab.datasets._npz import read_npz
from alignlab.datasets._pickle import load_plain
from alignlab.datasets._samples import Arrays
from alignlab.datasets._split import published
from alignlab.errors import InputError

__all__ = ["CifarSet", "Layout"]

_PIXELS = 3 * 32 * 32
_SIZE = {"train": 50_000, "test": 10_000}


@dataclass(frozen=True)
class Layout:
    """One of the two published forms.

    Attributes:
        archive: Name of the archive.
        md5: Its published MD5.
        folder: What it unpacks to.
        members: Files of each split.
        member_md5: Published MD5s of the files; those without are not compared.
        label_bytes: Label bytes before each image, the last of which counts; 0 for pickles.
    """

    archive: str
    md5: str
    folder: str
    members: Mapping[str, tuple[str, ...]]
    member_md5: Mapping[str, str]
    label_bytes: int

    def parse(self, content: bytes, *, source: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Return the images, shape ``(N, 3, 32, 32)``, and the labels of one file."""
        if self.label_bytes:
            return _parse_binary(content, self.label_bytes, source=source)
        return _parse_pickle(content, source=source)


@dataclass(frozen=True)
class CifarSet:
    """A CIFAR data set.

    Attributes:
        name: Public name.
        folders: Folders of ``ALIGNLAB_DATA`` in which it may lie; downloads go into the first.
        layouts: Published forms, the one to download first.
        n_classes: Number of classes.
    """

    name: str
    folders: tuple[str, ...]
    layouts: tuple[Layout, ...]
    n_classes: int

    def read(self, split: str, *, download: bool) -> Arrays:
        """Return a split; images uint8, shape ``(N, 3, 32, 32)``."""
        folders = _files.places(self.name, *self.folders)
        arrays = self._published(folders, split) or self._from_npz(folders, split)
        if arrays is None and download:
            layout = self.layouts[0]
            path = _files.fetch(self.name, layout.archive, layout.md5, into=folders[0])
            arrays = _read(layout, path, split)
        if arrays is None:
            files = [*(layout.archive for layout in self.layouts), f"{self.name}*.npz"]
            raise _files.missing(self.name, folders, files)
        return published(arrays, split, size=_SIZE[split], n_classes=self.n_classes)

    def _published(self, folders: Sequence[Path], split: str) -> Arrays | None:
        """Return what the first archive or unpacked folder holds, or None."""
        for layout in self.layouts:
            path = _files.find(folders, layout.archive, layout.folder)
            if path is not None:
                return _read(layout, path, split)
        return None

    def _from_npz(self, folders: Sequence[Path], split: str) -> Arrays | None:
        """Return what an npz holds, which may be a subset, or None."""
        found = [path for folder in folders for path in sorted(folder.glob(f"{self.name}*.npz"))]
        if len(found) > 1:
            message = (
                f"{self.name} is there {len(found)} times: {', '.join(map(str, found))}. Name one "
                "with npz:FILE."
            )
            raise InputError(message)
        return read_npz(found[0], split) if found else None


def _read(layout: Layout, path: Path, split: str) -> Arrays:
    """Read the files of a split from an archive or from its unpacked folder."""
    names = layout.members[split]
    if path.is_dir():
        contents = [
            _files.read_published(path / name, layout.member_md5.get(name)) for name in names
        ]
    else:
        contents = _unpack(_files.read_published(path, layout.md5), layout, names, source=path)
    parts = [
        layout.parse(content, source=path / name)
        for name, content in zip(names, contents, strict=True)
    ]
    return Arrays(
        x=np.concatenate([images for images, _ in parts]),
        y=np.concatenate([labels for _, labels in parts]),
    )


def _unpack(content: bytes, layout: Layout, names: Sequence[str], *, source: Path) -> list[bytes]:
    """Read files of an archive in memory; nothing is written."""
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
            members = [archive.extractfile(f"{layout.folder}/{name}") for name in names]
            return [member.read() if member else b"" for member in members]
    except (tarfile.TarError, KeyError, OSError, EOFError, zlib.error) as error:
        message = f"{source} cannot be unpacked: {error}."
        raise InputError(message) from error


def _parse_pickle(content: bytes, *, source: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read ``{b"data": (N, 3072), b"labels" or b"fine_labels": [N]}``."""
    held = load_plain(content, source=source)
    batch = cast("dict[object, object]", held) if isinstance(held, dict) else {}
    images = batch.get(b"data", batch.get("data"))
    keys = (b"fine_labels", "fine_labels", b"labels", "labels")
    labels = next((batch[key] for key in keys if key in batch), None)
    if not isinstance(images, np.ndarray) or not isinstance(labels, list):
        message = f"{source} holds no data and labels as CIFAR's files do."
        raise InputError(message)
    if images.dtype != np.uint8 or images.shape != (len(labels), _PIXELS):
        message = (
            f"{source} holds {images.dtype} of the shape {images.shape} for {len(labels)} labels; "
            f"it should be uint8 of ({len(labels)}, {_PIXELS})."
        )
        raise InputError(message)
    return images.reshape(-1, 3, 32, 32), np.asarray(labels, dtype=np.int64)


def _parse_binary(
    content: bytes, label_bytes: int, *, source: Path
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read records of label bytes and 3072 pixels."""
    record = label_bytes + _PIXELS
    if not content or len(content) % record:
        message = f"{source} has {len(content)} bytes, which is no multiple of a record's {record}."
        raise InputError(message)
    records = np.frombuffer(content, dtype=np.uint8).reshape(-1, record)
    images = records[:, label_bytes:].reshape(-1, 3, 32, 32)
    return images, records[:, label_bytes - 1].astype(np.int64)

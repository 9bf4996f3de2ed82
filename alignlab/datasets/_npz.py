"""Data from an npz file, without ever unpickling."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignlab.datasets._samples import Arrays
from alignlab.errors import InputError, MissingError

__all__ = ["channels_first", "read_npz"]

_IMAGE_CHANNELS = frozenset({1, 3, 4})


def read_npz(path: Path, split: str) -> Arrays:
    """Read one split of an npz file.

    It holds ``x`` and ``y``, or ``x_train``, ``y_train``, ``x_test``, ``y_test``, or ``x``, ``y``
    for training beside ``x_test``, ``y_test``; and, where the shapes do not tell, ``layout``,
    which is ``"NCHW"`` or ``"NHWC"``.

    Args:
        path: File.
        split: Which of the splits.

    Returns:
        Images as ``(N, C, H, W)``; the number of classes counts the labels of all splits.

    Raises:
        MissingError: No such file, or it lacks the arrays.
        InputError: Not an npz file, object arrays, or a layout that cannot be told.
    """
    held = _open(path)
    x_key, y_key, found = _keys(held, split, path)
    for key in (x_key, y_key):
        if key not in held:
            message = (
                f"{path.name} has no {key!r}; it holds {', '.join(sorted(held)) or 'nothing'}. "
                f"Save x and y, or x_train, y_train, x_test and y_test."
            )
            raise MissingError(message)
    layout = str(held["layout"]) if "layout" in held else ""
    return Arrays(
        x=channels_first(held[x_key], layout, source=path.name),
        y=held[y_key],
        n_classes=_n_classes(held),
        split=found,
    )


def _open(path: Path) -> Mapping[str, NDArray[Any]]:
    """Return every array of the file that data may consist of."""
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is not there"
        message = f"The data file {path} {what}; name an npz file as npz:FILE."
        raise MissingError(message)
    try:
        with path.open("rb") as file:
            opened = np.load(file, allow_pickle=False)
            if not isinstance(opened, np.lib.npyio.NpzFile):
                message = f"{path.name} holds one bare array; save x and y with numpy.savez."
                raise InputError(message)
            return {key: _member(opened, key, path) for key in opened.files if _is_data(key)}
    except InputError:
        raise
    except Exception as error:  # a damaged file makes zipfile, zlib and numpy raise almost anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        message = f"{path.name} cannot be read as npz ({reason}); save it with numpy.savez."
        raise InputError(message) from error


def _is_data(key: str) -> bool:
    """Return whether an array of that name is read at all."""
    return key == "layout" or key.partition("_")[0] in {"x", "y"}


def _member(opened: Any, key: str, path: Path) -> NDArray[Any]:
    """Read one array; arrays of objects would have to be unpickled, which runs code."""
    try:
        array: NDArray[Any] = opened[key]
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise
        message = (
            f"{path.name}: {key!r} is an array of objects, which only unpickling could read; "
            "save it as a plain array of numbers."
        )
        raise InputError(message) from error
    return array


def _keys(held: Mapping[str, Any], split: str, path: Path) -> tuple[str, str, str]:
    """Return the names of inputs and targets, and of the split that they are."""
    splits = {key.removeprefix("x_") for key in held if key.startswith("x_")}
    if split in splits:
        return f"x_{split}", f"y_{split}", split
    if "x" in held and split == "train" and splits:
        return "x", "y", split
    known = splits | ({"train"} if "x" in held and splits else set())
    if known or split not in {"train", "test"}:
        has = f"it has {', '.join(sorted(known))}" if known else "it is not divided"
        message = f"{path.name} has no split {split!r}; {has}."
        raise MissingError(message)
    return "x", "y", ""


def _n_classes(held: Mapping[str, NDArray[Any]]) -> int | None:
    """Return one more than the largest label of any split; None for float or wrong targets."""
    labels = [value for key, value in held.items() if key == "y" or key.startswith("y_")]
    if any(label.dtype.kind not in "iub" for label in labels):
        return None
    return max((int(label.max()) + 1 for label in labels if label.size), default=0) or None


def channels_first(x: NDArray[Any], layout: str, *, source: str) -> NDArray[Any]:
    """Return images as ``(N, C, H, W)``; other shapes as they are.

    Args:
        x: Inputs; ``(N, H, W)`` of uint8 are images of one channel.
        layout: ``"NCHW"``, ``"NHWC"``, or ``""`` to tell it from which axis has 1, 3 or 4 entries.
        source: Name of the file for the error's text.

    Returns:
        The same numbers, shape ``(N, C, H, W)`` for images.

    Raises:
        InputError: Both layouts or neither would fit, or the layout has another name.

    Example:
        >>> channels_first(np.zeros((5, 32, 32, 3)), "", source="example").shape
        (5, 3, 32, 32)
    """
    if x.ndim == 3 and x.dtype == np.uint8:
        return x[:, None]
    if x.ndim != 4:
        return x
    if layout not in {"", "NCHW", "NHWC"}:
        message = f"{source}: layout is {layout!r}; it must be NCHW or NHWC."
        raise InputError(message)
    first, last = x.shape[1] in _IMAGE_CHANNELS, x.shape[3] in _IMAGE_CHANNELS
    if not layout and first == last:
        message = (
            f"{source}: x has the shape {x.shape}, which may be NCHW or NHWC; save "
            "layout='NCHW' or layout='NHWC' beside it."
        )
        raise InputError(message)
    return x.transpose(0, 3, 1, 2) if layout == "NHWC" or (not layout and last) else x

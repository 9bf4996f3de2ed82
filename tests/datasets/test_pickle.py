"""Pickles of standard archives: arrays come out, and nothing runs."""

from __future__ import annotations

import collections
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alignlab.datasets._pickle import load_plain
from alignlab.errors import InputError

SOURCE = Path("batch")


class Run:
    """Runs a function when it is unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", range(5))
@pytest.mark.parametrize("dtype", ["uint8", ">i4", "float64", "bool"])
def test_arrays_in_containers_come_out_as_they_went_in(protocol: int, dtype: str) -> None:
    array = np.arange(6).reshape(2, 3).astype(dtype)
    held = {b"data": array, "labels": [1, 2.5, None, True, b"raw"], "more": (array[0],)}
    loaded: Any = load_plain(pickle.dumps(held, protocol=protocol), source=SOURCE)
    assert np.array_equal(loaded[b"data"], array)
    assert loaded[b"data"].dtype == array.dtype.newbyteorder("=")
    assert np.array_equal(loaded["more"][0] if "more" in loaded else loaded[b"more"][0], array[0])
    assert loaded.get("labels", loaded.get(b"labels")) == [1, 2.5, None, True, b"raw"]


def test_reading_an_array_of_swapped_bytes_leaves_numpy_as_it_was() -> None:
    load_plain(pickle.dumps(np.arange(3, dtype=">i4"), protocol=2), source=SOURCE)
    assert np.dtype("i4").newbyteorder("=") == np.dtype("int32")
    assert np.dtype("i4").byteorder == "="


def test_byte_strings_of_python_2_stay_bytes() -> None:
    assert load_plain(b"(dp0\nS'labels'\np1\n(lp2\nI3\nas.", source=SOURCE) == {b"labels": [3]}


@pytest.mark.parametrize(
    "payload",
    [
        Run(os.system, "touch ran"),
        Run(eval, "open('ran', 'w')"),
        Run(getattr, "", "join"),
        Run(Path.touch, Path("ran")),
        collections.Counter("a"),
        np.float64(1.0),
        np.random.default_rng(0),
    ],
)
def test_anything_else_is_named_and_not_run(
    payload: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"batch asks for .*; it was not run"):
        load_plain(pickle.dumps({"data": payload}, protocol=2), source=SOURCE)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"text",
        pickle.dumps([1, 2, 3])[:-2],
        pickle.dumps(np.array([{}], dtype=object), protocol=2),
        pickle.dumps(np.array(["a"]), protocol=2),
        b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00hex\x86R.",
    ],
)
def test_damaged_pickles_and_arrays_of_objects_are_refused(content: bytes) -> None:
    with pytest.raises(InputError, match="cannot be read as a pickle of arrays"):
        load_plain(content, source=SOURCE)


def test_references_to_outside_are_refused() -> None:
    with pytest.raises(InputError, match="objects outside of itself"):
        load_plain(b"\x80\x02X\x01\x00\x00\x00aQ.", source=SOURCE)

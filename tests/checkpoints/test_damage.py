"""Files that were cut or altered: refused in one line, or still the same weights."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from torch import Tensor

from alignlab.checkpoints import describe, open_checkpoint
from alignlab.errors import CheckpointError
from tests.checkpoints.nets import same, weights

FORMS = ("zip", "legacy", "pickle", "safetensors")
SETTINGS = settings(
    max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)


@cache
def whole(form: str) -> bytes:
    content = {"model": weights(), "epoch": 3}
    if form == "safetensors":
        return save(weights())
    if form == "pickle":
        return pickle.dumps(content, protocol=2)
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=form == "zip")
    return buffer.getvalue()


def opened(path: Path, raw: bytes) -> dict[str, Tensor] | None:
    """Return the weights of a file, or None where it is refused in one line."""
    path.write_bytes(raw)
    try:
        return dict(open_checkpoint(path).tensors)
    except CheckpointError as error:
        refusal = str(error)
    assert "\n" not in refusal
    return None


@pytest.mark.parametrize("form", FORMS)
def test_the_whole_file_is_read(tmp_path: Path, form: str) -> None:
    tensors = opened(tmp_path / "a.pt", whole(form))
    assert tensors is not None
    assert all(torch.equal(tensors[name], value) for name, value in weights().items())


@pytest.mark.parametrize("form", FORMS)
@SETTINGS
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_file_that_was_cut_is_refused_or_still_whole(
    tmp_path: Path, form: str, share: float
) -> None:
    raw = whole(form)
    tensors = opened(tmp_path / "a.pt", raw[: int(share * len(raw))])
    assert tensors is None or same(tensors, opened(tmp_path / "b.pt", raw) or {})


@pytest.mark.parametrize("form", FORMS)
@SETTINGS
@given(share=st.floats(0, 1, exclude_max=True), byte=st.integers(1, 255), run=st.integers(1, 8))
@example(share=0.1, byte=3, run=1)
def test_a_file_that_was_altered_never_crashes(
    tmp_path: Path, form: str, share: float, byte: int, run: int
) -> None:
    raw = bytearray(whole(form))
    start = int(share * len(raw))
    for place in range(start, min(start + run, len(raw))):
        raw[place] ^= byte
    tensors = opened(tmp_path / "a.pt", bytes(raw))
    if form == "zip" and tensors is not None:
        assert same(tensors, weights())


@settings(SETTINGS, max_examples=300)
@given(raw=st.binary(max_size=200))
def test_noise_never_crashes(tmp_path: Path, raw: bytes) -> None:
    assert opened(tmp_path / "a.pt", raw) is None


@settings(SETTINGS, max_examples=300)
@given(
    raw=st.binary(max_size=60), head=st.sampled_from([b"\x80\x02", b"\x80\x04", b"(", b"}", b"c"])
)
def test_noise_that_looks_like_a_pickle_never_crashes(
    tmp_path: Path, raw: bytes, head: bytes
) -> None:
    assert opened(tmp_path / "a.pt", head + raw + b".") is None


@pytest.mark.parametrize("reader", [open_checkpoint, describe])
def test_reading_leaves_the_file_alone(tmp_path: Path, reader: Callable[[Path], object]) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(whole("zip"))
    reader(path)
    assert path.read_bytes() == whole("zip")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.pt"]

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr

from alignlab.errors import MissingError, RecordingError
from alignlab.recording import SCHEMA_VERSION, load, load_tensors, save
from alignlab.recording.encoding import encoded
from tests.recording.synthetic import make_small_recording

NOT_RECORDINGS = {
    "a text file": b"epoch,loss\n1,2.3\n",
    "an empty file": b"",
    "a web page": b"<!DOCTYPE html><html><body>404</body></html>",
    "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n",
    "a zip archive or a checkpoint of PyTorch": b"PK\x03\x04" + bytes(100),
    "a pickle": b"\x80\x04\x95" + bytes(50),
    "an image": b"\x89PNG\r\n\x1a\n" + bytes(50),
    "netCDF-3": b"CDF\x01" + bytes(50),
    "a format that alignlab does not know": b"\xff\xfe\xfd" * 9,
}


@pytest.mark.parametrize("what", NOT_RECORDINGS)
@pytest.mark.parametrize("read", [load, load_tensors])
def test_what_is_no_recording_is_named(
    tmp_path: Path, what: str, read: Callable[[Path], object]
) -> None:
    path = tmp_path / "run.nc"
    path.write_bytes(NOT_RECORDINGS[what])
    with pytest.raises(RecordingError, match=what) as refusal:
        read(path)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["run.nc", "run.zarr"])
def test_what_is_missing_is_missing(tmp_path: Path, name: str) -> None:
    with pytest.raises(MissingError, match=f"no recording .*{name}"):
        load(tmp_path / name)
    with pytest.raises(MissingError):
        load(tmp_path / "no" / "folder" / name)


def test_a_folder_that_is_no_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="no Zarr v3 store"):
        load(tmp_path)


def test_any_shortened_file_is_refused(tmp_path: Path) -> None:
    path = save(make_small_recording(), tmp_path / "run.nc")
    content = path.read_bytes()
    for size in np.linspace(1, len(content) - 1, 12).astype(int):
        path.write_bytes(content[:size])
        with pytest.raises(RecordingError):
            load(path)


def test_a_store_that_lacks_any_one_file_is_refused(tmp_path: Path) -> None:
    path = save(make_small_recording(), tmp_path / "run.zarr")
    for file in [each for each in path.rglob("*") if each.is_file()]:
        aside = file.rename(tmp_path / "aside")
        with pytest.raises(RecordingError):
            load(path)
        aside.rename(file)
    assert load(path).identical(make_small_recording())


def test_a_store_that_lacks_a_whole_variable_is_refused(tmp_path: Path) -> None:
    path = save(make_small_recording(), tmp_path / "run.zarr")
    shutil.rmtree(path / "loss")
    with pytest.raises(RecordingError, match="lacks 'loss'"):
        load(path)


def test_a_stray_file_in_a_store_is_named(tmp_path: Path) -> None:
    path = save(make_small_recording(), tmp_path / "run.zarr")
    (path / ".DS_Store").write_bytes(b"")
    with pytest.raises(RecordingError, match=r"DS_Store.*remove"):
        load(path)


def test_a_store_with_broken_metadata_or_content_is_refused(tmp_path: Path) -> None:
    path = save(make_small_recording(), tmp_path / "run.zarr")
    chunk = next(each for each in (path / "loss" / "c").rglob("*") if each.is_file())
    content = chunk.read_bytes()
    chunk.write_bytes(b"rubbish")
    with pytest.raises(RecordingError, match="cannot be read"):
        load(path)
    chunk.write_bytes(content)
    for rubbish in (b"{", b"[]", b"{}", b"\xff"):
        (path / "loss" / "zarr.json").write_bytes(rubbish)
        with pytest.raises(RecordingError, match="damaged"):
            load(path)


def write_netcdf(ds: xr.Dataset, folder: Path) -> Path:
    ds.to_netcdf(folder / "other.nc", engine="h5netcdf")
    return folder / "other.nc"


def write_zarr(ds: xr.Dataset, folder: Path) -> Path:
    ds.to_zarr(folder / "other.zarr", zarr_format=3, consolidated=False, write_empty_chunks=True)
    return folder / "other.zarr"


WRITERS = [write_netcdf, write_zarr]


@pytest.mark.parametrize("write", WRITERS)
def test_measurements_of_something_else_are_refused(
    tmp_path: Path, write: Callable[[xr.Dataset, Path], Path]
) -> None:
    weather = xr.Dataset({"air temperature": ("x", [1.0, 2.0])}, attrs={"title": "weather"})
    weather["air temperature"].attrs["units"] = "days since 2000-01-01"
    with pytest.raises(RecordingError, match="no recording of alignlab"):
        load(write(weather, tmp_path))


@pytest.mark.parametrize("write", WRITERS)
def test_a_newer_schema_is_refused_by_name_also_where_it_breaks_ours(
    tmp_path: Path, write: Callable[[xr.Dataset, Path], Path]
) -> None:
    newer = xr.Dataset(
        {"something else": ("x", [1.0])},
        attrs={"alignlab_schema": SCHEMA_VERSION + 1, "alignlab_version": "7.0"},
    )
    with pytest.raises(RecordingError, match=rf"schema {SCHEMA_VERSION + 1}.*alignlab 7\.0"):
        load(write(newer, tmp_path))


@pytest.mark.parametrize("write", WRITERS)
def test_a_recording_that_breaks_the_schema_is_refused(
    tmp_path: Path, write: Callable[[xr.Dataset, Path], Path]
) -> None:
    broken = encoded(make_small_recording().drop_vars("cosine_weight_gradient_p"))
    with pytest.raises(RecordingError, match="lacks cosine_weight_gradient_p"):
        load(write(broken, tmp_path))


def test_a_store_whose_codec_runs_code_is_never_opened(tmp_path: Path) -> None:
    path = save(make_small_recording(), tmp_path / "run.zarr")
    metadata = path / "loss" / "zarr.json"
    node = json.loads(metadata.read_text())
    node["codecs"] = [{"name": "numcodecs.pickle", "configuration": {}}]
    metadata.write_text(json.dumps(node))
    with pytest.raises(RecordingError, match=r"numcodecs\.pickle.*does not write nor run"):
        load(path)


def test_a_store_of_the_older_format_with_pickles_inside_is_never_opened(tmp_path: Path) -> None:
    path = save(make_small_recording(), tmp_path / "run.zarr")
    (path / "zarr.json").unlink()
    (path / ".zgroup").write_text('{"zarr_format": 2}')
    with pytest.raises(RecordingError, match="no Zarr v3 store"):
        load(path)


def test_links_out_of_a_store_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    path = save(make_small_recording(), tmp_path / "run.zarr")
    (path / "notes").symlink_to(tmp_path / "secret")
    with pytest.raises(RecordingError, match="link to elsewhere"):
        load(path)


def test_links_out_of_a_file_are_not_followed(tmp_path: Path) -> None:
    for number, link in enumerate((h5py.ExternalLink("other.h5", "/x"), h5py.SoftLink("/loss"))):
        path = save(make_small_recording(), tmp_path / f"{number}.nc")
        with h5py.File(path, "a") as file:
            file["own"] = link
        with pytest.raises(RecordingError, match="link to elsewhere"):
            load(path)


def test_content_kept_in_another_file_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(64))
    path = save(make_small_recording(), tmp_path / "run.nc")
    with h5py.File(path, "a") as file:
        secret = [(os.fspath(tmp_path / "secret"), 0, 64)]
        file.create_dataset("own", (8,), "f8", external=secret)
    with pytest.raises(RecordingError, match="self-contained"):
        load(path)


def test_a_group_that_contains_itself_ends(tmp_path: Path) -> None:
    path = save(make_small_recording(), tmp_path / "run.nc")
    with h5py.File(path, "a") as file:
        own = file.create_group("own")
        own["again"] = own
    with pytest.raises(RecordingError, match="without end"):
        load(path)

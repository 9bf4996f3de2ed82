"""The standard image sets: where they are looked for, what they must be, how they are fetched."""

from __future__ import annotations

import gzip
import hashlib
import io
import pickle
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from alignlab.datasets import load
from alignlab.datasets._cifar import CifarSet, Layout
from alignlab.datasets._idx import IdxSet, parse_idx
from alignlab.errors import InputError, MissingError

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 28, 28), dtype=np.uint8)
LABELS = np.arange(12, dtype=np.uint8) % 10
COLOUR = np.random.default_rng(1).integers(0, 256, (10, 3, 32, 32), dtype=np.uint8)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that ALIGNLAB_DATA names, and no mirror."""
    monkeypatch.setenv("ALIGNLAB_DATA", str(tmp_path))
    monkeypatch.delenv("ALIGNLAB_MIRROR", raising=False)
    return tmp_path


def idx(array: np.ndarray) -> bytes:
    """Return an array of bytes in the idx format."""
    header = bytes([0, 0, 8, array.ndim])
    return header + np.array(array.shape, dtype=">u4").tobytes() + array.tobytes()


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def grey(contents: dict[str, bytes]) -> IdxSet:
    """Return a data set whose published files are exactly these."""
    hashes = {name: md5(content) for name, content in contents.items()}
    return IdxSet(name="shapes", folders=("shapes",), md5=hashes)


def idx_files(*, zipped: bool) -> dict[str, bytes]:
    """Return both files of a test split."""
    parts = {"t10k-images-idx3-ubyte": idx(IMAGES), "t10k-labels-idx1-ubyte": idx(LABELS)}
    if not zipped:
        return parts
    return {f"{name}.gz": gzip.compress(content, mtime=0) for name, content in parts.items()}


def put(folder: Path, contents: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("folder", ["shapes", "."])
def test_idx_files_are_found_in_a_folder_or_directly(root: Path, zipped: bool, folder: str) -> None:
    contents = idx_files(zipped=zipped)
    put(root / folder, contents)
    arrays = grey(contents).read("test", download=False)
    assert np.array_equal(arrays.x[:, 0], IMAGES)
    assert np.array_equal(arrays.y, LABELS)
    assert arrays.subset


def test_a_file_that_is_not_the_published_one_is_named(root: Path) -> None:
    put(root / "mnist", idx_files(zipped=True))
    with pytest.raises(InputError, match=r"t10k-images-idx3-ubyte.gz has the MD5 .* 9fb629c4"):
        load("mnist")


def test_a_truncated_file_is_refused_even_where_no_hash_was_published(root: Path) -> None:
    contents = idx_files(zipped=False)
    contents["t10k-images-idx3-ubyte"] = contents["t10k-images-idx3-ubyte"][:-1]
    put(root / "fashion-mnist", contents)
    with pytest.raises(InputError, match=r"holds 9407 entries and its header says \(12, 28, 28\)"):
        load("fashion-mnist")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "begins with nothing"),
        (b"<html>", "no idx file of bytes: it begins with 3c68746d"),
        (b"\x00\x00\x08\x03\x00", "is cut off"),
        (b"\x00\x00\x0d\x01\x00\x00\x00\x00", "no idx file of bytes"),
        (gzip.compress(idx(LABELS), mtime=0)[:-9], "damaged gzip"),
    ],
)
def test_what_is_no_idx_file_is_refused(content: bytes, says: str) -> None:
    with pytest.raises(InputError, match=says):
        parse_idx(content, source=Path("labels"))


def test_an_npz_stands_in_for_idx_files_and_says_that_it_is_a_subset(root: Path) -> None:
    held = {"x_train": IMAGES, "y_train": LABELS, "x_test": IMAGES[:5], "y_test": LABELS[:5]}
    np.savez(root / "mnist.npz", **held)
    assert load("mnist").name == "mnist[subset test n=5]"
    assert load("mnist").n_classes == 10


def test_labels_that_the_data_set_has_not_are_refused(root: Path) -> None:
    np.savez(root / "mnist.npz", x_test=IMAGES, y_test=LABELS + 1, x_train=IMAGES, y_train=LABELS)
    with pytest.raises(InputError, match=r"labels run from 1 to 10.*there are 10 classes"):
        load("mnist")


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10", "cifar100", "mnist1d"])
def test_without_files_the_error_says_where_they_were_looked_for(root: Path, name: str) -> None:
    with pytest.raises(MissingError, match="looked for") as refused:
        load(name)
    assert str(root / name) in str(refused.value)
    assert f"{root}." in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["mnist", "cifar10", "mnist1d"])
def test_without_the_variable_the_error_says_to_set_it(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.delenv("ALIGNLAB_DATA", raising=False)
    with pytest.raises(MissingError, match="ALIGNLAB_DATA names, and it is not set"):
        load(name)


def test_a_variable_that_names_no_folder_is_refused(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALIGNLAB_DATA", str(root / "none"))
    with pytest.raises(MissingError, match="which is no folder"):
        load("mnist")


def pickled(labels: list[int], key: bytes = b"labels") -> bytes:
    """Return images as the pickles of the standard archive hold them."""
    return pickle.dumps({b"data": COLOUR.reshape(10, 3072), key: labels}, protocol=2)


def binary(labels: list[int], label_bytes: int) -> bytes:
    """Return images as the binary archive holds them."""
    records = [
        bytes([7] * (label_bytes - 1) + [label]) + image.tobytes()
        for label, image in zip(labels, COLOUR, strict=True)
    ]
    return b"".join(records)


def archive(contents: dict[str, bytes]) -> bytes:
    """Return files as a gzipped tar."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def colour(content: bytes, label_bytes: int) -> tuple[CifarSet, dict[str, bytes]]:
    """Return a data set with one published file for both splits, and its archive."""
    whole = archive({"batches/part": content})
    layout = Layout(
        archive="pictures.tar.gz",
        md5=md5(whole),
        folder="batches",
        members={"train": ("part", "part"), "test": ("part",)},
        member_md5={"part": md5(content)},
        label_bytes=label_bytes,
    )
    return CifarSet("pictures", ("pictures",), (layout,), n_classes=10), {"pictures.tar.gz": whole}


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(
    ("content", "label_bytes"),
    [
        (pickled(list(range(10))), 0),
        (pickled(list(range(10)), b"fine_labels"), 0),
        (binary(list(range(10)), 1), 1),
        (binary(list(range(10)), 2), 2),
    ],
)
def test_every_published_layout_gives_the_same_images(
    root: Path, content: bytes, label_bytes: int, packed: bool
) -> None:
    published, archived = colour(content, label_bytes)
    put(root / "pictures", archived if packed else {"batches/part": content})
    for split, copies in (("test", 1), ("train", 2)):
        arrays = published.read(split, download=False)
        assert np.array_equal(arrays.x, np.concatenate([COLOUR] * copies))
        assert arrays.y.tolist() == list(range(10)) * copies


@pytest.mark.parametrize("packed", [True, False])
def test_a_damaged_archive_or_member_is_refused_before_it_is_read(root: Path, packed: bool) -> None:
    published, archived = colour(pickled([0] * 10), 0)
    content = {"pictures.tar.gz": archived["pictures.tar.gz"] + b"x"}
    put(root / "pictures", content if packed else {"batches/part": b"x"})
    with pytest.raises(InputError, match="has the MD5"):
        published.read("test", download=False)


@pytest.mark.parametrize(
    "change",
    [
        lambda layout: replace(layout, members={"test": ("none",)}),
        lambda layout: replace(layout, folder="other"),
    ],
)
def test_an_archive_that_lacks_a_member_is_refused(
    root: Path, change: Callable[[Layout], Layout]
) -> None:
    published, archived = colour(pickled([0] * 10), 0)
    put(root, archived)
    changed = replace(published, layouts=(change(published.layouts[0]),))
    with pytest.raises(InputError, match="cannot be unpacked"):
        changed.read("test", download=False)


def test_a_member_of_another_size_is_refused(root: Path) -> None:
    published, archived = colour(binary([1] * 10, 1)[:-1], 1)
    put(root, archived)
    with pytest.raises(InputError, match="no multiple of a record"):
        published.read("test", download=False)


def test_an_npz_that_lies_there_twice_is_not_chosen_between(root: Path) -> None:
    for name in ("cifar10_a.npz", "cifar10_b.npz"):
        np.savez(root / name, x=COLOUR, y=np.arange(10))
    with pytest.raises(InputError, match=r"is there 2 times: .*cifar10_a.npz, .*cifar10_b.npz"):
        load("cifar10")


def test_cifar100_never_takes_the_files_of_cifar10(root: Path) -> None:
    np.savez(root / "cifar10.npz", x=COLOUR, y=np.arange(10))
    assert load("cifar10").name == "cifar10[subset test n=10]"
    with pytest.raises(MissingError, match="cifar100 is not there"):
        load("cifar100")


def test_a_download_is_checked_and_then_kept(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = idx_files(zipped=True)
    put(root / "mirror" / "shapes", contents)
    monkeypatch.setenv("ALIGNLAB_DATA", str(root / "mirror" / ".."))
    monkeypatch.setenv("ALIGNLAB_MIRROR", (root / "mirror").as_uri() + "/")
    published = grey(contents)
    with pytest.raises(MissingError, match="ask for the download"):
        published.read("test", download=False)
    assert np.array_equal(published.read("test", download=True).x[:, 0], IMAGES)
    monkeypatch.delenv("ALIGNLAB_MIRROR")
    assert np.array_equal(published.read("test", download=False).x[:, 0], IMAGES)
    assert sorted(path.name for path in (root / "shapes").iterdir()) == sorted(contents)


def test_an_archive_is_downloaded_as_well(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published, archived = colour(binary(list(range(10)), 1), 1)
    put(root / "mirror" / "pictures", archived)
    monkeypatch.setenv("ALIGNLAB_MIRROR", (root / "mirror").as_uri())
    assert np.array_equal(published.read("test", download=True).x, COLOUR)


def test_a_mirror_with_another_file_leaves_nothing_behind(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(root / "mirror" / "mnist", {"t10k-images-idx3-ubyte.gz": b"an error page"})
    monkeypatch.setenv("ALIGNLAB_MIRROR", (root / "mirror").as_uri())
    with pytest.raises(InputError, match="has the MD5"):
        load("mnist", download=True)
    assert not (root / "mnist").exists()


@pytest.mark.parametrize("mirror", ["", "somewhere", "ftp://somewhere"])
def test_without_a_usable_mirror_the_error_says_to_set_one(
    root: Path, monkeypatch: pytest.MonkeyPatch, mirror: str
) -> None:
    monkeypatch.setenv("ALIGNLAB_MIRROR", mirror)
    with pytest.raises(MissingError, match="address in ALIGNLAB_MIRROR"):
        load("mnist", download=True)


def test_a_mirror_that_does_not_answer_is_one_line(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALIGNLAB_MIRROR", "http://localhost:9")
    with pytest.raises(MissingError, match=r"could not be fetched \(.+\); put t10k") as refused:
        load("mnist", download=True)
    assert "\n" not in str(refused.value)


def test_what_has_no_published_hash_is_not_downloaded(root: Path) -> None:
    with pytest.raises(MissingError, match="no published hash"):
        load("mnist1d", download=True)

"""Samples out of the embedded data set, npz files and factories, and every refusal."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from alignlab.datasets import load
from alignlab.errors import AlignlabError, InputError, MissingError

DIGITS_TEST = "5ed8d02ffe11758dcf80b2a2e0fa7efbd66a112c64d8281a96a619d8d0b215f9"
WHOLE = np.bincount(load_digits().target)


def save(folder: Path, **held: Any) -> str:
    """Write an npz file and return its SPEC."""
    np.savez(folder / "own.npz", **held)
    return f"npz:{folder / 'own.npz'}"


def pixels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_the_split_of_the_digits_is_fixed_for_good() -> None:
    assert load("digits").hash == DIGITS_TEST


def test_train_and_test_digits_together_are_all_digits_once() -> None:
    parts = [load("digits", split=split, samples=None) for split in ("train", "test")]
    assert [len(part) for part in parts] == [1437, 360]
    split_up = np.concatenate([part.x.numpy().reshape(-1, 64) * 16 for part in parts])
    whole = np.asarray(load_digits().data)
    assert sorted(map(tuple, split_up.tolist())) == sorted(map(tuple, whole.tolist()))


def test_both_splits_of_the_digits_have_the_same_shares_of_classes() -> None:
    train, test = (load("digits", split=split, samples=None) for split in ("train", "test"))
    exact = WHOLE * 360 / 1797
    assert np.all(np.abs(np.array(test.class_counts) - exact) < 1)
    assert np.all(
        np.array(train.class_counts) + test.class_counts == np.bincount(load_digits().target)
    )


def test_the_hash_is_that_of_the_bytes_of_x_and_y() -> None:
    data = load("digits", samples=50, mean=0.3, std=0.2)
    expected = hashlib.sha256(data.x.numpy().tobytes() + data.y.numpy().tobytes()).hexdigest()
    assert data.hash == expected
    assert load("digits", samples=50, mean=0.3, std=0.2).hash == expected
    assert load("digits", samples=50).hash != expected


@pytest.mark.parametrize(
    ("samples", "name"),
    [(None, "digits[test n=360]"), (512, "digits[test n=360]"), (64, "digits[test n=64 of 360]")],
)
def test_a_name_says_where_it_is_a_part(samples: int | None, name: str) -> None:
    assert load("digits", samples=samples).name == name


def test_mean_and_std_apply_to_each_channel_after_uint8_became_0_to_1(tmp_path: Path) -> None:
    x = pixels(20, 3, 8, 8)
    mean, std = [0.1, 0.2, 0.3], [0.5, 0.6, 0.7]
    spec = save(tmp_path, x=x, y=np.arange(20))
    data = load(spec, mean=mean, std=std)
    by_hand = (x / 255 - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    assert np.allclose(data.x.numpy(), by_hand[data.y.numpy()], atol=1e-6)


def test_float_inputs_are_never_scaled(tmp_path: Path) -> None:
    x = np.full((6, 4), 200.0)
    assert torch.equal(load(save(tmp_path, x=x, y=np.arange(6))).x, torch.full((6, 4), 200.0))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"mean": [0.1, 0.2]}, "mean has 2 numbers and the inputs have 1 channels"),
        ({"std": 0.0}, "std is 0.0; it must be positive"),
        ({"mean": float("nan")}, "must be finite"),
        ({"samples": 0}, "at least one"),
        ({"seed": -1}, "must not be negative"),
        ({"split": "val"}, "no split 'val'"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        load("digits", **arguments)


def test_an_unknown_data_set_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(MissingError, match="Did you mean digits"):
        load("digit")


def test_a_file_given_as_a_name_is_refused_with_the_form_that_is_meant() -> None:
    with pytest.raises(InputError, match=r"write npz:faces\.npz"):
        load("faces.npz")


def test_the_number_of_classes_counts_labels_of_both_splits(tmp_path: Path) -> None:
    spec = save(
        tmp_path,
        x_train=np.zeros((4, 2)),
        y_train=[0, 1, 2, 6],
        x_test=np.zeros((2, 2)),
        y_test=[0, 1],
    )
    data = load(spec)
    assert (data.name, data.n_classes) == ("own.npz[test n=2]", 7)
    assert data.class_counts == (1, 1, 0, 0, 0, 0, 0)
    assert load(spec, split="train").name == "own.npz[train n=4]"


def test_an_undivided_file_says_no_split(tmp_path: Path) -> None:
    assert load(save(tmp_path, x=np.zeros((3, 2)), y=[0, 1, 2])).name == "own.npz[n=3]"


def test_x_beside_x_test_is_the_training_split(tmp_path: Path) -> None:
    spec = save(tmp_path, x=np.ones((3, 2)), y=[0, 1, 2], x_test=np.zeros((1, 2)), y_test=[0])
    assert load(spec, split="train").x.sum() == 6
    assert load(spec, split="test").x.sum() == 0


def test_float_targets_are_numbers_and_no_classes(tmp_path: Path) -> None:
    data = load(save(tmp_path, x=np.zeros((5, 2)), y=np.linspace(0, 1, 5)), samples=3)
    assert (data.n_classes, data.class_counts, data.y.dtype) == (None, (), torch.float32)


@pytest.mark.parametrize(
    ("shape", "layout", "channels"),
    [
        ((6, 3, 8, 9), "", 3),
        ((6, 8, 9, 3), "", 3),
        ((6, 1, 8, 8), "", 1),
        ((6, 8, 8, 1), "", 1),
        ((6, 8, 9), "", 1),
        ((6, 3, 3, 3), "NCHW", 3),
        ((6, 16, 8, 8), "NCHW", 16),
        ((6, 8, 8, 16), "NHWC", 16),
    ],
)
def test_images_arrive_with_channels_first(
    tmp_path: Path, shape: tuple[int, ...], layout: str, channels: int
) -> None:
    extra = {"layout": layout} if layout else {}
    x = pixels(*shape)
    data = load(save(tmp_path, x=x, y=np.arange(6), **extra))
    assert data.x.shape[1] == channels
    order = torch.from_numpy(x)[data.y].sum(dim=tuple(range(1, x.ndim)))
    assert torch.allclose(data.x.sum(dim=(1, 2, 3)) * 255, order.float())


@pytest.mark.parametrize("shape", [(6, 3, 8, 3), (6, 1, 28, 3), (6, 8, 8, 8)])
def test_a_layout_that_cannot_be_told_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="may be NCHW or NHWC"):
        load(save(tmp_path, x=pixels(*shape), y=np.arange(6)))


@pytest.mark.parametrize(
    ("held", "says"),
    [
        ({"x": np.zeros((0, 3)), "y": np.zeros(0, int)}, "is empty"),
        ({"x": np.zeros((3, 0)), "y": [0, 1, 2]}, "is empty"),
        ({"x": np.zeros((3, 2)), "y": [0, 1]}, "x has 3 samples and y has 2"),
        ({"x": [[0.0, np.nan], [1, np.inf]], "y": [0, 1]}, "x holds 2 of 4 values that are NaN"),
        ({"x": [[0.0], [1e39]], "y": [0, 1]}, "x holds 1 of 2 values"),
        ({"x": [[0.0], [1.0]], "y": [0.0, np.nan]}, "y holds 1 of 2 values"),
        ({"x": np.zeros((2, 2)), "y": [-1, 1]}, "labels run from -1 to 1"),
        ({"x": np.zeros((2, 2)), "y": [[0], [1]]}, r"labels y have the shape \(2, 1\)"),
        ({"x": np.zeros((2, 2)), "y": ["a", "b"]}, "y holds <U1"),
        ({"x": np.zeros((2, 2), int), "y": [0, 1]}, "x holds int64; it must be float, or uint8"),
        ({"x": np.zeros(2), "y": [0, 1]}, r"it must be \(samples, ...\)"),
        ({"x": np.zeros((2, 2)), "y": 1}, "y is a single number"),
        ({"x": np.array([[{}], [1]], object), "y": [0, 1]}, "'x' is an array of objects"),
        ({"x": np.zeros((2, 2)), "y": np.array([0, "b"], object)}, "'y' is an array of objects"),
    ],
)
def test_data_that_cannot_be_measured_on_are_refused_in_one_line(
    tmp_path: Path, held: dict[str, Any], says: str
) -> None:
    with pytest.raises(InputError, match=says) as refused:
        load(save(tmp_path, **held))
    assert "own.npz" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("held", "says"),
    [
        ({"images": [[1.0]], "y": [0]}, "has no 'x'; it holds y"),
        ({"x": [[1.0]]}, "has no 'y'; it holds x"),
        ({"x_train": [[1.0]], "y_train": [0]}, "has no split 'test'; it has train"),
        ({"x_test": [[1.0]], "y": [0]}, "has no 'y_test'"),
    ],
)
def test_missing_arrays_are_named_with_what_is_there(
    tmp_path: Path, held: dict[str, Any], says: str
) -> None:
    with pytest.raises(MissingError, match=says):
        load(save(tmp_path, **held))


def test_an_array_of_objects_is_never_unpickled(tmp_path: Path) -> None:
    spec = save(tmp_path, x=np.array([[Touch(tmp_path / "ran")]], object), y=[0])
    with pytest.raises(InputError, match="array of objects"):
        load(spec)
    assert not (tmp_path / "ran").exists()


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("content", [b"", b"no npz at all", b"PK\x03\x04cut off"])
def test_a_file_that_is_no_npz_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.npz"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"broken\.npz cannot be read as npz"):
        load(f"npz:{path}")


def test_a_truncated_npz_is_refused(tmp_path: Path) -> None:
    save(tmp_path, x=pixels(50, 8, 8), y=np.arange(50))
    path = tmp_path / "own.npz"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match=r"own\.npz cannot be read as npz"):
        load(f"npz:{path}")


@given(
    flips=st.lists(st.tuples(st.integers(0, 10**4), st.integers(0, 255)), min_size=1, max_size=3),
    packed=st.booleans(),
)
def test_a_damaged_npz_is_read_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[int, int]], packed: bool
) -> None:
    buffer = io.BytesIO()
    write = np.savez_compressed if packed else np.savez
    write(buffer, x=np.linspace(0, 1, 48).reshape(4, 3, 2, 2), y=np.arange(4))
    content = bytearray(buffer.getvalue())
    for place, value in flips:
        content[place % len(content)] = value
    path = tmp_path_factory.getbasetemp() / "damaged.npz"
    path.write_bytes(content)
    try:
        said = load(f"npz:{path}").name
    except AlignlabError as error:
        said = str(error)
    assert said.startswith("damaged.npz")
    assert "\n" not in said


def test_a_bare_array_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "own.npy", np.zeros(3))
    with pytest.raises(InputError, match="one bare array"):
        load(f"npz:{tmp_path / 'own.npy'}")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"none\.npz is not there"):
        load(f"npz:{tmp_path / 'none.npz'}")

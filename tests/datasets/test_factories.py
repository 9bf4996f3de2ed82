"""Data and objects out of the user's own code."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from alignlab.datasets import load
from alignlab.datasets._factories import import_object
from alignlab.errors import InputError, MissingError


def write(folder: Path, text: str, name: str = "own.py") -> str:
    """Write a file of code and return its path."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


PAIRS = """
import torch

def plain():
    return torch.arange(12.0).reshape(6, 2), [0, 1, 2, 0, 1, 2]

def divided(split):
    return torch.zeros(2 if split == "test" else 8, 3), torch.zeros(2 if split == "test" else 8)

class Pictures(torch.utils.data.Dataset):
    def __len__(self):
        return 6
    def __getitem__(self, index):
        return torch.full((1, 4, 4), 255 * (index % 2), dtype=torch.uint8), index % 2

class Endless(torch.utils.data.IterableDataset):
    def __iter__(self):
        yield 1, 1

class Moody(torch.utils.data.Dataset):
    def __len__(self):
        return 6
    def __getitem__(self, index):
        return {0: (torch.zeros(2), 0)}[index]

def tokens():
    return torch.arange(20).reshape(5, 4), torch.arange(20).reshape(5, 4)

def half():
    return torch.ones(3, 2, dtype=torch.bfloat16), torch.tensor([0, 1, 2])

def words():
    return ["a", "b"], [0, 1]

def ragged():
    return [[1.0], [1.0, 2.0]], [0, 1]

def three():
    return 1, 2, 3

def empty():
    return torch.utils.data.TensorDataset(torch.zeros(0, 2))

def lonely():
    return torch.utils.data.TensorDataset(torch.zeros(3, 2))

def broken():
    raise RuntimeError("no disk\\nat all")

number = 3
"""


@pytest.fixture
def pairs(tmp_path: Path) -> str:
    return write(tmp_path, PAIRS)


def test_a_factory_may_return_a_pair(pairs: str) -> None:
    data = load(f"{pairs}:plain")
    assert (data.name, data.n_classes) == ("own.py:plain[n=6]", 3)
    assert torch.equal(data.x[:, 0] / 2 % 3, data.y.float())


def test_a_factory_that_takes_the_split_gets_it(pairs: str) -> None:
    assert load(f"{pairs}:divided").name == "own.py:divided[test n=2]"
    assert load(f"{pairs}:divided", split="train").name == "own.py:divided[train n=8]"


def test_a_torch_data_set_is_read_and_its_bytes_scaled(pairs: str) -> None:
    data = load(f"{pairs}:Pictures")
    assert data.x.shape == (6, 1, 4, 4)
    assert torch.equal(data.x.amax(dim=(1, 2, 3)), data.y.float())


def test_tokens_stay_integers_and_may_have_a_label_each(pairs: str) -> None:
    data = load(f"{pairs}:tokens")
    assert data.x.dtype == data.y.dtype == torch.int64
    assert torch.equal(data.x, data.y)
    assert sum(data.class_counts) == 20
    with pytest.raises(InputError, match="inputs are tokens"):
        load(f"{pairs}:tokens", mean=0.5)


def test_half_precision_becomes_float32(pairs: str) -> None:
    assert load(f"{pairs}:half").x.dtype == torch.float32


@pytest.mark.parametrize(
    ("factory", "says"),
    [
        ("words", "inputs and targets must be numbers"),
        ("ragged", "no regular array"),
        ("three", r"must return \(x, y\)"),
        ("empty", "is empty"),
        ("lonely", r"must be pairs \(x, y\)"),
        ("Endless", "Dataset without a length"),
        ("broken", "failed with RuntimeError: no disk at all"),
        ("Moody", "failed with KeyError: 1"),
        ("number", "is a int; it must be a function"),
    ],
)
def test_what_a_factory_cannot_give_is_refused_in_one_line(
    pairs: str, factory: str, says: str
) -> None:
    with pytest.raises(InputError, match=says) as refused:
        load(f"{pairs}:{factory}")
    assert "\n" not in str(refused.value)


def test_a_factory_that_is_not_there_is_refused_with_what_is(pairs: str) -> None:
    with pytest.raises(MissingError, match=r"no 'plan'. Did you mean plain\?.*divided") as refused:
        load(f"{pairs}:plan")
    assert "number" not in str(refused.value)


def test_a_file_without_a_factory_lists_its_own(pairs: str) -> None:
    with pytest.raises(InputError, match=r"names no object.*It holds plain, divided"):
        import_object(pairs)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("def f(:\n", "SyntaxError: .*line 1"),
        ("import no_such_module_at_all", "ModuleNotFoundError: No module named"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("1 / 0", "ZeroDivisionError"),
    ],
)
def test_code_that_fails_while_it_is_imported_is_one_line(
    tmp_path: Path, text: str, says: str
) -> None:
    before = set(sys.modules)
    with pytest.raises(InputError, match=rf"own\.py cannot be imported: {says}") as refused:
        import_object(f"{write(tmp_path, text)}:f")
    assert "\n" not in str(refused.value)
    assert set(sys.modules) == before


def test_neighbours_are_importable_only_while_the_file_is(tmp_path: Path) -> None:
    path, before = list(sys.path), set(sys.modules)
    values = {}
    for number in (1, 2):
        folder = tmp_path / str(number)
        write(folder, f"value = {number}", "neighbour.py")
        spec = write(folder, "from neighbour import value\ndef f():\n    return value\n")
        values[number] = import_object(f"{spec}:f")
    assert [values[1](), values[2]()] == [1, 2]  # type: ignore[operator]
    assert sys.path == path
    assert "neighbour" not in sys.modules
    assert all(name.startswith("_alignlab_") for name in set(sys.modules) - before)


def test_a_file_named_like_a_module_does_not_replace_it(tmp_path: Path) -> None:
    import json

    spec = write(tmp_path, "def f():\n    return 1\n", "json.py")
    assert import_object(f"{spec}:f")() == 1  # type: ignore[operator]
    assert sys.modules["json"] is json


def test_a_dotted_module_is_imported() -> None:
    import collections

    assert import_object("collections:OrderedDict") is collections.OrderedDict


@pytest.mark.parametrize("spec", ["no_such_package_at_all:f", "collections.no_such:f"])
def test_a_module_that_is_not_there_is_named(spec: str) -> None:
    with pytest.raises(MissingError, match=r"There is no module '.*no_such"):
        import_object(spec)


def test_a_module_that_lacks_something_else_says_what(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "import no_such_module_at_all", "own_module_that_lacks.py")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match="own_module_that_lacks cannot be imported: ModuleNot"):
        import_object("own_module_that_lacks:f")


@pytest.mark.parametrize("spec", ["", ":", "f", "own.py:", ":f"])
def test_another_form_is_refused_with_the_right_one(spec: str) -> None:
    with pytest.raises(InputError, match=r"write file\.py:name or package\.module:name"):
        import_object(spec)


def test_a_data_set_class_that_needs_arguments_says_so(tmp_path: Path) -> None:
    spec = write(tmp_path, "def f(root):\n    return root\n")
    with pytest.raises(InputError, match=r"missing a required argument: 'root'. It takes root"):
        load(f"{spec}:f")

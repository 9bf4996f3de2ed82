"""Pickles that attack: nothing that they name is imported or called."""

from __future__ import annotations

import builtins
import collections
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from alignlab.checkpoints import open_checkpoint
from alignlab.errors import CheckpointError
from tests.checkpoints.nets import saved, weights


class Attack:
    """Calls a function when it is unpickled."""

    def __init__(self, function: Any, *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


def touch(path: Path) -> str:
    return f"{sys.executable} -c \"open(r'{path}', 'w')\""


def attacks(mark: Path) -> dict[str, Attack]:
    return {
        "os.system": Attack(os.system, touch(mark)),
        "eval": Attack(eval, f"open({str(mark)!r}, 'w')"),
        "exec": Attack(exec, f"open({str(mark)!r}, 'w')"),
        "open": Attack(open, str(mark), "w"),
        "subprocess": Attack(subprocess.call, touch(mark)),
        "getattr": Attack(getattr, Attack(__import__, "os"), "system"),
        "nested": Attack(dict, [("a", Attack(os.mkdir, str(mark)))]),
        "torch.load": Attack(torch.load, str(mark)),
        "pathlib": Attack(Path.touch, mark),
        "counter": Attack(collections.Counter, Attack(builtins.open, str(mark), "w")),
    }


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle 0", "pickle 4"])
@pytest.mark.parametrize("name", attacks(Path()))
@pytest.mark.parametrize("place", ["alone", "beside weights"])
def test_the_payload_never_runs(tmp_path: Path, form: str, name: str, place: str) -> None:
    mark = tmp_path / "mark"
    attack = attacks(mark)[name]
    content: object = attack if place == "alone" else {"state_dict": weights(), "extra": attack}
    path = tmp_path / "model.pt"
    if form.startswith("pickle"):
        path.write_bytes(pickle.dumps(content, protocol=int(form[-1])))
    else:
        saved(path, content, legacy=form == "legacy")
    refusal = ""
    try:
        open_checkpoint(path)
    except CheckpointError as error:
        refusal = str(error)
    assert not mark.exists()
    assert "\n" not in refusal
    assert refusal or (place == "beside weights" and name in {"torch.load", "pathlib"})


@pytest.mark.parametrize("name", ["os.system", "eval", "exec", "open", "subprocess", "nested"])
@pytest.mark.parametrize("allow", [False, True])
def test_an_attack_is_called_one_even_where_pickles_are_allowed(
    tmp_path: Path, name: str, allow: bool
) -> None:
    mark = tmp_path / "mark"
    path = saved(tmp_path / "model.pt", {"w": torch.ones(2), "x": attacks(mark)[name]})
    with pytest.raises(
        CheckpointError,
        match="is a malicious pickle: it would run .* when it is "
        r"unpickled\. Nothing was run; delete the file\.$",
    ):
        open_checkpoint(path, allow_unsafe_pickle=allow)
    assert not mark.exists()


def _raw(*codes: bytes) -> bytes:
    return b"".join((b"\x80\x02", *codes, b"."))


RAW = {
    "state for a function": _raw(b"ctorch._utils\n_rebuild_tensor_v2\n", b"}", b"b"),
    "state for a class": _raw(b"ccollections\nOrderedDict\n", b"}U\x07__new__K\x01sb"),
    "extension": _raw(b"\x82\x01"),
    "endless memo": _raw(b"}", b"r\xff\xff\xff\x7f"),
    "huge string": _raw(b"X\xff\xff\xff\xff", b"abc"),
    "huge bytearray": _raw(b"\x96\xff\xff\xff\xff\xff\x00\x00\x00", b"abc"),
    "huge number": _raw(b"\x8b\xff\xff\xff\x7f", b"abc"),
    "unhashable": _raw(b"}]K\x01s"),
    "storage of a class": _raw(b"(U\x07storagecos\nsystem\nU\x010U\x03cpuK\x04tQ"),
    "deep": _raw(b"]" * 2000, b"a" * 1999),
}


@pytest.mark.parametrize("name", RAW)
def test_crooked_pickles_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(RAW[name])
    with pytest.raises(CheckpointError):
        open_checkpoint(path)


def test_a_tree_that_holds_itself_is_walked_once(tmp_path: Path) -> None:
    content: dict[str, Any] = {"model": weights(), "lists": []}
    content["self"] = content
    for _ in range(40):
        content["lists"] = [content["lists"], content["lists"]]
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(content))
    assert open_checkpoint(path).key == "model"


def test_a_tensor_that_reaches_beyond_its_storage_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    raw = pickle.dumps({"a.weight": torch.ones(4)}, protocol=2)
    shape, stride = b"K\x04\x85", b"K\x01\x85"
    assert raw.count(shape) == 1
    assert raw.count(stride) == 1
    path.write_bytes(raw.replace(shape, b"M\x00\x40\x85"))
    with pytest.raises(CheckpointError, match=r"reaches beyond its 4 stored numbers"):
        open_checkpoint(path)

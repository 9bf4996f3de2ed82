"""What is no checkpoint is refused in one line that says what it is and what to do."""

from __future__ import annotations

import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from alignlab.checkpoints import open_checkpoint
from alignlab.errors import CheckpointError
from tests.checkpoints.nets import mlp, saved, weights

POINTER = b"""version https://git-lfs.github.com/spec/v1
oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393
size 12345
"""

BYTES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", r"is empty \(0 bytes\)"),
    "pointer": (POINTER, r"is a Git LFS pointer for a file of 12,345 bytes.*git lfs pull"),
    "html": (b"<!DOCTYPE html>\n<html><title>Sign in</title></html>", r"is a web page \(HTML\)"),
    "old html": (b"\n  <HTML><body>404</body></HTML>", r"is a web page \(HTML\)"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(20), r"is an image \(PNG\)"),
    "jpeg": (b"\xff\xd8\xff\xe0" + bytes(20), r"is an image \(JPEG\)"),
    "gif": (b"GIF89a" + bytes(20), r"is an image \(GIF\)"),
    "webp": (b"RIFF\x00\x00\x00\x00WEBP" + bytes(9), r"is an image \(WebP\)"),
    "text": ("Größe: 3\nand so on\n".encode(), r"is a text file \(it begins 'Größe: 3'\)"),
    "utf-16": ("hello".encode("utf-16"), "is a text file"),
    "json": (json.dumps({"weights": [1, 2]}).encode(), r"is a text file \(JSON"),
    "csv": (b"(a, b)\n1, 2.\n", "is a text file"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(30), "is an HDF5 file"),
    "npy": (b"\x93NUMPY\x01\x00", "is a NumPy array"),
    "gzip": (b"\x1f\x8b\x08" + bytes(30), "is compressed with gzip.*unpack it"),
    "tar": (bytes(257) + b"ustar" + bytes(250), "is a tar archive"),
    "onnx": (b"\x08\x07\x12\x07pytorch\x1a\x052.0.0\x3a\x80\x01", "is an ONNX model"),
    "lua": (struct.pack("<iii", 4, 1, 3) + bytes(9), "is a file of Lua Torch"),
    "noise": (bytes(range(128, 256)), r"is no checkpoint that we know \(128 bytes"),
    "cut safetensors": (struct.pack("<Q", 400) + b'{"a":', "is a truncated safetensors file"),
    "zip head": (b"PK\x03\x04" + bytes(40), "is a truncated or damaged zip archive"),
    "magic only": (b"\x80\x02", "is a truncated or damaged pickle file"),
}


@pytest.mark.parametrize("name", BYTES)
def test_bytes_that_are_no_weights_are_named(tmp_path: Path, name: str) -> None:
    content, expected = BYTES[name]
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=expected) as caught:
        open_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert str(caught.value).endswith(".")


OBJECTS: dict[str, tuple[object, str]] = {
    "module": (
        nn.Linear(2, 2),
        "a whole module of class torch.nn.modules.linear.Linear; save its "
        r"weights .*torch\.save\(model\.state_dict\(\), FILE\).*--allow-unsafe-pickle",
    ),
    "module below": (
        {"epoch": 1, "net": nn.ReLU()},
        "a whole module of class torch.nn.modules.activation.ReLU under 'net'",
    ),
    "optimizer": (torch.optim.Adam(mlp().parameters()).state_dict(), "an optimizer only"),
    "optimizer below": (
        {"optimizer": torch.optim.SGD(mlp().parameters()).state_dict()},
        "an optimizer only",
    ),
    "tensor": (torch.ones(2, 3), r"one tensor of shape \(2, 3\)"),
    "list": ([1, 2], "holds a list, no weights"),
    "unnamed": ([torch.ones(2), torch.ones(3)], r"holds tensors \(0, 1\) but no weights under"),
    "no tensors": ({"epoch": 1, "name": "x"}, r"holds no tensors \(a dict with epoch, name\)"),
    "indices": (
        {"labels": torch.arange(3)},
        r"holds tensors \(labels\) but no weights under",
    ),
    "nan": (
        {"a.weight": torch.tensor([1.0, float("nan")]), "b.weight": torch.ones(2)},
        r"NaN or infinite numbers in a\.weight \(1 of 2\); training diverged",
    ),
    "inf": ({"a.running_var": torch.tensor([float("inf")])}, r"infinite numbers in a\.running_var"),
    "sparse": ({"a.weight": torch.eye(3).to_sparse()}, "weights that are sparse"),
    "meta": ({"a.weight": torch.ones(2, device="meta")}, "without numbers"),
}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", OBJECTS)
def test_contents_that_are_no_weights_are_named(tmp_path: Path, name: str, legacy: bool) -> None:
    content, expected = OBJECTS[name]
    if name in {"sparse", "meta"} and legacy:
        pytest.skip("the legacy format does not hold these")
    path = saved(tmp_path / "model.pt", content, legacy=legacy)
    with pytest.raises(CheckpointError, match=expected) as caught:
        open_checkpoint(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("allow", [False, True])
def test_a_torchscript_archive_is_refused(tmp_path: Path, allow: bool) -> None:
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", pickle.dumps({}))
        archive.writestr("model/constants.pkl", pickle.dumps(()))
        archive.writestr("model/code/__torch__.py", "")
    with pytest.raises(CheckpointError, match="is a TorchScript archive"):
        open_checkpoint(path, allow_unsafe_pickle=allow)


def test_archives_that_torch_did_not_write_are_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.ones(2))
    with pytest.raises(CheckpointError, match="is a NumPy archive"):
        open_checkpoint(tmp_path / "a.npz")
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("folder/model.pt", b"x")
    with pytest.raises(CheckpointError, match=r"holds model\.pt; unpack it"):
        open_checkpoint(tmp_path / "b.zip")


def test_a_folder_is_refused_with_what_it_holds(tmp_path: Path) -> None:
    saved(tmp_path / "model.pt", weights())
    with pytest.raises(CheckpointError, match=r"is a folder.*it holds model\.pt\); pass one file"):
        open_checkpoint(tmp_path)


def test_a_masks_minus_infinity_is_no_fault(tmp_path: Path) -> None:
    mask = torch.triu(torch.full((3, 3), float("-inf")), 1)
    path = saved(tmp_path / "a.pt", {"attn.mask": mask, "fc.weight": torch.ones(2)})
    assert torch.equal(open_checkpoint(path).tensors["attn.mask"], mask)


def test_repeated_numbers_are_checked_without_being_written_out(tmp_path: Path) -> None:
    huge = torch.ones(1).expand(2**40)
    opened = open_checkpoint(saved(tmp_path / "a.pt", {"a.weight": huge}))
    assert opened.tensors["a.weight"].shape == (2**40,)


class Unpicklable(nn.Module):
    """A whole module that the tests pickle."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 3)


@pytest.mark.parametrize(
    "content", [mlp, lambda: {"net": mlp(), "epoch": 2}], ids=["alone", "in a dict"]
)
def test_whole_modules_are_loaded_where_the_user_trusts_the_file(
    tmp_path: Path, content: Callable[[], object]
) -> None:
    path = saved(tmp_path / "a.pt", content())
    opened = open_checkpoint(path, allow_unsafe_pickle=True)
    assert all(torch.equal(opened.tensors[name], value) for name, value in weights().items())


def test_a_trusted_file_whose_code_is_absent_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys
    from types import ModuleType

    module = ModuleType("absent_code")
    module.Net = type("Net", (nn.Linear,), {"__module__": "absent_code"})
    monkeypatch.setitem(sys.modules, "absent_code", module)
    path = saved(tmp_path / "a.pt", module.Net(2, 2))
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match=r"whole module of class absent_code\.Net"):
        open_checkpoint(path)
    with pytest.raises(CheckpointError, match=r"No module named 'absent_code'\); put the code"):
        open_checkpoint(path, allow_unsafe_pickle=True)

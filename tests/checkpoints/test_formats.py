"""Every format of weights that is read, and where in a file the weights are found."""

from __future__ import annotations

import argparse
import hashlib
import io
import pickle
import zipfile
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from alignlab.checkpoints import open_checkpoint
from alignlab.errors import CheckpointError, MissingError
from tests.checkpoints.nets import cnn, mlp, same, saved, weights


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".th", ".pkl", ".t7", ".bin", ".ckpt", ""])
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_the_content_decides_and_not_the_suffix(tmp_path: Path, suffix: str, legacy: bool) -> None:
    path = saved(tmp_path / f"model{suffix}", weights(), legacy=legacy)
    opened = open_checkpoint(path)
    assert opened.format == ("PyTorch legacy" if legacy else "PyTorch zip")
    assert same(opened.tensors, weights())
    assert opened.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (opened.key, opened.prefix, opened.notes) == ("", "", ())


def test_safetensors_are_read_with_their_header(tmp_path: Path) -> None:
    save_file(weights(), tmp_path / "model.bin", metadata={"trained": "by hand"})
    opened = open_checkpoint(tmp_path / "model.bin")
    assert opened.format == "safetensors"
    assert {name: tuple(t.shape) for name, t in opened.tensors.items()} == {
        name: tuple(t.shape) for name, t in weights().items()
    }
    assert all(torch.equal(opened.tensors[name], value) for name, value in weights().items())
    assert opened.metadata == {"trained": "by hand"}


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_a_plain_pickle_of_a_state_dict_is_read(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(mlp().state_dict(), protocol=protocol))
    opened = open_checkpoint(path)
    assert opened.format == "pickle"
    assert same(opened.tensors, weights())


@pytest.mark.parametrize("protocol", [2, 5])
def test_a_pickle_of_numpy_arrays_is_read(tmp_path: Path, protocol: int) -> None:
    arrays = {name: value.numpy() for name, value in weights().items()}
    arrays["fc1.weight"] = np.asfortranarray(arrays["fc1.weight"])
    arrays["fc2.bias"] = arrays["fc2.bias"].astype(">f4")
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(arrays, protocol=protocol))
    assert same(open_checkpoint(path).tensors, weights())


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("protocol", [2, 4])
def test_foreign_objects_beside_the_weights_do_not_stand_in_the_way(
    tmp_path: Path, legacy: bool, protocol: int
) -> None:
    content = {
        "state_dict": cnn().state_dict(),
        "args": argparse.Namespace(lr=0.1, out=Path("runs") / "a"),
        "best": np.float64(0.5),
        "history": defaultdict(list, {"loss": [1.0, np.float32(0.5)]}),
        "criterion_object": nn.CrossEntropyLoss,
        "tied": torch.arange(6.0).reshape(2, 3).T,
        "views": list(torch.arange(10).split(3)),
    }
    path = tmp_path / "model.pt"
    torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)
    opened = open_checkpoint(path)
    assert same(opened.tensors, weights(cnn()))
    assert opened.hyper_parameters == {"lr": 0.1, "out": "runs/a"}
    assert torch.equal(opened.extras["tied"], torch.arange(6.0).reshape(2, 3).T)
    assert opened.extras["views.2"].tolist() == [6, 7, 8]
    assert "torch.nn.modules.loss.CrossEntropyLoss" in opened.notes[0]


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float64, torch.complex64, torch.int8]
)
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_both_readers_agree_on_every_type_of_number(
    tmp_path: Path, dtype: torch.dtype, legacy: bool
) -> None:
    content = {"net": {**weights(), "extra.scale": torch.arange(-3, 4).to(dtype)}}
    plain = open_checkpoint(saved(tmp_path / "a.pt", content, legacy=legacy))
    foreign = {**content, "who": argparse.Namespace(a=1)}
    restricted = open_checkpoint(saved(tmp_path / "b.pt", foreign, legacy=legacy))
    assert restricted.notes
    assert same(plain.tensors, restricted.tensors)


@pytest.mark.parametrize(
    "key",
    [
        "state_dict",
        "model",
        "model_state_dict",
        "net",
        "network",
        "weights",
        "params",
        "module",
        "model_state",
    ],
)
def test_weights_are_found_below_the_usual_names(tmp_path: Path, key: str) -> None:
    optimizer = torch.optim.Adam(mlp().parameters()).state_dict()
    content = {"epoch": 3, key: weights(), "optimizer": optimizer, "acc": torch.tensor(0.5)}
    opened = open_checkpoint(saved(tmp_path / "a.pt", content))
    assert opened.key == key
    assert same(opened.tensors, weights())
    assert opened.metadata == {"epoch": 3, "acc": 0.5}


def test_weights_are_found_two_levels_down(tmp_path: Path) -> None:
    content = {"trainer": {"step": 1, "model": weights()}, "rng_state": torch.get_rng_state()}
    assert open_checkpoint(saved(tmp_path / "a.pt", content)).key == "trainer.model"


def test_a_tree_of_modules_is_flattened(tmp_path: Path) -> None:
    tree = {
        "fc1": {"weight": torch.ones(2, 3), "bias": torch.ones(2)},
        "block": {"fc2": {"weight": torch.ones(4, 2)}},
    }
    opened = open_checkpoint(saved(tmp_path / "a.pt", {"params": tree, "step": 7}))
    assert list(opened.tensors) == ["fc1.weight", "fc1.bias", "block.fc2.weight"]


def test_averaged_weights_are_offered_but_not_chosen(tmp_path: Path) -> None:
    averaged = {name: value + 1 for name, value in weights().items()}
    path = saved(tmp_path / "a.pt", {"model_ema": averaged, "model": weights()})
    opened = open_checkpoint(path)
    assert same(opened.tensors, weights())
    assert opened.notes == (
        "The file also holds model_ema (4 tensors, 43 numbers); choose with --key NAME.",
    )
    assert same(open_checkpoint(path, key="model_ema").tensors, averaged)


def test_of_several_networks_none_is_chosen_silently(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", {"coarse": weights(), "fine": weights(cnn())})
    with pytest.raises(CheckpointError, match=r"holds 2 networks: coarse .* fine .* --key NAME\.$"):
        open_checkpoint(path)
    assert same(open_checkpoint(path, key="fine").tensors, weights(cnn()))


def test_a_key_may_lead_anywhere_in_the_file(tmp_path: Path) -> None:
    content = {"runs": [{"a.b": weights()}, {"a.b": weights(cnn())}]}
    path = saved(tmp_path / "a.pt", content)
    assert same(open_checkpoint(path, key="runs.1.a.b").tensors, weights(cnn()))
    with pytest.raises(CheckpointError, match=r"nothing under --key runs\.2; it holds runs\.0"):
        open_checkpoint(path, key="runs.2")


@pytest.mark.parametrize(
    ("prefix", "taken_off"),
    [
        ("module.", "module."),
        ("model.", "model."),
        ("net.", "net."),
        ("_orig_mod.", ""),
        ("module.model.", "module.model."),
        ("model._orig_mod.", "model."),
    ],
)
def test_prefixes_that_all_names_share_are_taken_off(
    tmp_path: Path, prefix: str, taken_off: str
) -> None:
    content = {prefix + name: value for name, value in weights().items()}
    opened = open_checkpoint(saved(tmp_path / "a.pt", content))
    assert same(opened.tensors, weights())
    assert opened.prefix == taken_off


def test_a_prefix_that_some_names_lack_stays(tmp_path: Path) -> None:
    content = {"net.weight": torch.ones(2, 2), "head.weight": torch.ones(1, 2)}
    assert list(open_checkpoint(saved(tmp_path / "a.pt", content)).tensors) == list(content)


def test_an_averaged_model_loses_its_counter(tmp_path: Path) -> None:
    averaged = torch.optim.swa_utils.AveragedModel(mlp())
    opened = open_checkpoint(saved(tmp_path / "a.pt", averaged.state_dict()))
    assert same(opened.tensors, weights())
    assert "AveragedModel" in opened.notes[0]


def _with_device(content: object, device: bytes) -> bytes:
    """Return a zip checkpoint whose storages claim to lie on a device of another machine."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    result = io.BytesIO()
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(result, "w") as target:
        for record in source.infolist():
            raw = source.read(record)
            if record.filename.endswith("data.pkl"):
                size = len(device).to_bytes(4, "little")
                raw = raw.replace(b"X\x03\x00\x00\x00cpu", b"X" + size + device)
            target.writestr(record.filename, raw)
    return result.getvalue()


@pytest.mark.parametrize("device", [b"cuda:7", b"mps:0", b"xla:1", b"privateuseone:0"])
def test_tags_of_foreign_devices_do_not_matter(tmp_path: Path, device: bytes) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(_with_device(weights(), device))
    opened = open_checkpoint(path)
    assert same(opened.tensors, weights())
    assert {value.device.type for value in opened.tensors.values()} == {"cpu"}


def _foreign_class(module: str, name: str, base: type) -> Any:
    """Return a class that claims to come from a package that is not installed."""
    return type(name, (base,), {"__module__": module})


def test_lightning_checkpoints_need_no_lightning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys
    from types import ModuleType

    attribute_dict = _foreign_class("absent_lightning.parsing", "AttributeDict", dict)
    module = ModuleType("absent_lightning.parsing")
    module.AttributeDict = attribute_dict
    monkeypatch.setitem(sys.modules, "absent_lightning", ModuleType("absent_lightning"))
    monkeypatch.setitem(sys.modules, "absent_lightning.parsing", module)
    content = {
        "epoch": 2,
        "pytorch-lightning_version": "1.6.4",
        "state_dict": OrderedDict((f"model.{n}", v) for n, v in weights().items()),
        "optimizer_states": [torch.optim.SGD(mlp().parameters(), momentum=0.9).state_dict()],
        "hyper_parameters": attribute_dict(width=5, layers=[1, 2], nested={"lr": 0.1}),
    }
    path = saved(tmp_path / "epoch=2.ckpt", content)
    monkeypatch.undo()
    assert "absent_lightning" not in sys.modules
    opened = open_checkpoint(path)
    assert same(opened.tensors, weights())
    assert opened.hyper_parameters == {"width": 5, "layers": [1, 2], "nested": {"lr": 0.1}}
    assert opened.metadata["pytorch-lightning_version"] == "1.6.4"
    assert "absent_lightning" not in sys.modules


def test_a_missing_file_is_told_with_its_neighbours(tmp_path: Path) -> None:
    saved(tmp_path / "model.pt", weights())
    with pytest.raises(MissingError, match=r"There is no file .*modle\.pt; nearest: model\.pt\.$"):
        open_checkpoint(tmp_path / "modle.pt")
    with pytest.raises(MissingError, match=r"the folder .* does not exist either"):
        open_checkpoint(tmp_path / "absent" / "model.pt")


def test_files_without_checksums_are_read_and_said_to_be_so(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        path = saved(tmp_path / "a.pt", weights())
    finally:
        torch.serialization.set_crc32_options(True)
    opened = open_checkpoint(path)
    assert same(opened.tensors, weights())
    assert "no checksums" in opened.notes[0]

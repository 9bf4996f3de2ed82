"""Files that others published, opened or refused as the folder's README says."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from alignlab.checkpoints import describe, fit, open_checkpoint
from alignlab.errors import CheckpointError

ROOT = Path(os.environ.get("ALIGNLAB_DATA") or "no-data-here") / "checkpoints"

pytestmark = pytest.mark.skipif(
    not ROOT.is_dir(), reason="needs checkpoints in the folder that ALIGNLAB_DATA names"
)


def conv(a: int, b: int, *, stride: int = 1, size: int = 3) -> nn.Conv2d:
    return nn.Conv2d(a, b, size, stride=stride, bias=False)


@pytest.mark.parametrize(
    ("name", "form", "key", "prefix", "layer", "shape"),
    [
        ("lenet_captum.pt", "PyTorch legacy", "", "", "fc3.weight", (10, 84)),
        ("resnet20_chen_epoch1.t7", "PyTorch legacy", "net", "module.", "linear.weight", (10, 64)),
        ("lightning_won_v0.ckpt", "PyTorch zip", "state_dict", "model.", "7.weight", (10, 64)),
        ("vit_agentzz.pth", "PyTorch zip", "", "", "pos_embed", (1, 16, 32)),
        ("llama_tiny_random.pt", "PyTorch zip", "", "", "output.weight", (500, 32)),
    ],
)
def test_public_checkpoints_are_opened(
    name: str, form: str, key: str, prefix: str, layer: str, shape: tuple[int, ...]
) -> None:
    opened = open_checkpoint(ROOT / name)
    assert (opened.format, opened.key, opened.prefix) == (form, key, prefix)
    assert tuple(opened.tensors[layer].shape) == shape
    assert all(value.device.type == "cpu" for value in opened.tensors.values())
    assert opened.feedback == ()
    assert opened.notes == ()
    assert layer.removesuffix(".weight") in describe(ROOT / name)


def test_lightnings_counters_are_read() -> None:
    opened = open_checkpoint(ROOT / "lightning_won_v0.ckpt")
    assert opened.metadata["pytorch-lightning_version"] == "1.6.4"
    assert opened.metadata["epoch"] == 2


def test_two_networks_in_one_file_are_listed() -> None:
    path = ROOT / "nerf_dfa_chair.ckpt"
    with pytest.raises(CheckpointError, match=r"model_coarse_state_dict .* model_fine_state_dict"):
        open_checkpoint(path)
    fine = open_checkpoint(path, key="model_fine_state_dict")
    assert tuple(fine.tensors["fc_rgb.weight"].shape) == (3, 64)
    assert fine.feedback == ()
    assert "--key model_coarse_state_dict" in describe(path)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("lfs_pointer_ckpt.pt", r"is a Git LFS pointer .*git lfs pull"),
        ("module_zip_gru_baseline.pt", r"whole module of class model\.CharRNN; save its weights"),
    ],
)
def test_what_is_no_checkpoint_is_refused(name: str, reason: str) -> None:
    with pytest.raises(CheckpointError, match=reason) as caught:
        open_checkpoint(ROOT / name)
    assert "\n" not in str(caught.value)


def architectures() -> ModuleType:
    path = Path(__file__).parents[1] / "models" / "real_checkpoints.py"
    spec = importlib.util.spec_from_file_location("real_checkpoints", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def perceptron() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(784, 64),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(64, 64),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(64, 10),
    )


def lenet() -> nn.Module:
    module: nn.Module = architectures().LeNet()
    return module


def resnet20() -> nn.Module:
    module: nn.Module = architectures().ResNet20()
    return module


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("lenet_captum.pt", lenet),
        ("resnet20_chen_epoch1.t7", resnet20),
        ("lightning_won_v0.ckpt", perceptron),
    ],
)
def test_public_checkpoints_fit_their_architecture(
    name: str, model: Callable[[], nn.Module]
) -> None:
    opened = open_checkpoint(ROOT / name)
    filled = model()
    fit(opened, filled, rename={})
    state = filled.state_dict()
    for key, value in opened.tensors.items():
        held = state[key if key in state else f"model.{key}"]
        assert torch.equal(held, value)


def test_the_wrong_architecture_is_refused_with_a_short_difference() -> None:
    with pytest.raises(CheckpointError, match="Likely cause") as caught:
        fit(open_checkpoint(ROOT / "vit_agentzz.pth"), lenet())
    assert len(str(caught.value).splitlines()) <= 4

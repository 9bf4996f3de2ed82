"""Public checkpoints: the builders fit them and reach the accuracy that their owners state."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from alignlab.datasets import load
from alignlab.specs import build_model

ROOT = Path(os.environ.get("ALIGNLAB_DATA") or "no-data-here")
BUILDERS = Path(__file__).with_name("real_checkpoints.py")
MNIST = {"mean": 0.1307, "std": 0.3081}
CIFAR10 = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2023, 0.1994, 0.2010)}

pytestmark = pytest.mark.skipif(
    not (ROOT / "checkpoints").exists(),
    reason="needs checkpoints in the folder that ALIGNLAB_DATA names",
)


def weights(file: str, *, below: str = "", prefix: str = "") -> dict[str, Tensor]:
    """Return the weights of a checkpoint by the names that the network gives them."""
    held: Mapping[str, Any] = torch.load(
        ROOT / "checkpoints" / file, weights_only=True, map_location="cpu"
    )
    found = held[below] if below else held
    return {name.removeprefix(prefix): tensor for name, tensor in found.items()}


def accuracy(model: nn.Module, data: str, **scaling: Any) -> float:
    """Return the share of right answers on the whole test split."""
    samples = load(data, samples=None, **scaling)
    model.eval()
    with torch.no_grad():
        right = model(samples.x).argmax(dim=1) == samples.y
    return right.double().mean().item()


@pytest.mark.parametrize("spec", [f"{BUILDERS}:lenet", "alignlab:lenet"], ids=["plain", "own"])
def test_the_lenet_reaches_59_percent(spec: str) -> None:
    model = build_model(spec, {})
    model.load_state_dict(weights("lenet_captum.pt"))
    assert accuracy(model, "cifar10", mean=0.5, std=0.5) == pytest.approx(0.590, abs=0.0005)


@pytest.mark.parametrize(
    "spec", [f"{BUILDERS}:resnet20", "alignlab:resnet20"], ids=["plain", "own"]
)
def test_the_resnet20_reaches_59_7_percent(spec: str) -> None:
    model = build_model(spec, {})
    model.load_state_dict(weights("resnet20_chen_epoch1.t7", below="net", prefix="module."))
    assert accuracy(model, "cifar10", **CIFAR10) == pytest.approx(0.597, abs=0.0005)


def test_the_lightning_mlp_reaches_94_6_percent() -> None:
    model = build_model(f"{BUILDERS}:lightning_mlp", {})
    model.load_state_dict(weights("lightning_won_v0.ckpt", below="state_dict", prefix="model."))
    assert accuracy(model, "mnist", **MNIST) == pytest.approx(0.946, abs=0.0005)


@pytest.mark.parametrize(("heads", "expected"), [(1, 0.840), (2, 0.793)])
def test_the_vit_reaches_84_percent_with_one_head_only(heads: int, expected: float) -> None:
    model = build_model(f"{BUILDERS}:vit", {"heads": heads})
    model.load_state_dict(weights("vit_agentzz.pth"))
    assert accuracy(model, "mnist", **MNIST) == pytest.approx(expected, abs=0.0005)


@pytest.mark.parametrize("part", ["coarse", "fine"])
def test_the_radiance_field_fits_both_of_its_networks(part: str) -> None:
    model = build_model(f"{BUILDERS}:nerf", {})
    model.load_state_dict(weights("nerf_dfa_chair.ckpt", below=f"model_{part}_state_dict"))
    output = model(torch.rand(5, 90))
    assert output.shape == (5, 4)
    assert torch.isfinite(output).all()


def test_the_llama_looks_back_only() -> None:
    model = build_model(f"{BUILDERS}:llama", {})
    model.load_state_dict(weights("llama_tiny_random.pt"))
    tokens = torch.randint(500, (2, 7), generator=torch.Generator().manual_seed(0))
    assert model(tokens).shape == (2, 500)
    assert torch.allclose(model(tokens[:, :4]), all_logits(model, tokens)[:, 3], atol=1e-5)


def all_logits(model: Any, tokens: Tensor) -> Tensor:
    """Return the logits at every position, which the network gives at the last one only."""
    x = model.tok_embeddings(tokens)
    for layer in model.layers:
        x = layer(x)
    logits: Tensor = model.output(model.norm(x))
    return logits

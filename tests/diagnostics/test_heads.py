"""Dense feedback under a pooled and a flattened head: what was derived for random networks.

Four circular convolutions of 16 channels on 8 by 8 positions, ReLU, random weights, smooth noise.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor, nn
from torch.nn import functional

from alignlab.kernels.convolution import spatial_mean_share
from alignlab.rules import DFA
from tests.diagnostics.probing import probed

CONVOLUTIONS = ["0", "2", "4", "6"]
NAMES = ["coherence", "spatial-spectrum", "structured-reach"]


def smooth_noise(n: int) -> Tensor:
    white = torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    line = torch.fft.fftfreq(8).square()
    low = torch.exp(-(line[:, None] + line) / 0.15**2)
    smooth = torch.fft.ifft2(torch.fft.fft2(white) * low).real
    return smooth / smooth.std()


def network(head: str) -> nn.Sequential:
    torch.manual_seed(0)
    modules: list[nn.Module] = []
    for channels in (3, 16, 16, 16):
        layer = nn.Conv2d(channels, 16, 3, padding=1, padding_mode="circular", bias=False)
        nn.init.kaiming_normal_(layer.weight)
        modules += [layer, nn.ReLU()]
    if head == "pooled":
        return nn.Sequential(*modules, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    return nn.Sequential(*modules, nn.Flatten(), nn.Linear(1024, 10))


def measured(head: str, n: int, *names: str, draws: int = 32) -> xr.Dataset:
    labels = torch.randint(0, 10, (n,), generator=torch.Generator().manual_seed(2))
    batch = smooth_noise(n), labels
    return probed(
        network(head), functional.cross_entropy, batch, DFA(), diagnostics=names, draws=draws
    )


@pytest.fixture(scope="module")
def found() -> dict[str, xr.Dataset]:
    return {head: measured(head, 256, *NAMES) for head in ("pooled", "flattened")}


def values(recording: xr.Dataset, name: str, layers: list[str], **place: str) -> Any:
    return recording[name].sel(layer=layers, **place).squeeze().values


def test_positions_agree_under_a_pooled_head_and_not_under_dense_feedback(
    found: dict[str, xr.Dataset],
) -> None:
    pooled, flattened = found["pooled"], found["flattened"]
    below = CONVOLUTIONS[:3]
    for recording in (pooled, flattened):
        dense = values(recording, "coherence", below)
        assert ((dense > 0.1) & (dense < 0.2)).all()
        assert values(recording, "coherence_chance", below).tolist() == [0.125] * 3
    assert (values(pooled, "coherence_true", CONVOLUTIONS) > 0.27).all()
    true = values(flattened, "coherence_true", CONVOLUTIONS)
    assert ((true > 0.09) & (true < 0.25)).all()


def test_the_true_signal_is_smooth_behind_a_pooled_head_and_dense_feedback_is_white(
    found: dict[str, xr.Dataset],
) -> None:
    below = CONVOLUTIONS[:3]
    for recording in found.values():
        dense = values(recording, "spatial_dc_fraction", below)
        np.testing.assert_allclose(dense, 1 / 64, atol=0.006)
    shares = values(found["pooled"], "spatial_dc_fraction_true", CONVOLUTIONS)
    assert 0.15 < shares[0] < 0.35
    assert (np.diff(shares) > 0.0).all()
    flat = values(found["flattened"], "spatial_dc_fraction_true", CONVOLUTIONS)
    np.testing.assert_allclose(flat, 1 / 64, atol=0.006)


def test_above_the_last_gate_all_of_the_true_signal_is_constant() -> None:
    model = network("pooled")
    top = model[:8](smooth_noise(20)).detach().requires_grad_()
    loss = functional.cross_entropy(model[8:](top), torch.arange(20) % 10)
    (signal,) = torch.autograd.grad(loss, top)
    assert float(spatial_mean_share(signal)) == pytest.approx(1.0)


def test_one_value_a_channel_reaches_as_much_under_a_pooled_head_and_little_under_a_flat_one(
    found: dict[str, xr.Dataset],
) -> None:
    for site in ("entry", "preactivation"):
        pooled = [
            float(found["pooled"][f"reach_{kind}_held_out"].sel(layer="4", site=site))
            for kind in ("dense", "by_channel", "by_region")
        ]
        assert pooled[1] > 0.5
        assert pooled[1] >= pooled[2] >= pooled[0]
        flat = [
            float(found["flattened"][f"reach_{kind}_held_out"].sel(layer="4", site=site))
            for kind in ("dense", "by_channel")
        ]
        assert flat[0] > 0.3
        assert flat[1] < 0.04
    in_sample = found["pooled"]["reach_by_channel_in_sample"]
    held_out = found["pooled"]["reach_by_channel_held_out"]
    assert (in_sample.sel(layer=CONVOLUTIONS[:3]) >= held_out.sel(layer=CONVOLUTIONS[:3])).all()


def test_chance_is_wide_for_shared_gradients_and_narrow_for_those_of_single_positions() -> None:
    recording = measured("pooled", 64, "weight-gradient", "unshared-gradient")
    shared = values(recording, "cosine_weight_gradient_null_sd", CONVOLUTIONS)
    unshared = values(recording, "cosine_weight_gradient_unshared_null_sd", CONVOLUTIONS[:3])
    assert ((shared > 0.05) & (shared < 0.45)).all()
    assert ((unshared > 0.005) & (unshared < 0.06)).all()
    assert (shared[:3] > 2.5 * unshared).all()


@pytest.mark.parametrize(
    ("inside", "out", "taps", "size", "cap"),
    [(32, 64, 5, 16, 0.0195), (64, 64, 3, 16, 0.0117), (512, 512, 3, 4, 0.19),
     (16, 16, 3, 32, 0.0029)],
)  # fmt: skip
def test_the_cap_of_weights_of_known_networks(
    inside: int, out: int, taps: int, size: int, cap: float
) -> None:
    layers = [nn.Conv2d(1, inside, 1), nn.Conv2d(inside, out, taps, padding=taps // 2)]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(out, 2))
    batch = torch.randn(2, 1, size, size), torch.arange(2)
    found = probed(model, functional.cross_entropy, batch, diagnostics=["convolution-cap"])
    value = float(found["convolution_weight_cap"].sel(layer="1"))
    digits = len(str(cap)) - 2
    assert round(value, digits) == cap

"""What convolutions can reach, against values that were derived and checked by other means."""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

from alignlab.diagnostics.unshared_gradient import UnsharedGradient
from alignlab.engine.capture import Capture
from alignlab.kernels.convolution import RADIAL_EDGES, radial_power
from alignlab.layer_view import LayerView
from alignlab.rules import BP, DFA, FA, Task
from alignlab.snapshot import MeasuredRule
from tests.cases import CASES
from tests.diagnostics.probing import given_feedback, half_squared_error, probed


def two_convolutions(channels: int, positions: int, taps: int) -> nn.Module:
    def convolution(below: int) -> nn.Module:
        return nn.Conv1d(below, channels, taps, padding=taps // 2)

    readout = nn.Linear(channels * positions, 10)
    return nn.Sequential(convolution(4), convolution(channels), nn.Flatten(), readout)


@pytest.mark.parametrize(
    ("channels", "positions", "taps", "cap", "attainable"),
    [(64, 16, 3, 0.108, 1.0), (32, 64, 5, 0.035, 0.50)],
)
def test_weights_are_capped_far_below_what_gradients_can_attain(
    channels: int, positions: int, taps: int, cap: float, attainable: float
) -> None:
    torch.manual_seed(0)
    model = two_convolutions(channels, positions, taps)
    batch = torch.randn(150, 4, positions), torch.arange(150) % 10
    found = probed(
        *(model, functional.cross_entropy, batch, DFA()),
        diagnostics=["attainable-cosine", "convolution-cap"],
    )
    assert float(found["convolution_weight_cap"].isel(layer=1)) == pytest.approx(cap, abs=1e-3)
    own = found["convolution_weight_attainable"].sel(rule="dfa").isel(layer=1)
    assert float(own) == pytest.approx(cap, rel=0.1)
    reached = found["attainable_cosine"].sel(rule="dfa").isel(layer=0).values
    assert reached.tolist() == pytest.approx([attainable] * 2, abs=0.03)


@pytest.mark.parametrize("seed", range(3))
def test_digits_bound_the_weights_by_their_free_parameters(seed: int) -> None:
    torch.manual_seed(seed)
    model = nn.Sequential(
        *(nn.Conv2d(1, 8, 3), nn.Tanh(), nn.Conv2d(8, 8, 3), nn.Tanh(), nn.Flatten()),
        nn.Linear(128, 10),
    )
    images, labels = load_digits(return_X_y=True)
    batch = images[:64].reshape(-1, 1, 8, 8).astype(np.float32) / 16.0, labels[:64]
    found = probed(
        *(model, functional.cross_entropy, batch, DFA(seed=seed)), diagnostics=["convolution-cap"]
    )
    prediction = sqrt(8 * 8 * 9 / ((8 * 36) * (8 * 16)))
    assert prediction == 0.125
    assert float(found["convolution_weight_cap"].isel(layer=1)) == pytest.approx(prediction)
    attainable = found["convolution_weight_attainable"].isel(rule=0, layer=1)
    assert 0.9 <= float(attainable) / prediction <= 1.1
    assert found["convolution_weight_cap"].isel(layer=[0, 2]).isnull().all()


def test_the_best_kernel_attains_the_attainable_cosine() -> None:
    stream = torch.Generator().manual_seed(0)
    model = nn.Sequential(
        nn.Conv1d(2, 3, 3, padding=1), nn.Conv1d(3, 4, 3, padding=1), nn.Flatten(),
        nn.Linear(4 * 8, 5),
    ).double()  # fmt: skip
    x = torch.randn(800, 2, 8, generator=stream).double()
    error = torch.randn(800, 5, generator=stream).double()
    feedback = torch.randn(5, 3, 8, generator=stream).double()
    convolution: Any = model[1]
    with torch.no_grad():
        above = (error @ model[3].weight).reshape(800, 4, 8)
        unit = torch.eye(convolution.weight.numel()).double()
        rows = [
            functional.conv_transpose1d(above, each.reshape(4, 3, 3), padding=1).flatten()
            for each in unit
        ]
        target = torch.tensordot(error, feedback, dims=1).flatten()
        best = torch.linalg.lstsq(torch.stack(rows, 1), target).solution
        convolution.weight.copy_(best.reshape(4, 3, 3))
        output = model(x)
    matrices = {"0": feedback.flatten(1).T.numpy(), "1": np.ones((32, 5))}
    found = probed(
        *(model, half_squared_error, (x, output - error), given_feedback(matrices)),
        diagnostics=["attainable-cosine", "error-signal"],
    ).isel(rule=0, layer=0)
    attainable = float(found["attainable_cosine"].sel(site="entry"))
    attained = float(found["cosine_error_signal_flat"].sel(site="entry"))
    assert 0.1 < attainable < 0.95
    assert attainable <= attained <= attainable + 0.02


@pytest.mark.parametrize(
    ("name", "layer", "entry", "preactivation"),
    [
        ("relu in place", "0", True, True),
        ("dropout", "0", True, True),
        ("batch norm, evaluation", "0", True, True),
        ("batch norm, training", "0", True, False),
        ("layer norm", "0", True, False),
        ("overlapping pools", "0", True, False),
        ("conv2d, grouped", "0", False, False),
        ("conv2d, circular", "0", True, True),
        ("residual", "0.0", False, False),
        ("residual", "1.conv1", True, False),
        ("positions", "first", True, True),
    ],
)
def test_the_attainable_cosine_is_given_where_the_next_weights_are_all_there_is(
    name: str, layer: str, entry: bool, preactivation: bool
) -> None:
    batch = CASES[name].make(n_samples=160)
    capture = Capture(batch.model, batch.loss, batch.x, batch.y)
    drawn = MeasuredRule(DFA(), DFA().start(capture, seed=0), "drawn")
    found = probed(
        *(batch.model, batch.loss, (batch.x, batch.y), drawn), diagnostics=["attainable-cosine"]
    )
    known = {"entry": False, "preactivation": False}
    if "attainable_cosine" in found:
        values = found["attainable_cosine"].isel(rule=0).sel(layer=layer)
        known = {site: bool(values.sel(site=site).notnull()) for site in known}
    assert known == {"entry": entry, "preactivation": preactivation}


def test_a_waves_power_lies_at_its_frequency() -> None:
    place = torch.arange(16).double()
    for frequency in (0, 1, 4, 8):
        wave = torch.cos(2 * torch.pi * frequency * place / 16).expand(3, 2, 16)
        power = radial_power(wave)
        band = int((frequency / 16 - 1e-6 <= RADIAL_EDGES).nonzero()[0])
        assert power[band] == pytest.approx(1.0)
        assert power.sum() == pytest.approx(1.0)


def test_white_feedback_is_white_over_positions() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(1, 40, 3, padding=1), nn.Conv2d(40, 30, 3, padding=1)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(30, 10)),
    )
    batch = torch.randn(40, 1, 6, 6), torch.arange(40) % 10
    found = probed(
        *(model, functional.cross_entropy, batch, DFA(), DFA(structure="channel"), FA(), BP()),
        diagnostics=["spatial-spectrum", "coherence"],
    )
    share, rules = found["spatial_dc_fraction"], list(found["rule"].values)
    assert rules == ["dfa", "dfa(structure=channel)", "fa", "bp"]
    chance = float(found["spatial_dc_fraction_chance"].isel(layer=0))
    assert chance == 1 / 36
    assert float(share.isel(layer=0).sel(rule="dfa")) == pytest.approx(chance, rel=0.5)
    flat = share.isel(layer=1).sel(rule=["fa", "bp"]).values
    assert flat.tolist() == pytest.approx([1.0, 1.0])
    assert float(share.isel(layer=0).sel(rule="dfa(structure=channel)")) == pytest.approx(1.0)
    true = found["spatial_dc_fraction_true"].values[:2]
    assert true[1] == pytest.approx(1.0)
    assert true[0] > 0.5
    spectrum = found["spatial_power"].isel(layer=slice(0, 2)).sum("frequency")
    np.testing.assert_allclose(spectrum, 1.0)
    np.testing.assert_allclose(
        found["spatial_power"].isel(frequency=0, layer=0), share.isel(layer=0), rtol=1e-6
    )
    assert float(found["coherence"].sel(rule="dfa").isel(layer=0)) < 0.4
    assert float(found["coherence_chance"].isel(layer=0)) == 1 / 6


@pytest.mark.parametrize("name", ["conv2d, circular", "conv1d, strided"])
def test_the_first_order_chance_of_unshared_gradients_is_that_of_many_draws(name: str) -> None:
    made = CASES[name].make(n_samples=24)
    batch = made.x, made.y
    diagnostics = ["unshared-gradient"]
    closed = probed(made.model, made.loss, batch, DFA(), diagnostics=diagnostics).isel(rule=0)
    draws = []
    for seed in range(250):
        capture = Capture(made.model, made.loss, *batch)
        true, rule = capture.reference(), DFA(seed=seed)
        found = rule.updates(Task(capture, true), rule.start(capture, seed=seed))
        views = [
            LayerView(
                *(capture, capture.layers[0], each),
                fold=torch.arange(24) < 12,
                shared=lambda make: make(None),
            )
            for each in (true, found)
        ]
        (compared,) = UnsharedGradient().compare(*views).values()
        draws.append(float(compared.value))
        capture.close()
    layer = "0"
    name_of = "cosine_weight_gradient_unshared"
    sd = float(closed[f"{name_of}_null_sd"].sel(layer=layer))
    assert abs(np.mean(draws)) <= 4.0 * np.std(draws) / 250**0.5
    if str(closed[f"{name_of}_null_method"].sel(layer=layer).item()) == "closed form":
        assert sd == pytest.approx(np.std(draws), rel=0.15)
    else:
        assert sd == pytest.approx(np.std(draws), rel=0.35)

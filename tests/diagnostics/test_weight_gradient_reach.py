"""Reach of weight gradients: known networks, least squares by hand, chance, shared weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor, nn
from torch.nn import functional

from alignlab.engine.capture import Capture
from alignlab.sites import Layer
from tests.cases import CASES
from tests.diagnostics.probing import probed
from tests.diagnostics.reaching import deep, noise, signals_of

LOSS = functional.cross_entropy
NAME = "weight-gradient-reach"


def reached(model: nn.Module, batch: tuple[Tensor, Tensor], *names: str) -> xr.Dataset:
    return probed(model, LOSS, batch, diagnostics=[NAME, *names])


def number(found: xr.Dataset, end: str, layer: str = "0") -> float:
    return float(found[f"weight_gradient_reach_{end}"].sel(layer=layer))


def reason(found: xr.Dataset, layer: str) -> str:
    return str(found["not_defined"].sel(diagnostic=NAME, layer=layer).item())


def test_averaging_over_samples_lifts_the_weight_gradient_above_the_signals() -> None:
    """At the bottom of deep ReLU networks about .70 where the signals have .55."""
    roots = []
    for seed in range(3):
        model = deep((100, 200, 200, 200, 200, 10), nn.ReLU, seed=seed)
        found = reached(model, noise(512, 100, 10, seed=seed), "reach")
        signal = float(found["reach_in_sample"].sel(layer="0", site="entry"))
        ends = [number(found, end) for end in ("in_sample", "chance", "held_out")]
        roots.append(np.sqrt([signal, *ends]))
    signal, weight, chance, held_out = np.mean(roots, 0)
    assert weight == pytest.approx(0.70, abs=0.04)
    assert signal == pytest.approx(0.55, abs=0.03)
    assert chance == pytest.approx(0.47, abs=0.05)
    assert chance - 0.05 < held_out < weight


def test_weight_gradients_of_linear_networks_are_within_reach_held_out_too() -> None:
    found = reached(deep((30, 40, 35, 5), nn.Identity), noise(400, 30, 5))
    for layer in ("0", "2"):
        assert number(found, "in_sample", layer) == pytest.approx(1.0, abs=1e-6)
        assert number(found, "held_out", layer) > 0.99
        assert number(found, "dense", layer) > 0.99


def test_the_share_is_that_of_least_squares_unit_by_unit() -> None:
    model, batch = deep((12, 15, 11, 4), nn.ReLU), noise(150, 12, 4)
    found = reached(model, batch)
    for layer in (0, 2):
        s = signals_of(model, batch, layer=layer)
        gradient = (s.gate * s.entry).T @ s.x
        share = 0.0
        for unit, row in enumerate(gradient):
            directions = (s.error * s.gate[:, [unit]]).T @ s.x
            fit = np.linalg.lstsq(directions.T, row, rcond=None)[0] @ directions
            share += (fit**2).sum() / (gradient**2).sum()
        assert number(found, "in_sample", str(layer)) == pytest.approx(share, abs=1e-5)


def test_no_feedback_has_a_larger_cosine_of_weight_gradients() -> None:
    model, batch = deep((12, 15, 4), nn.ReLU), noise(150, 12, 4)
    best = number(reached(model, batch), "in_sample") ** 0.5
    s, rng = signals_of(model, batch, layer=0), np.random.default_rng(0)
    true = (s.gate * s.entry).T @ s.x
    start = np.linalg.lstsq(s.error, s.entry, rcond=None)[0]
    for size in (0.0, 0.3, 3.0):
        feedback = start + size * np.abs(start).mean() * rng.normal(size=start.shape)
        made = (s.gate * (s.error @ feedback)).T @ s.x
        cosine = (made * true).sum() / np.linalg.norm(made) / np.linalg.norm(true)
        assert cosine <= best + 1e-6


def test_behind_rectified_units_unrelated_errors_reach_nearly_as_much_in_sample() -> None:
    """The common mean of rectified inputs; r over the inputs of a unit would be .2."""
    model, batch = deep((100, 200, 200, 200, 10), nn.ReLU), noise(512, 100, 10)
    found = reached(model, batch)
    assert number(found, "chance", "4") ** 0.5 > 0.9
    unrelated = reached(model, (batch[0], batch[1].roll(1)))
    assert number(unrelated, "in_sample", "4") > 0.9


class Pooled(nn.Module):
    """Two circular convolutions with a pooled or a flattened head."""

    def __init__(self, head: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(2, 8, 3, padding=1, padding_mode="circular")
        self.second = nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular")
        self.last = nn.Linear(8 if head == "pooled" else 8 * 36, 4)
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.second(torch.relu(self.first(x))))
        return self.last(h.mean((2, 3)) if self.head == "pooled" else h.flatten(1))


def maps(n_samples: int) -> tuple[Tensor, Tensor]:
    stream = torch.Generator().manual_seed(0)
    x = torch.randn(n_samples, 2, 6, 6, generator=stream)
    return x, torch.randint(0, 4, (n_samples,), generator=stream)


def test_shared_weights_have_feedback_that_is_the_same_at_all_positions() -> None:
    model, batch = Pooled("pooled"), maps(120)
    found = reached(model, batch)
    for layer in ("second", "first"):
        share = by_position_sums(model, batch, layer)
        assert number(found, "in_sample", layer) == pytest.approx(share, abs=1e-4)
    assert number(found, "held_out", "second") > 0.95
    assert number(found, "dense", "second") > 0.95


def by_position_sums(model: Pooled, batch: tuple[Tensor, Tensor], name: str) -> float:
    """Return the share from gradients that unfolded patches make."""
    x, y = batch
    first = model.first(x)
    second = model.second(torch.relu(first))
    output = model.last(torch.relu(second).mean((2, 3)))
    h, a = {"first": (x, first), "second": (torch.relu(first), second)}[name]
    grads = torch.autograd.grad(LOSS(output, y), (output, a))
    error = grads[0].double()
    error = error @ torch.linalg.svd(error, full_matrices=False).Vh[:3].T
    padded = functional.pad(h.detach(), (1,) * 4, mode="circular")
    patches = functional.unfold(padded, 3).double()
    gate = (a.detach() > 0).flatten(2).double()
    gradient = torch.einsum("nkp,ndp->kd", grads[1].flatten(2).double(), patches).numpy()
    directions = torch.einsum("nkp,nc,ndp->kcd", gate, error, patches).numpy()
    share = 0.0
    for row, own in zip(gradient, directions, strict=True):
        fit = np.linalg.lstsq(own.T, row, rcond=None)[0] @ own
        share += (fit**2).sum() / (gradient**2).sum()
    return float(share)


def test_under_a_flattened_head_only_feedback_of_every_position_serves() -> None:
    found = reached(Pooled("flattened"), maps(400))
    assert number(found, "dense", "second") > 0.95
    assert number(found, "held_out", "second") < 0.5


@pytest.mark.parametrize(
    ("name", "layer", "because"),
    [
        ("layer norm", "0", "mixes units"),
        ("chunked", "first", "mixes units"),
        ("frozen", "2", "its weight is frozen"),
    ],
)
def test_what_is_not_defined_has_a_reason(name: str, layer: str, because: str) -> None:
    made = CASES[name].make()
    found = probed(made.model, made.loss, (made.x, made.y), diagnostics=[NAME])
    assert because in reason(found, layer)


@pytest.mark.parametrize("seed", range(4))
def test_two_units_or_two_samples_that_mix_are_seen(seed: int) -> None:
    torch.manual_seed(seed)
    mixing = nn.Sequential(nn.Linear(6, 2), nn.LayerNorm(2), nn.Tanh(), nn.Linear(2, 3))
    assert "mixes units" in reason(reached(mixing, noise(60, 6, 3, seed=seed)), "0")


SHARED = (
    *("batch norm, training", "batch norm, evaluation", "dropout of maps", "positions", "reused"),
    *("conv1d, strided", "conv2d, grouped", "conv2d, circular", "conv3d", "conv2d, depthwise"),
    *("conv1d, transposed", "conv2d, transposed", "residual", "weight norm"),
)


@pytest.mark.parametrize("name", SHARED)
def test_the_share_is_that_of_least_squares_on_any_network(name: str) -> None:
    """Every direction of the error is sent by itself, and its weight gradient taken."""
    made = CASES[name].make()
    torch.manual_seed(0)
    state = torch.get_rng_state()
    found = probed(made.model, made.loss, (made.x, made.y), diagnostics=[NAME])
    torch.set_rng_state(state)
    capture = Capture(made.model, made.loss, made.x, made.y)
    true = capture.reference()
    error = capture.layout.joined(true.preactivation).flatten(1).double()
    values, vectors = torch.linalg.eigh(error.T @ error)
    error = error @ vectors[:, values > 1e-6 * values.max()]
    checked = 0
    for layer in capture.layers:
        if layer.is_output or np.isnan(number(found, "in_sample", layer.name)):
            continue
        gradient, rows = sent(capture, layer, true.preactivation[layer.name]), []
        for column in (error / error.abs().max()).T:
            shape = (-1, *(1 for _ in layer.entry_shape))
            entry = column.float().reshape(shape).expand(-1, *layer.entry_shape)
            rows.append(sent(capture, layer, capture.to_preactivation(layer, entry.contiguous())))
        share = 0.0
        for unit, aim in enumerate(gradient):
            own = np.stack([each[unit] for each in rows], 1)
            fit = own @ np.linalg.lstsq(own, aim, rcond=1e-6)[0]
            share += (fit**2).sum() / (gradient**2).sum()
        assert number(found, "in_sample", layer.name) == pytest.approx(share, abs=2e-3)
        checked += 1
    capture.close()
    assert checked


def sent(capture: Capture, layer: Layer, signal: Tensor) -> np.ndarray:
    """Return the gradients of a layer's weight that the signal of each unit alone gives."""
    axis, found = 1 if layer.is_convolution else -1, []
    for unit in range(layer.channels):
        alone = torch.zeros_like(signal)
        alone.select(axis, unit).copy_(signal.select(axis, unit))
        weight, _ = capture.weight_gradient(layer, alone)
        assert weight is not None
        found.append(weight.flatten().double().numpy())
    return np.stack(found)


def test_errors_of_many_directions_are_refused() -> None:
    found = reached(deep((20, 30, 70), nn.ReLU), noise(200, 20, 70))
    assert "69 directions, more than 64" in reason(found, "0")

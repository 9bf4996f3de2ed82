"""Reach of error signals: known networks, least squares, states of earlier, reasons."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn
from torch.nn import functional

from alignlab.kernels.regression import explained_held_out
from alignlab.probe import Probe
from tests.cases import CASES
from tests.diagnostics.probing import probed
from tests.diagnostics.reaching import deep, noise, signals_of

LOSS = functional.cross_entropy
SIZES = (100, 200, 200, 200, 200, 10)
ENDS = ("reach_held_out", "reach_in_sample")


def reached(
    model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor], **given: object
) -> xr.Dataset:
    with Probe(model, LOSS, diagnostics=["reach"], draws=32, **given) as probe:  # type: ignore[arg-type]
        return probe.measure(*batch).isel(step=0)


@pytest.mark.parametrize(
    ("activation", "low", "high"),
    [(nn.Identity, 0.999, 1.001), (nn.Tanh, 0.80, 0.88), (nn.ReLU, 0.22, 0.33)],
)
def test_the_bottom_of_deep_networks_is_known(
    activation: type[nn.Module], low: float, high: float
) -> None:
    found = reached(deep(SIZES, activation), noise(512, 100, 10)).sel(site="entry")
    for end in ENDS:
        assert low - 0.06 < float(found[end].sel(layer="0")) < high
    top = found["reach_in_sample"].sel(layer="6").item()
    assert top == pytest.approx(1.0, abs=1e-9)


def test_both_sites_have_the_share_of_least_squares_at_that_site() -> None:
    model, batch = deep((20, 30, 25, 4), nn.ReLU), noise(200, 20, 4)
    found = reached(model, batch)
    for layer in (0, 2):
        s = signals_of(model, batch, layer=layer)
        entry = s.error @ np.linalg.lstsq(s.error, s.entry, rcond=None)[0]
        missed, energy = 0.0, 0.0
        for unit in range(s.entry.shape[1]):
            rows = s.error * s.gate[:, [unit]]
            aim = (s.entry * s.gate)[:, unit]
            fit = rows @ np.linalg.lstsq(rows, aim, rcond=1e-9)[0]
            missed, energy = missed + ((aim - fit) ** 2).sum(), energy + (aim**2).sum()
        here = found["reach_in_sample"].sel(layer=str(layer))
        expected = (entry**2).sum() / (s.entry**2).sum()
        assert float(here.sel(site="entry")) == pytest.approx(expected, abs=1e-5)
        assert float(here.sel(site="preactivation")) == pytest.approx(1 - missed / energy, abs=1e-5)


def test_more_samples_close_the_bracket_from_both_ends() -> None:
    model = deep((40, 60, 60, 60, 4), nn.ReLU)
    few, many = (reached(model, noise(n, 40, 4)).sel(layer="0", site="entry") for n in (64, 2000))
    assert float(few["reach_held_out"]) < float(many["reach_held_out"])
    assert float(few["reach_in_sample"]) > float(many["reach_in_sample"])
    assert 0.0 < float(many["reach_in_sample"]) - float(many["reach_held_out"]) < 0.02


def test_held_out_falls_short_by_as_much_as_theory_says_of_gaussian_errors() -> None:
    """Of .56 there is .45 on 64 samples and .558 on 2,000, for six directions."""
    stream = torch.Generator().manual_seed(0)
    for n_samples, repeats, known in ((64, 150, 0.447), (2000, 12, 0.558)):
        found = []
        for _ in range(repeats):
            errors = torch.randn(n_samples, 6, generator=stream, dtype=torch.float64)
            feedback = torch.randn(6, 40, generator=stream, dtype=torch.float64) / 6**0.5
            rest = torch.randn(n_samples, 40, generator=stream, dtype=torch.float64)
            signal = 0.56**0.5 * errors @ feedback + 0.44**0.5 * rest
            found.append(
                float(explained_held_out(errors, signal, torch.arange(n_samples) < n_samples // 2))
            )
        expected = 1 - 0.44 * (1 + 6 / (n_samples / 2 - 7))
        assert np.mean(found) == pytest.approx(expected, abs=0.012)
        assert np.mean(found) == pytest.approx(known, abs=0.02)


def test_no_fixed_feedback_has_a_larger_flattened_cosine() -> None:
    model, batch = deep((20, 30, 4), nn.ReLU), noise(200, 20, 4)
    s = signals_of(model, batch, layer=0)
    for site, gate in (("entry", 1.0), ("preactivation", s.gate)):
        reach = float(reached(model, batch)["reach_in_sample"].sel(layer="0", site=site))
        rng = np.random.default_rng(0)
        best = np.linalg.lstsq(s.error, s.entry, rcond=None)[0]
        for size in (0.0, 0.1, 1.0):
            feedback = best + size * np.abs(best).mean() * rng.normal(size=best.shape)
            made, true = gate * (s.error @ feedback), gate * s.entry
            cosine = (made * true).sum() / np.linalg.norm(made) / np.linalg.norm(true)
            assert cosine <= reach**0.5 + 1e-5


def looking_back(change: float | None, activation: type[nn.Module] = nn.Identity) -> xr.Dataset:
    """Measure a network whose upper weights have since been multiplied, or been drawn anew."""
    model, batch = deep((20, 30, 25, 4), activation), noise(300, 20, 4)
    initial = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        last = model[-1].weight
        last.copy_(torch.randn_like(last) * last.std() if change is None else change * last)
    return reached(model, batch, earlier={"initial": initial})


def test_feedback_of_then_serves_as_long_as_the_path_above_keeps_its_direction() -> None:
    for change, expected in ((1.0, 1.0), (3.0, 1.0), (-1.0, -1.0)):
        found = looking_back(change)["reach_horizon"].sel(earlier="initial")
        hidden = found.isel(layer=slice(0, 2)).values
        np.testing.assert_allclose(hidden, expected, atol=2e-3)
    redrawn = looking_back(None)
    assert abs(redrawn["reach_horizon"].isel(layer=[0, 1])).max() < 0.3
    np.testing.assert_allclose(redrawn["reach_in_sample"].isel(layer=[0, 1]), 1.0, atol=1e-6)


def test_at_an_unchanged_state_the_horizon_is_what_is_held_out() -> None:
    found = looking_back(1.0, nn.ReLU).isel(layer=[0, 1])
    horizon = found["reach_horizon"].sel(earlier="initial")
    np.testing.assert_allclose(horizon, found["reach_held_out"], atol=0.02)
    assert (horizon >= found["reach_held_out"] - 1e-9).all()


def test_a_gate_takes_from_the_reach_what_its_linear_twin_has() -> None:
    batch = noise(512, 30, 5)
    gated, plain = (
        reached(deep((30, 50, 50, 5), activation), batch).sel(layer="0", site="entry")
        for activation in (nn.ReLU, nn.Identity)
    )
    for end in ENDS:
        assert float(gated[end]) < 0.8 < float(plain[end])


def reason(found: xr.Dataset, layer: str) -> str:
    return str(found["not_defined"].sel(diagnostic="reach", layer=layer).item())


def test_what_is_not_defined_has_a_reason() -> None:
    found = reached(deep((20, 30, 4), nn.ReLU), noise(59, 20, 4))
    assert "reach_in_sample" not in found
    assert "3 directions and 59 samples, fewer than 20 for each" in reason(found, "0")
    torch.manual_seed(0)
    mixing = nn.Sequential(nn.Linear(20, 30), nn.BatchNorm1d(30), nn.ReLU(), nn.Linear(30, 4))
    found = reached(mixing, noise(100, 20, 4))
    assert "mixes units" in reason(found, "0")
    assert np.isfinite(found["reach_in_sample"].sel(layer="0", site="entry"))
    assert found["reach_in_sample"].sel(layer="0", site="preactivation").isnull()


def test_a_network_without_error_has_no_reach() -> None:
    model = deep((6, 5, 3), nn.ReLU)

    def nothing(output: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        return (0.0 * output).sum()

    found = probed(model, nothing, noise(100, 6, 3), diagnostics=["reach"])
    assert "the errors are zero" in reason(found, "0")


@pytest.mark.parametrize("name", ["residual", "own attention", "lstm", "frozen", "two heads"])
def test_every_hidden_layer_has_a_number_or_a_reason(name: str) -> None:
    made = CASES[name].make()
    found = probed(made.model, made.loss, (made.x, made.y), diagnostics=["reach"])
    for layer in found["layer"].values[~found["is_output"].values]:
        known = (
            "reach_in_sample" in found and found["reach_in_sample"].sel(layer=layer).notnull().any()
        )
        assert known or reason(found, str(layer))

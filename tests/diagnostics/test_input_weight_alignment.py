"""Input-weight alignment: the sum over samples written out, the lazy limit, chance, reasons."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor, nn
from torch.nn import functional

from alignlab.probe import Probe
from alignlab.recording import validate
from tests.cases import CASES

LOSS = functional.cross_entropy
NAMES = ["input-weight-alignment"]


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 3)
    ).double()


def batch(n_samples: int = 20) -> tuple[Tensor, Tensor]:
    stream = torch.Generator().manual_seed(1)
    x = torch.randn(n_samples, 6, generator=stream, dtype=torch.float64)
    return x, torch.arange(n_samples) % 3


def measured(
    model: nn.Module, start: nn.Module | None, *given: Tensor, loss: object = LOSS, draws: int = 64
) -> xr.Dataset:
    earlier = {} if start is None else {"initial": start.state_dict()}
    with Probe(model, loss, diagnostics=NAMES, draws=draws, earlier=earlier) as probe:  # type: ignore[arg-type]
        ds = probe.measure(*(given or batch()))
    validate(ds)
    return ds.isel(step=0)


def score(first: np.ndarray, second: np.ndarray) -> float:
    a, b = first.T @ first, second.T @ second
    return float((a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum()))


def test_numbers_are_those_of_the_sum_over_samples() -> None:
    model, start = network(0), network(1)
    found = measured(model, start)
    x, y = batch()
    h = torch.tanh(start[0](x))
    k = torch.relu(start[2](h))
    target = functional.one_hot(y, 3).double()
    errors = [(torch.softmax(each(x), 1) - target) / 20 for each in (start, model)]
    e = (errors[0] + errors[1]) / 2.0
    d2 = (e @ start[4].weight) * (k > 0)
    d0 = (d2 @ start[2].weight) * (1.0 - h**2)
    forms = {"0": -d0.T @ x, "2": -d2.T @ h, "4": -e.T @ k}
    for name, form in forms.items():
        change = model.get_submodule(name).weight - start.get_submodule(name).weight
        first, second = change.detach().numpy(), form.detach().numpy()
        here = found.sel(layer=name)
        assert here["input_weight_alignment"].item() == pytest.approx(score(first, second))
        plain = (first * second).sum() / np.linalg.norm(first) / np.linalg.norm(second)
        assert here["cosine_input_weight"].item() == pytest.approx(plain)
        sd = np.linalg.norm(second @ first.T) / np.sqrt(len(first))
        sd /= np.linalg.norm(first) * np.linalg.norm(second)
        assert here["cosine_input_weight_null_sd"].item() == pytest.approx(sd)
        assert 0.0 < here["input_weight_alignment_halves"].item() <= 1.0
    assert "not_defined" not in found


def test_wide_networks_move_along_error_weighted_input_correlations() -> None:
    stream = torch.Generator().manual_seed(0)
    y = torch.arange(60) % 3
    noise = torch.randn(60, 10, generator=stream, dtype=torch.float64)
    x = noise + torch.randn(3, 10, generator=stream, dtype=torch.float64)[y]
    found: dict[tuple[int, int], xr.Dataset] = {}
    for width in (3, 512):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(10, width), nn.ReLU(), nn.Linear(width, 3)).double()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
        states = {"initial": copy.deepcopy(model.state_dict())}
        for step in range(1, 41):
            optimizer.zero_grad()
            LOSS(model(x), y).backward()
            optimizer.step()
            states[f"step {step}"] = copy.deepcopy(model.state_dict())
        for kept in (1, 40):
            earlier = dict(list(states.items())[:kept])
            with Probe(model, LOSS, diagnostics=NAMES, draws=64, earlier=earlier) as probe:
                found[width, kept] = probe.measure(x, y).isel(step=0)
    wide, few, narrow = (
        found[each]["input_weight_alignment"].values for each in ((512, 40), (512, 1), (3, 40))
    )
    # The errors of all states add up to what the training followed; those of two do not.
    assert (wide > 0.9).all()
    assert (wide > few + 0.1).all()
    assert (wide > narrow + 0.1).all()
    here = found[512, 40]
    assert (wide > here["input_weight_alignment_shuffled"].values + 0.25).all()
    chance, sd = (here[f"input_weight_alignment_chance{s}"].values for s in ("", "_sd"))
    assert (wide > chance + 2.0 * sd).all()
    # Rotations of three outputs leave a perfect cosine within four deviations.
    assert here["cosine_input_weight_status"].values.tolist() == ["detectable", "undecidable"]


def test_weights_that_moved_at_random_are_at_chance() -> None:
    stream = torch.Generator().manual_seed(5)
    model, start = network(0), network(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=stream).double())
    found = measured(model, start, draws=100)
    score_of, mean, sd = (
        found[f"input_weight_alignment{suffix}"].values for suffix in ("", "_chance", "_chance_sd")
    )
    assert (abs(score_of - mean) < 4.0 * sd).all()
    assert set(found["cosine_input_weight_status"].values) <= {"at chance", "undecidable"}


def test_reasons() -> None:
    model = network(0)
    alone = measured(model, None)
    assert "the initial state is not known" in str(alone["not_defined"].sel(layer="0").item())
    still = measured(model, copy.deepcopy(model))
    assert "its weights have not moved" in str(still["not_defined"].sel(layer="2").item())
    start = network(1)
    model[2].weight.requires_grad_(False)
    frozen = measured(model, start)
    assert "its weight is frozen" in str(frozen["not_defined"].sel(layer="2").item())
    assert np.isfinite(frozen["input_weight_alignment"].sel(layer=["0", "4"])).all()


@pytest.mark.parametrize(
    ("name", "layer", "because"),
    [
        ("conv2d, grouped", "3", "groups of units read different inputs"),
        ("reused", "again@2", "its weight is that of again"),
        ("weight norm", "second", "computed from other tensors"),
        ("residual", "", ""),
        ("conv2d, transposed", "4", ""),
        ("two heads", "values", ""),
    ],
)
def test_every_layer_has_a_score_or_a_reason(name: str, layer: str, because: str) -> None:
    made, start = CASES[name].make(), CASES[name].make(seed=1).model
    found = measured(made.model, start, made.x, made.y, loss=made.loss, draws=32)
    for each in found["layer"].values:
        here = found.sel(layer=each)
        text = ""
        if "not_defined" in found:
            text = str(here["not_defined"].sel(diagnostic=NAMES[0]).item())
        if each == layer and because:
            assert because in text
        assert np.isfinite(here["input_weight_alignment"].item()) == (text == ""), each

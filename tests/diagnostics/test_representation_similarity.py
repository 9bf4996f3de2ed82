"""Likeness of representations of small networks, against formulas written out."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import xarray as xr
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional

from alignlab.kernels.similarity import permutation_sd
from alignlab.probe import Probe
from alignlab.recording import validate
from tests.cases import CASES

LOSS = functional.cross_entropy
NAMES = ["representation-similarity"]


def network(seed: int, width: int = 7) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(6, width), nn.Tanh(), nn.Linear(width, 5), nn.ReLU(), nn.Linear(5, 3)
    ).double()


def batch(n_samples: int = 20) -> tuple[Tensor, Tensor]:
    stream = torch.Generator().manual_seed(1)
    x = torch.randn(n_samples, 6, generator=stream, dtype=torch.float64)
    return x, torch.arange(n_samples) % 3


def measured(
    model: nn.Module, *, n_samples: int = 20, draws: int = 64, **given: object
) -> xr.Dataset:
    with Probe(model, LOSS, diagnostics=NAMES, draws=draws, **given) as probe:  # type: ignore[arg-type]
        ds = probe.measure(*batch(n_samples))
    validate(ds)
    return ds.isel(step=0)


def activity(model: nn.Sequential, x: Tensor) -> list[Tensor]:
    h = torch.tanh(model[0](x))
    k = torch.relu(model[2](h))
    return [each.detach() for each in (h, k, model[4](k))]


def unbiased(x: Tensor, y: Tensor) -> float:
    """Return debiased CKA by sums over all pairs, triples and quadruples of unlike samples."""
    k, m = (x @ x.T).numpy(), (y @ y.T).numpy()
    n = len(k)

    def criterion(a: np.ndarray, b: np.ndarray) -> float:
        off = ~np.eye(n, dtype=bool)
        pairs = (a * b)[off].sum() / (n * (n - 1))
        a0, b0 = a * off, b * off
        triples = (a0.sum(0) @ b0.sum(0) - (a0 * b0).sum()) / (n * (n - 1) * (n - 2))
        both = a0.sum() * b0.sum() - 4 * (a0.sum(0) @ b0.sum(0)) + 2 * (a0 * b0).sum()
        quadruples = both / (n * (n - 1) * (n - 2) * (n - 3))
        return float(pairs - 2 * triples + quadruples)

    return criterion(k, m) / np.sqrt(criterion(k, k) * criterion(m, m))


def spearman(x: Tensor, y: Tensor) -> float:
    above = np.triu_indices(len(x), 1)
    apart = [(1.0 - np.corrcoef(each.numpy()))[above].round(10) for each in (x, y)]
    return float(stats.spearmanr(*apart).statistic)


def test_numbers_are_those_of_the_formulas() -> None:
    model, twin, start = network(0), network(1, width=9), network(2)
    found = measured(model, twin=twin, earlier={"initial": start.state_dict()})
    x, _ = batch()
    own = activity(model, x)
    for name, other in (("twin", twin), ("initial", start)):
        against = activity(other, x)
        pairs = list(zip(own, against, strict=True))
        np.testing.assert_allclose(found[f"cka_{name}"].values, [unbiased(*p) for p in pairs])
        np.testing.assert_allclose(
            found[f"rsa_{name}"].values, [spearman(*p) for p in pairs], atol=1e-9
        )
    inputs = [x, *own[:-1]]
    expected = [unbiased(a, b) for a, b in zip(own, inputs, strict=True)]
    np.testing.assert_allclose(found["cka_below"].values, expected)
    assert "not_defined" not in found
    assert (found["cka_twin_null_sd"] == permutation_sd(20)).all()
    assert set(found["cka_twin_null_kind"].values) == {"sample_permutation"}


def test_a_rotated_twin_is_the_same_and_an_unrelated_one_at_chance() -> None:
    model = network(0)
    twin = copy.deepcopy(model)
    turn, _ = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64))
    linear = nn.Sequential(*model[:3], nn.Identity(), model[4])
    turned = nn.Sequential(*twin[:3], nn.Identity(), twin[4])
    with torch.no_grad():
        turned[2].weight.copy_(2.0 * turn @ turned[2].weight)
        turned[2].bias.copy_(2.0 * turn @ turned[2].bias)
    found = measured(linear, twin=turned)
    assert found["cka_twin"].values[:2] == pytest.approx([1.0, 1.0])
    assert set(found["cka_twin_status"].values[:2]) == {"detectable"}
    order = torch.randperm(20, generator=torch.Generator().manual_seed(3))

    class Shuffled(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x[order])

    unrelated = measured(network(0), twin=Shuffled(*network(1)))
    assert (abs(unrelated["cka_twin"]) < 4.0 * permutation_sd(20)).all()
    assert set(unrelated["cka_twin_status"].values) == {"at chance"}


def test_training_moves_representations_from_where_they_began() -> None:
    model, (x, y) = network(0), batch()
    start = copy.deepcopy(model.state_dict())
    still = measured(model, earlier={"initial": start})
    assert still["cka_initial"].values == pytest.approx([1.0] * 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for _ in range(100):
        optimizer.zero_grad()
        LOSS(model(x), y).backward()
        optimizer.step()
    moved = measured(model, earlier={"initial": start})
    assert (moved["cka_initial"].values < 0.98).all()
    assert (moved["rsa_initial"].values[[0, 2]] < 0.999).all()
    # Some sample has no activity behind the ReLU: no correlation with any other.
    assert np.isnan(moved["rsa_initial"].values[1])
    assert "same activation in all units" in str(moved["not_defined"].sel(layer="2").item())


def test_the_band_holds_what_permuted_samples_give() -> None:
    # Two units at the output: far from normal, and yet the band is right.
    inside = []
    for seed in range(60):
        torch.manual_seed(seed)
        order = torch.randperm(20)

        class Shuffled(nn.Sequential):
            def forward(self, x: Tensor) -> Tensor:
                return super().forward(x[order])  # noqa: B023

        found = measured(network(0), twin=Shuffled(*network(seed + 1)), draws=100)
        value, low, high = (found[f"cka_twin{s}"].values for s in ("", "_null_low", "_null_high"))
        inside += ((low <= value) & (value <= high)).tolist()
    assert np.mean(inside) == pytest.approx(0.95, abs=0.045)


def test_what_there_is_nothing_to_compare_with_is_said() -> None:
    model = network(0)
    found = measured(model, twin=nn.Sequential(nn.Linear(6, 3)).double())
    texts = found["not_defined"].sel(diagnostic=NAMES[0])
    assert "the initial state is not known" in str(texts.sel(layer="0").item())
    assert "the twin has no such layer" in str(texts.sel(layer="2").item())
    assert "the twin has no such layer" not in str(texts.sel(layer="0").item())
    alone = measured(model)
    assert "no twin trained by" in str(alone["not_defined"].sel(layer="0").item())
    assert np.isfinite(alone["cka_below"]).all()
    few = measured(model, n_samples=3)
    assert "fewer than 4 samples" in str(few["not_defined"].sel(layer="0").item())


def test_layers_that_say_the_same_of_all_samples_are_undefined() -> None:
    model = network(0)
    with torch.no_grad():
        model[2].bias.fill_(-100.0)
    found = measured(model)
    assert np.isnan(found["cka_below"].sel(layer="2").item())
    assert found["cka_below_status"].sel(layer="2").item() == "undefined"
    assert "do not differ between samples" in str(found["not_defined"].sel(layer="2").item())


@pytest.mark.parametrize("name", ["conv2d, circular", "residual", "positions", "two heads", "lstm"])
def test_any_network_can_be_compared(name: str) -> None:
    made = CASES[name].make()
    start = CASES[name].make(seed=1).model
    with Probe(
        made.model, made.loss, diagnostics=NAMES, draws=32, twin=copy.deepcopy(made.model),
        earlier={"initial": start.state_dict()},
    ) as probe:  # fmt: skip
        found = probe.measure(made.x, made.y).isel(step=0)
    twin = found["cka_twin"].values
    assert twin[np.isfinite(twin)] == pytest.approx(1.0, abs=1e-5)
    assert np.isfinite(twin).sum() >= len(twin) - 1
    assert (np.nan_to_num(found["cka_initial"].values) < 0.999).all()

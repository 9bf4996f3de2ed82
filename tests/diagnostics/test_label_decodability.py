"""Decodability of labels, against another library's ridge; chance; what is no class."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from sklearn.linear_model import LinearRegression, Ridge
from torch import Tensor, nn
from torch.nn import functional

from alignlab.feedback import generator
from alignlab.kernels.decoding import PENALTIES
from alignlab.probe import Probe
from alignlab.recording import validate
from tests.cases import CASES

LOSS = functional.cross_entropy
NAMES = ["label-decodability"]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 3)
    ).double()


def batch(n_samples: int = 40, *, apart: float = 1.5) -> tuple[Tensor, Tensor]:
    stream = torch.Generator().manual_seed(1)
    y = torch.arange(n_samples) % 3
    centres = torch.randn(3, 6, generator=stream, dtype=torch.float64)
    noise = torch.randn(n_samples, 6, generator=stream, dtype=torch.float64)
    return apart * centres[y] + noise, y


def measured(
    model: nn.Module, x: Tensor, y: Tensor, *, loss: object = LOSS, draws: int = 64, seed: int = 0
) -> xr.Dataset:
    with Probe(model, loss, diagnostics=NAMES, draws=draws, seed=seed) as probe:  # type: ignore[arg-type]
        ds = probe.measure(x, y)
    validate(ds)
    return ds.isel(step=0)


def by_hand(x: Tensor, y: Tensor) -> tuple[float, float]:
    """Return accuracy and explained share over the folds, fit by fit."""
    features, target = x.numpy(), functional.one_hot(y, 3).double().numpy()
    order = torch.randperm(len(x), generator=generator(0, "folds"))
    folds = [fold.numpy() for fold in order.tensor_split(5)]
    energy = ((features - features.mean(0)) ** 2).sum(1).mean()
    predictions = {}
    for penalty in PENALTIES:
        found = np.empty_like(target)
        for fold in folds:
            seen = np.setdiff1d(np.arange(len(x)), fold)
            fit = Ridge(alpha=penalty * energy).fit(features[seen], target[seen])
            found[fold] = fit.predict(features[fold])
        predictions[penalty] = found
    final, mean = np.empty_like(target), np.empty_like(target)
    for fold in folds:
        rest = np.setdiff1d(np.arange(len(x)), fold)
        best = min(PENALTIES, key=lambda p: ((predictions[p] - target)[rest] ** 2).sum())
        final[fold] = predictions[best][fold]
        mean[fold] = target[rest].mean(0)
    accuracy = float((final.argmax(1) == y.numpy()).mean())
    return accuracy, float(1.0 - ((final - target) ** 2).sum() / ((mean - target) ** 2).sum())


def test_numbers_are_those_of_fits_that_are_made_one_by_one() -> None:
    model, (x, y) = network(), batch()
    found = measured(model, x, y)
    h = torch.tanh(model[0](x)).detach()
    k = torch.relu(model[2](h)).detach()
    out = model[4](k).detach()
    for name, rows in {"0": h, "2": k, "4": out}.items():
        accuracy, share = by_hand(rows, y)
        assert found["label_accuracy"].sel(layer=name).item() == pytest.approx(accuracy)
        assert found["label_r2"].sel(layer=name).item() == pytest.approx(share, abs=1e-7)
    accuracy, share = by_hand(x, y)
    assert found["label_accuracy_input"].item() == pytest.approx(accuracy)
    assert found["label_r2_input"].item() == pytest.approx(share, abs=1e-7)
    target = functional.one_hot(y, 3).double().numpy()
    fitted = LinearRegression().fit(h.numpy(), target).predict(h.numpy())
    expected = 1.0 - ((fitted - target) ** 2).sum() / ((target - target.mean(0)) ** 2).sum()
    assert found["label_explained"].sel(layer="0").item() == pytest.approx(expected, abs=1e-3)
    assert found["label_explained_chance"].sel(layer="0").item() == pytest.approx(7 / 39, abs=1e-3)
    assert "not_defined" not in found


def test_separate_classes_are_known_and_a_layer_that_loses_them_shows_it() -> None:
    x, y = batch(60, apart=5.0)
    model = network()
    before = measured(model, x, y)
    assert (before["label_accuracy"].values[:2] > 0.9).all()
    assert (before["label_accuracy_p"].values[:2] < 0.02).all()
    with torch.no_grad():
        model[2].weight.zero_()
    after = measured(model, x, y)
    assert after["label_accuracy"].sel(layer="0").item() > 0.9
    lost = after.sel(layer="2")
    assert lost["label_accuracy"].item() <= lost["label_accuracy_chance_high"].item()
    assert lost["label_r2"].item() == pytest.approx(0.0, abs=1e-9)
    assert lost["label_explained"].item() == pytest.approx(0.0, abs=1e-9)


def test_labels_without_a_relation_are_at_chance_and_p_is_uniform() -> None:
    p, above = [], []
    for seed in range(60):
        stream = torch.Generator().manual_seed(seed)
        x = torch.randn(18, 6, generator=stream, dtype=torch.float64)
        y = torch.randint(3, (18,), generator=stream)
        found = measured(network(), x, y, seed=seed, draws=32)
        p.append(found["label_r2_p"].values)
        explained = found["label_explained"] - found["label_explained_chance"]
        above.append(explained.values)
    assert np.mean(np.array(p) <= 0.2) == pytest.approx(0.2, abs=0.1)
    assert np.mean(p) == pytest.approx(0.5, abs=0.08)
    assert np.mean(above) == pytest.approx(0.0, abs=0.02)


@pytest.mark.parametrize("kind", ["one column each", "shifted columns", "zeros and ones"])
def test_targets_of_other_forms_are_classes_too(kind: str) -> None:
    x, y = batch()
    if kind == "zeros and ones":
        y = (y > 0).long()
        model = nn.Sequential(*network()[:-1], nn.Linear(5, 1).double())
        expected = measured(model, x, y, loss=lambda o, t: o.square().mean())
        found = measured(model, x, y.double(), loss=lambda o, t: o.square().mean())
    else:
        expected = measured(network(), x, y)
        columns = functional.one_hot(y, 3).double() - (0.1 if kind == "shifted columns" else 0.0)
        found = measured(network(), x, columns, loss=functional.mse_loss)
    np.testing.assert_allclose(found["label_r2"], expected["label_r2"])
    np.testing.assert_allclose(found["label_accuracy_p"], expected["label_accuracy_p"])


@pytest.mark.parametrize(
    ("target", "because"),
    [
        (torch.randn(40, 3, dtype=torch.float64), "no classes"),
        ((torch.rand(40, 3) < 0.5).double(), "no classes"),
        (torch.randn(40, 1, dtype=torch.float64), "no classes"),
        (torch.zeros(40, dtype=torch.long), "the same class"),
    ],
)
def test_targets_that_are_no_classes_are_refused(target: Tensor, because: str) -> None:
    x, _ = batch()
    model = network()
    found = measured(model, x, target, loss=lambda output, _: output.square().mean())
    assert "label_accuracy" not in found
    assert all(because in str(text) for text in found["not_defined"].values.ravel())


def test_few_samples_cannot_be_divided() -> None:
    x, y = batch(5)
    found = measured(network(), x, y)
    assert "divided into folds" in str(found["not_defined"].sel(layer="0").item())


@pytest.mark.parametrize("name", ["residual", "conv2d, circular", "positions", "lstm", "tanh"])
def test_every_layer_has_a_number_or_a_reason(name: str) -> None:
    made = CASES[name].make(n_samples=12)
    found = measured(made.model, made.x, made.y, loss=made.loss, draws=32)
    if "label_accuracy" in found:
        assert np.isfinite(found["label_accuracy"]).all()
        assert np.isfinite(found["label_r2_p"]).all()
    else:
        assert all(str(text) for text in found["not_defined"].values.ravel())

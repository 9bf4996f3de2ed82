"""Recorded numbers against their formulas in numpy, from the raw tensors that a probe keeps."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn
from torch.nn import functional

from alignlab.diagnostics.cross_batch_gradient import CrossBatchGradient
from alignlab.diagnostics.weight_gradient import WeightGradient
from alignlab.kernels.beside import products
from alignlab.probe import Probe
from alignlab.rules import BP, DFA, FA, USF
from tests.cases import CASES, Case
from tests.diagnostics.probing import probed

Array = np.ndarray
NAMES = ["tanh", "conv1d, strided", "batch norm of maps", "residual", "positions", "reused"]


def kept(case: Case, *rules: Any, n_samples: int = 24) -> tuple[xr.Dataset, dict[str, xr.Dataset]]:
    """Return the recording of a case and its raw tensors by layer."""
    batch = case.make(n_samples=n_samples)
    with Probe(
        *(batch.model, batch.loss),
        rules=rules,
        draws=32,
        diagnostics=["error-signal", "weight-gradient", "effective-rank"],
        save=("signals", "weight-gradients"),
    ) as probe:
        recording = probe.measure(batch.x, batch.y).isel(step=0)
    return recording, probe.tensors


def cosine(first: Array, second: Array) -> float:
    first, second = (each.astype(float).ravel() for each in (first, second))
    return float(first @ second / np.linalg.norm(first) / np.linalg.norm(second))


def raw_products(name: str, true: Array, approximate: Array) -> dict[str, float]:
    first, second = (each.astype(float).ravel() for each in (true, approximate))
    return {
        f"inner_product_{name}": float(first @ second),
        f"squared_norm_{name}": float(second @ second),
        f"squared_norm_{name}_true": float(first @ first),
    }


def of_signals(true: Array, approximate: Array) -> dict[str, float]:
    rows = [cosine(t, a) for t, a in zip(true, approximate, strict=True) if t.any() and a.any()]
    ratio = np.linalg.norm(approximate) / np.linalg.norm(true)
    flat = cosine(true, approximate)
    return {
        "cosine_error_signal": float(np.mean(rows)),
        "cosine_error_signal_sd": float(np.std(rows, ddof=1)),
        "cosine_error_signal_flat": flat,
        "cosine_mean_error_signal": cosine(true.mean(0), approximate.mean(0)),
        "angle_error_signal": float(np.degrees(np.arccos(flat))),
        "descent_rate": float(np.mean(np.array(rows) > 0)),
        "norm_ratio_error_signal": float(ratio),
        "projection_error_signal": float(flat * ratio),
        **raw_products("error_signal", true, approximate),
    }


def of_gradients(true: Array, approximate: Array) -> dict[str, float]:
    similarity = cosine(true, approximate)
    ratio = float(np.linalg.norm(approximate) / np.linalg.norm(true))
    return {
        "cosine_weight_gradient": similarity,
        "norm_ratio_weight_gradient": ratio,
        "projection_weight_gradient": similarity * ratio,
        "best_scale_weight_gradient": similarity / ratio,
        "unexplained_weight_gradient": 1.0 - similarity**2,
        **raw_products("weight_gradient", true, approximate),
    }


def effective_dimensions(rows: Array) -> dict[str, float]:
    rows = rows.reshape(len(rows), -1).astype(float)
    values = np.linalg.svd(rows, compute_uv=False) ** 2
    about = np.linalg.svd(rows - rows.mean(0), compute_uv=False) ** 2
    share = values[values > 0] / values.sum()
    return {
        "participation_ratio": values.sum() ** 2 / (values**2).sum(),
        "participation_ratio_centred": about.sum() ** 2 / (about**2).sum(),
        "entropy_rank": float(np.exp(-(share * np.log(share)).sum())),
        "stable_rank": values.sum() / values.max(),
    }


@pytest.mark.parametrize("name", NAMES)
def test_the_numbers_follow_from_the_raw_tensors(name: str) -> None:
    found, tensors = kept(CASES[name], DFA(), FA())
    for rule in ("dfa", "fa"):
        for layer in found["layer"].values[~found["is_output"].values]:
            raw, here = tensors[layer].sel(rule=rule), found.sel(rule=rule, layer=layer)
            for site in ("entry", "preactivation"):
                true, signal = raw[f"true_signal_{site}"].values, raw[f"signal_{site}"].values
                for key, value in of_signals(true, signal).items():
                    assert float(here[key].sel(site=site)) == pytest.approx(
                        value, rel=1e-4, abs=1e-4
                    ), key
                for key, value in effective_dimensions(signal).items():
                    assert float(here[f"{key}_signal"].sel(site=site)) == pytest.approx(
                        value, rel=1e-4
                    )
                for key, value in effective_dimensions(true).items():
                    shown = here[f"{key}_true_signal"].sel(site=site)
                    assert float(shown) == pytest.approx(value, rel=1e-4)
            true, gradient = raw["true_weight_gradient"].values, raw["weight_gradient"].values
            for key, value in of_gradients(true, gradient).items():
                assert float(here[key]) == pytest.approx(value, rel=1e-4, abs=1e-5), key
            for key, value in effective_dimensions(gradient).items():
                assert float(here[f"{key}_weight_gradient"]) == pytest.approx(value, rel=1e-4)


def test_the_cosine_across_halves_is_that_of_independent_halves() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 3))
    x, y = torch.randn(60, 6), torch.arange(60) % 3
    with Probe(
        *(model, functional.cross_entropy),
        rules=[DFA()], draws=32, seed=5, diagnostics=["cross-batch-gradient"], save=["signals"],
    ) as probe:  # fmt: skip
        found = probe.measure(x, y).isel(step=0)
    raw = probe.tensors["0"].isel(rule=0)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(5)).numpy()
    halves = []
    for part in (order[:30], order[30:]):
        rows = x.numpy()[part]
        halves.append(
            [
                (raw[name].values[part].T @ rows).ravel()
                for name in ("true_signal_preactivation", "signal_preactivation")
            ]
        )
    (a, c), (b, d) = halves
    expected = (c @ b + d @ a) / 2 / np.sqrt((a @ b) * (c @ d))
    shown = found["cosine_weight_gradient_debiased"].sel(layer="0").item()
    assert shown == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("n_samples", [16, 64, 256])
def test_shared_noise_aligns_unrelated_gradients_on_a_batch_but_not_across_halves(
    n_samples: int,
) -> None:
    rng = np.random.default_rng(n_samples)
    n, found = 200, []
    directions = np.eye(n)[:2]
    for _ in range(30):
        noise = 4.0 * rng.normal(size=(n_samples, n)) / n**0.5
        views = []
        for direction in directions:
            rows = torch.as_tensor(direction + noise)
            halves = rows[::2].sum(0), rows[1::2].sum(0)
            whole = sum(halves), None
            beside = {"gradients": whole, "gradients_beside": lambda _, whole=whole: whole}
            views.append(SimpleNamespace(**beside, weight_halves=halves))
        exact = views[0].gradients[0]
        views[1].weight_products = lambda _, a=exact, b=views[1].gradients[0]: products(a, b)
        kinds = WeightGradient(), CrossBatchGradient()
        compared = [kind.compare(*views) for kind in kinds]  # type: ignore[arg-type]
        found.append([float(each.value) for both in compared for each in both.values()])
    plain, debiased = np.array(found).T
    expected = 16.0 / n_samples / (1.0 + 16.0 / n_samples)
    assert plain.mean() == pytest.approx(expected, rel=0.1)
    debiased = debiased[np.isfinite(debiased)]
    assert abs(debiased.mean()) < 3 * debiased.std() / len(debiased) ** 0.5


@pytest.mark.parametrize("name", ["tanh", "relu in place", "noisy", "tied"])
def test_with_one_sample_gradient_and_signal_have_one_cosine(name: str) -> None:
    batch = CASES[name].make(n_samples=1, seed=2)
    found = probed(
        *(batch.model, batch.loss, (batch.x, batch.y), DFA(), FA(), USF(), BP()),
        diagnostics=["error-signal", "weight-gradient"],
    )
    gradient = found["cosine_weight_gradient"].values
    for key in ("cosine_error_signal", "cosine_error_signal_flat", "cosine_mean_error_signal"):
        signal = found[key].sel(site="preactivation").values
        np.testing.assert_allclose(gradient, signal, atol=1e-6)
    np.testing.assert_allclose(found["cosine_bias_gradient"].values, gradient, atol=1e-6)


def test_a_bias_before_normalisation_over_the_batch_has_no_direction() -> None:
    batch = CASES["batch norm, training"].make(n_samples=24)
    found = probed(
        *(batch.model, batch.loss, (batch.x, batch.y), DFA(), BP()),
        diagnostics=["weight-gradient"],
    ).isel(layer=[0, 1])
    assert found["cosine_bias_gradient"].isnull().all()
    assert (found["cosine_bias_gradient_status"] == "undefined").all()
    assert (found["cosine_bias_gradient_n_undefined"] == 1).all()
    assert found["cosine_weight_gradient"].notnull().all()


def test_fresh_feedback_is_aligned_by_chance_alone() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
    model.append(nn.Linear(64, 10))
    batch = torch.randn(50, 10), torch.arange(50) % 10
    found = [
        probed(*(model, functional.cross_entropy, batch, DFA(seed=s)), diagnostics=["error-signal"])
        for s in range(20)
    ]
    values = np.stack([each["cosine_error_signal"].values[0, :2] for each in found])
    assert (abs(values.mean(0)) <= 3 / np.sqrt(64)).all()
    nulls = found[0]["cosine_error_signal_null_sd"].values[0, :2]
    np.testing.assert_allclose(values.std(0), nulls, rtol=0.6)


def test_activations_grow_from_entry_to_entry_of_the_trunk() -> None:
    first, second = (nn.Linear(6, 6, bias=False) for _ in range(2))
    with torch.no_grad():
        first.weight.copy_(torch.eye(6))
        second.weight.copy_(5.0 * torch.eye(6))
    model = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Linear(6, 3))
    batch = torch.rand(9, 6), torch.arange(9) % 3
    found = probed(model, functional.cross_entropy, batch, diagnostics=["residual-growth"])
    values = found["residual_growth"].values
    assert values[1] == pytest.approx(5.0)
    assert np.isnan(values[[0, 2]]).all()


@pytest.mark.parametrize("scale", [1e-6, 1e-25, 1e6])
def test_the_size_of_the_loss_changes_no_direction(scale: float) -> None:
    batch = CASES["relu in place"].make(n_samples=24)
    rules = (BP(), DFA(), FA(), USF())
    diagnostics = ["error-signal", "weight-gradient", "weight-feedback", "effective-rank", "reach"]
    plain, small = (
        probed(
            *(batch.model, lambda o, t, s=s: s * batch.loss(o, t), (batch.x, batch.y), *rules),
            diagnostics=diagnostics,
        )
        for s in (1.0, scale)
    )
    for key, variable in plain.data_vars.items():
        # Counts over samples may change by a sample whose product is nothing but rounding.
        if variable.dtype == float and "descent" not in str(key):
            unit = scale**2 if str(key).startswith(("inner_product", "squared_norm")) else 1.0
            found = small[key] / unit
            np.testing.assert_allclose(found, variable, rtol=2e-3, atol=2e-4, err_msg=str(key))

"""Numbers from Jacobians against dense ones of PyTorch and projections of numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor, nn
from torch.nn import functional

from alignlab.diagnostics import _jacobians, _output_sketch
from alignlab.diagnostics._jacobian_cosines import frobenius_norm
from alignlab.engine.directions import sketch
from alignlab.feedback import as_tensor
from alignlab.rules import BP, DFA, DRTP, FA, ForwardGradient, OracleDFA
from alignlab.snapshot import MeasuredRule
from tests.diagnostics.probing import given_feedback, half_squared_error, linear_network, probed

ALL = ("jacobian-alignment", "jacobian-rank", "gauss-newton")
Array = np.ndarray


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(12, 7), nn.Tanh(), nn.Linear(7, 4)),
    ).double()


def batch(n_samples: int = 11) -> tuple[Tensor, Tensor]:
    stream = torch.Generator().manual_seed(1)
    return torch.randn(n_samples, 1, 4, 4, generator=stream).double(), torch.arange(n_samples) % 4


ENTRIES = {"0": 4, "4": 6}
"""By layer of the network the module that reads its entry."""


def rows_of(model: nn.Sequential, layer: str, x: Tensor) -> Array:
    """Return the Jacobian of every sample at a layer's entry, (samples, outputs, units)."""
    reader = ENTRIES[layer]
    found = []
    for sample in x:
        h = model[:reader](sample[None])
        found.append(torch.autograd.functional.jacobian(model[reader:], h).reshape(4, -1))
    return torch.stack(found).numpy()


def errors_of(model: nn.Sequential, x: Tensor, y: Tensor) -> Array:
    output = model(x).detach().requires_grad_()
    return torch.autograd.grad(functional.cross_entropy(output, y), output)[0].numpy()


def feedback() -> dict[str, Array]:
    rng = np.random.default_rng(2)
    return {"0": rng.normal(size=(12, 4)), "4": rng.normal(size=(7, 4))}


def measured(*rules: Any, diagnostics: tuple[str, ...] = ALL, **options: Any) -> xr.Dataset:
    return probed(
        *(network(), functional.cross_entropy, batch()),
        *(rules or (given_feedback(feedback()),)),
        diagnostics=diagnostics,
        **options,
    )


def cosine(first: Array, second: Array) -> float:
    return float((first * second).sum() / np.linalg.norm(first) / np.linalg.norm(second))


@pytest.mark.parametrize("layer", ENTRIES)
def test_feedback_is_compared_with_mean_and_single_jacobians(layer: str) -> None:
    found = measured().sel(rule="dfa", layer=layer)
    rows, b = rows_of(network(), layer, batch()[0]), feedback()[layer].T
    mean = rows.mean(0)
    assert float(found["cosine_feedback_jacobian"]) == pytest.approx(cosine(b, mean))
    each = np.mean([cosine(b, one) for one in rows])
    assert float(found["cosine_feedback_jacobian_per_sample"]) == pytest.approx(each)
    basis = np.linalg.svd(np.eye(4) - 0.25)[0][:, :3]
    product = basis.T @ mean @ b.T @ basis
    lowest = np.linalg.eigvalsh((product + product.T) / 2)[0] / np.linalg.norm(product, 2)
    assert float(found["jacobian_feedback_symmetric_min"]) == pytest.approx(lowest)
    bound = (2 / np.pi / mean.shape[1]) ** 0.5 * np.linalg.norm(mean, 2) / np.linalg.norm(mean)
    assert float(found["jacobian_rank_one_bound"]) == pytest.approx(bound)
    assert float(found["jacobian_samples"]) == 11.0
    assert float(found["cosine_feedback_jacobian_standard_error"]) == 0.0


@pytest.mark.parametrize("layer", ENTRIES)
def test_spectra_are_those_of_the_dense_jacobians(layer: str) -> None:
    found = measured().sel(rule="dfa", layer=layer)
    rows = rows_of(network(), layer, batch()[0])
    values = np.linalg.svd(rows, compute_uv=False)
    shares = (values**2) / (values**2).sum(1, keepdims=True)
    np.testing.assert_allclose(
        found["jacobian_condition"], np.median(values[:, 0] / values[:, -1]), rtol=1e-6
    )
    assert float(found["jacobian_rank"]) == np.mean([np.linalg.matrix_rank(each) for each in rows])
    np.testing.assert_allclose(
        found["jacobian_participation_ratio"], np.mean(1 / (shares**2).sum(1)), rtol=1e-9
    )
    np.testing.assert_allclose(
        found["jacobian_singular_value"], (values / values[:, :1]).mean(0), rtol=1e-6
    )
    mean = np.linalg.svd(rows.mean(0), compute_uv=False) ** 2
    expected = mean.sum() ** 2 / (mean**2).sum()
    np.testing.assert_allclose(found["jacobian_participation_ratio_mean"], expected, rtol=1e-9)


@pytest.mark.parametrize("layer", ENTRIES)
def test_energies_and_angles_are_those_of_projections_and_pseudo_inverses(layer: str) -> None:
    found = measured().sel(rule="dfa", layer=layer)
    x, y = batch()
    rows, errors = rows_of(network(), layer, x), errors_of(network(), x, y)
    signals = errors @ feedback()[layer].T
    shares, angles, own = [], [], []
    for row, error, signal in zip(rows, errors, signals, strict=True):
        inverse = np.linalg.pinv(row, rcond=1e-5)
        shares.append(np.linalg.norm(inverse @ row @ signal) ** 2 / np.linalg.norm(signal) ** 2)
        angles.append(cosine(signal, inverse @ error))
        own.append(cosine(row.T @ error, inverse @ error))
    assert float(found["achievable_energy"]) == pytest.approx(np.mean(shares), rel=1e-6)
    assert float(found["achievable_energy_true"]) == pytest.approx(1.0)
    assert float(found["achievable_energy_chance"]) == pytest.approx(
        np.mean([np.linalg.matrix_rank(row) for row in rows]) / rows.shape[2]
    )
    assert float(found["cosine_gauss_newton"]) == pytest.approx(np.mean(angles), rel=1e-6)
    assert float(found["cosine_gauss_newton_true"]) == pytest.approx(np.mean(own), rel=1e-6)


def test_backpropagation_is_the_true_signal_and_the_output_says_why_it_is_left_out() -> None:
    found = measured(BP(), FA())
    hidden = found.sel(rule="bp", layer=list(ENTRIES))
    np.testing.assert_allclose(hidden["achievable_energy"], 1.0)
    np.testing.assert_allclose(
        hidden["cosine_gauss_newton"], hidden["cosine_gauss_newton_true"], rtol=1e-9
    )
    assert (found["cosine_gauss_newton_null_kind"].sel(rule="fa")[:2] == "feedback_draw").all()
    assert found["achievable_energy"].sel(rule="fa", layer="4").notnull()
    texts = found["not_defined"].sel(layer="6").values
    assert sum("the Jacobian is the identity" in text or "identity" in text for text in texts) == 2
    assert "no direct feedback" in str(
        found["not_defined"].sel(diagnostic="jacobian-alignment", layer="0").values
    )


def test_feedback_that_is_the_mean_jacobian_has_cosine_one() -> None:
    found = measured(OracleDFA(aim="jacobian"), diagnostics=("jacobian-alignment",)).isel(rule=0)
    np.testing.assert_allclose(found["cosine_feedback_jacobian"].sel(layer=["0", "4"]), 1.0)
    each = found["cosine_feedback_jacobian_per_sample"]
    # Gates turn the Jacobian from sample to sample below, not at the readout.
    assert 0.9 < float(each.sel(layer="0")) < 0.999
    assert float(each.sel(layer="4")) == pytest.approx(1.0)
    minima = found["jacobian_feedback_symmetric_min"].sel(layer=["0", "4"])
    assert (minima > 0).all()


def test_feedback_that_is_the_pseudo_inverse_has_the_gauss_newton_direction() -> None:
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=shape) for shape in ((8, 5), (6, 8), (3, 6))]
    above = {"0": weights[2] @ weights[1], "1": weights[2]}
    inverses = {name: np.linalg.pinv(each) for name, each in above.items()}
    x = rng.normal(size=(9, 5))
    found = probed(
        *(linear_network(weights), half_squared_error, (x, rng.normal(size=(9, 3)))),
        *(given_feedback(inverses), BP()),
        diagnostics=ALL,
    ).isel(layer=slice(0, 2))
    np.testing.assert_allclose(found["cosine_gauss_newton"].sel(rule="dfa"), 1.0)
    assert (found["cosine_gauss_newton"].sel(rule="bp") < 1.0).all()
    np.testing.assert_allclose(found["achievable_energy"].sel(rule="dfa"), 1.0)
    expected = [np.linalg.cond(above[name]) for name in ("0", "1")]
    np.testing.assert_allclose(found["jacobian_condition"], expected, rtol=1e-6)
    cosines = [cosine(inverses[name].T, above[name]) for name in ("0", "1")]
    for name in ("cosine_feedback_jacobian", "cosine_feedback_jacobian_per_sample"):
        np.testing.assert_allclose(found[name].sel(rule="dfa"), cosines)


def test_a_readout_of_rank_one_shows_in_the_rank_below_it() -> None:
    model = network()
    with torch.no_grad():
        model[6].weight.copy_(torch.outer(torch.arange(4.0), torch.ones(7)))
    found = probed(
        *(model, functional.cross_entropy, batch(), given_feedback(feedback())), diagnostics=ALL
    ).sel(layer=list(ENTRIES))
    np.testing.assert_allclose(found["jacobian_rank"], 1.0)
    assert np.isinf(found["jacobian_condition"]).all()
    np.testing.assert_allclose(found["jacobian_participation_ratio"], 1.0, rtol=1e-6)
    np.testing.assert_allclose(found["achievable_energy_chance"], [1 / 12, 1 / 7], rtol=1e-6)


def test_dead_units_have_no_jacobian_and_are_counted() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    with torch.no_grad():
        model[2].weight.mul_(0.01)
        model[2].bias.fill_(-1.0)
    x = torch.randn(7, 4, generator=torch.Generator().manual_seed(0))
    found = probed(
        *(model, functional.cross_entropy, (x, torch.arange(7) % 3), DFA()), diagnostics=ALL
    ).isel(layer=0)
    assert float(found["jacobian_n_undefined"]) == 7.0
    assert float(found["jacobian_rank"]) == 0.0
    for name in ("jacobian_condition", "jacobian_participation_ratio", "cosine_gauss_newton_true"):
        assert np.isnan(float(found[name]))
    assert str(found["cosine_gauss_newton_status"].values[0]) == "undefined"
    assert float(found["cosine_gauss_newton_n_undefined"][0]) == 7.0
    assert np.isnan(found["cosine_feedback_jacobian"][0])


def test_drawn_feedback_has_chance_levels_and_no_numbers() -> None:
    drawn = MeasuredRule(DFA(), {n: torch.as_tensor(b.T) for n, b in feedback().items()}, "drawn")
    found = measured(drawn).isel(rule=0).sel(layer="0")
    for name in ("cosine_feedback_jacobian", "cosine_gauss_newton"):
        assert str(found[f"{name}_status"].values) == "null draw"
        assert np.isnan(float(found[name]))
        assert float(found[f"{name}_null_sd"]) > 0.0
    assert "achievable_energy" not in found
    assert "jacobian_feedback_symmetric_min" not in found
    assert float(found["jacobian_feedback_symmetric_min_chance"]) < 0.0
    assert float(found["achievable_energy_chance"]) == pytest.approx(4 / 12)


def test_rules_without_signals_say_so() -> None:
    found = measured(ForwardGradient(), DRTP(), diagnostics=("jacobian-rank", "gauss-newton"))
    text = str(found["not_defined"].sel(diagnostic="gauss-newton", layer="0").values)
    assert "forward-gradient because the rule yields no error signals" in text
    assert found["cosine_gauss_newton"].sel(rule="drtp", layer="0").notnull()


def test_fresh_feedback_falls_into_the_bands() -> None:
    """Cosines of many draws against the first-order level and against redraws."""
    rules = [
        MeasuredRule(DFA(seed=seed), drawn, "checkpoint", f"dfa {seed}")
        for seed in range(40)
        for drawn in [_draw(seed)]
    ]
    found = measured(*rules, diagnostics=("jacobian-alignment", "gauss-newton"), draws=32)
    for name in (
        *("cosine_feedback_jacobian", "cosine_feedback_jacobian_per_sample"),
        "cosine_gauss_newton",
    ):
        for layer in ENTRIES:
            values = found[name].sel(layer=layer).values
            sd = float(found[f"{name}_null_sd"].sel(layer=layer).mean())
            assert (values**2).mean() ** 0.5 == pytest.approx(sd, rel=0.3), (name, layer)
            low, high = (found[f"{name}_null_{e}"].sel(layer=layer).values for e in ("low", "high"))
            assert 0.85 <= ((low <= values) & (values <= high)).mean() <= 1.0, (name, layer)


def _draw(seed: int) -> dict[str, Tensor]:
    stream = torch.Generator().manual_seed(1000 + seed)
    return {n: torch.randn(4, len(b), generator=stream).double() for n, b in feedback().items()}


def test_of_many_outputs_random_combinations_estimate_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exact = measured(diagnostics=("jacobian-alignment",)).sel(rule="dfa")
    monkeypatch.setattr(_jacobians, "LARGEST_EXACT", 3)
    monkeypatch.setattr(_output_sketch, "DIRECTIONS", 400)
    found = measured().sel(rule="dfa")
    assert float(found["jacobian_samples"]) == 0.0
    for layer in ENTRIES:
        here, there = found.sel(layer=layer), exact.sel(layer=layer)
        error = float(here["cosine_feedback_jacobian_standard_error"])
        assert 0.0 < error < 0.1
        for name in ("cosine_feedback_jacobian", "cosine_feedback_jacobian_per_sample"):
            assert float(here[name]) == pytest.approx(float(there[name]), abs=4 * error)
            ratio = float(here[f"{name}_null_sd"] / there[f"{name}_null_sd"])
            assert ratio > 0.9
        reason = str(found["not_defined"].sel(diagnostic="gauss-newton", layer=layer).values)
        assert "the Jacobian of 4 outputs would take as many backward passes" in reason


def test_the_estimate_is_that_of_the_combinations_that_are_drawn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_jacobians, "LARGEST_EXACT", 3)
    found = measured(diagnostics=("jacobian-alignment",)).sel(rule="dfa")
    signs = sketch(4, _output_sketch.DIRECTIONS, seed=0, distribution="sign").matrix.double()
    signs = (signs * _output_sketch.DIRECTIONS**0.5).numpy()
    assert set(np.unique(signs.round(6))) == {-1.0, 1.0}
    for layer in ENTRIES:
        rows, b = rows_of(network(), layer, batch()[0]), feedback()[layer].T
        mean, images = signs @ rows.mean(0), signs @ b
        norm = np.linalg.norm(b)
        value = (mean * images).sum(1).mean() / norm / np.mean((mean**2).sum(1)) ** 0.5
        assert float(found["cosine_feedback_jacobian"].sel(layer=layer)) == pytest.approx(value)
        each = []
        for row in rows:
            one = signs @ row
            each.append((one * images).sum(1).mean() / norm / np.mean((one**2).sum(1)) ** 0.5)
        shown = found["cosine_feedback_jacobian_per_sample"].sel(layer=layer)
        assert float(shown) == pytest.approx(np.mean(each), rel=1e-6)


@pytest.mark.parametrize(
    "rule",
    [
        *(DFA(), DFA(structure="channel"), DFA(rank=2), DFA(storage="seeded")),
        DFA(rank=2, structure="channel"),
    ],
    ids=lambda rule: rule.label,
)
def test_feedback_in_every_form_has_its_numbers_by_either_way(
    rule: DFA, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = measured(rule, diagnostics=("jacobian-alignment",)).isel(rule=0)
    assert exact["cosine_feedback_jacobian_null_sd"].sel(layer=list(ENTRIES)).notnull().all()
    monkeypatch.setattr(_jacobians, "LARGEST_EXACT", 3)
    monkeypatch.setattr(_output_sketch, "DIRECTIONS", 300)
    found = measured(rule, diagnostics=("jacobian-alignment",)).isel(rule=0)
    for layer in ENTRIES:
        error = float(found["cosine_feedback_jacobian_standard_error"].sel(layer=layer))
        value = float(exact["cosine_feedback_jacobian"].sel(layer=layer))
        shown = float(found["cosine_feedback_jacobian"].sel(layer=layer))
        assert shown == pytest.approx(value, abs=4 * error)
    is_plain = rule.structure == "dense" and not rule.rank
    known = found["cosine_feedback_jacobian_null_sd"].sel(layer="0").notnull()
    # Seeded feedback has the law of dense feedback.
    assert bool(known) == is_plain


def test_the_norm_of_feedback_is_that_of_its_entries() -> None:
    model, (x, y) = network(), batch()
    from alignlab.engine.capture import Capture

    capture = Capture(model, functional.cross_entropy, x, y)
    for rule in (DFA(), DFA(structure="channel"), DFA(rank=2), DFA(storage="seeded")):
        for held in rule.start(capture, seed=3).values():
            expected = as_tensor(held).double().norm()
            torch.testing.assert_close(frobenius_norm(held), expected, rtol=1e-6, atol=0.0)
    capture.close()


def test_fewer_samples_are_taken_where_rows_would_fill_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_jacobians, "MOST_ENTRIES", 9 * 4 * 19)
    found = measured()
    assert float(found["jacobian_samples"]) == 9.0
    assert found["cosine_gauss_newton"].sel(rule="dfa", layer="0").notnull()
    monkeypatch.setattr(_jacobians, "MOST_ENTRIES", 7 * 4 * 19)
    reason = measured(diagnostics=("jacobian-rank",))["not_defined"].values[0, 0]
    assert "fill the memory" in reason


def test_coupled_samples_have_no_jacobians_of_their_own() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))
    x = torch.randn(7, 4, generator=torch.Generator().manual_seed(0))
    found = probed(
        *(model, functional.cross_entropy, (x, torch.arange(7) % 3), DFA()), diagnostics=ALL
    )
    for name in ALL:
        text = str(found["not_defined"].sel(diagnostic=name, layer="0").values)
        assert text.startswith("not defined for 0 because the signal of one sample reaches others")


class Mixed(nn.Module):
    """A network in bfloat16 whose readout has two directions for three outputs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            *(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 3)),
        )
        with torch.no_grad():
            weight = self.layers[4].weight
            weight[2] = -weight[0] - weight[1]

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.layers(x).float()


def test_rounding_in_half_precision_is_no_direction() -> None:
    x = torch.randn(20, 6, generator=torch.Generator().manual_seed(1))
    data = x, torch.arange(20) % 3
    found = probed(Mixed(), functional.cross_entropy, data, DFA(), diagnostics=ALL)
    assert (found["jacobian_rank"].isel(layer=slice(0, 2)) <= 2.0).all()
    np.testing.assert_allclose(found["achievable_energy_true"][:2], 1.0, atol=0.02)
    assert (found["cosine_gauss_newton_true"][:2] > 0.5).all()

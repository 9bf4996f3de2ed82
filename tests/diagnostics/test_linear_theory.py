"""What theory says exactly of linear networks, read off through the diagnostics."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn
from torch.nn import functional

from alignlab.rules import BP, DFA, FA, USF
from tests.diagnostics.probing import given_feedback, half_squared_error, linear_network, probed
from tests.oracles.linear_dfa import by_alignment_matrices, by_weights

WEIGHTS = ("weight-feedback", "alignment-matrix")


def data(outputs: int, *, n_samples: int = 30, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n_samples, 9))
    return x, x @ rng.normal(size=(9, outputs)) / 3


def gaussian(sizes: Sequence[int], outputs: int, *, seed: int = 1) -> list[np.ndarray]:
    rng = np.random.default_rng(seed + 100)
    return [rng.normal(size=(n, outputs)) / n**0.5 for n in sizes]


def named(matrices: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    return {str(number): matrix for number, matrix in enumerate(matrices)}


def cosine(first: np.ndarray, second: np.ndarray) -> float:
    return float((first * second).sum() / np.linalg.norm(first) / np.linalg.norm(second))


def targets(feedback: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return what the weights of the second and later layers align with."""
    inner = [above @ below.T for below, above in pairwise(feedback)]
    return [*inner, feedback[-1].T]


def test_trained_from_zero_the_weights_are_feedback_around_alignment_matrices() -> None:
    feedback, batch = gaussian((50, 60, 50), 3), data(3)
    weights = by_weights(feedback, batch, steps=150, rate=0.002)
    matrices = by_alignment_matrices(feedback, batch, steps=150, rate=0.002)
    found = probed(
        *(linear_network(weights), half_squared_error, batch, given_feedback(named(feedback))),
        diagnostics=WEIGHTS,
    ).sel(rule="dfa")
    above = found.isel(layer=slice(1, None))
    np.testing.assert_allclose(above["alignment_matrix_explained"], 1.0, rtol=1e-10)
    assert (above["alignment_matrix_rank"] == 3).all()
    for number, (matrix, target) in enumerate(zip(matrices[1:], targets(feedback), strict=True)):
        here = above.isel(layer=number)
        values = np.linalg.svd(matrix, compute_uv=False)
        np.testing.assert_allclose(
            here["alignment_matrix_singular_value"], values / values[0], rtol=1e-8
        )
        assert float(here["alignment_matrix_condition"]) == pytest.approx(np.linalg.cond(matrix))
        identity = np.trace(matrix) / 3**0.5 / np.linalg.norm(matrix)
        assert float(here["alignment_matrix_cosine_identity"]) == pytest.approx(identity)
        alignment = float(here["cosine_weight_feedback"])
        assert alignment == pytest.approx(cosine(weights[number + 1], target))
        assert alignment == pytest.approx(identity, abs=0.02)
    assert found.isel(layer=0)["alignment_matrix_condition"].isnull()
    assert found.isel(layer=0)["cosine_weight_feedback"].isnull()


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_scalar_output_aligns_weights_and_gradients_exactly_up_to_the_sign(sign: float) -> None:
    feedback, batch = gaussian((50, 60), 1), data(1)
    weights = by_weights(feedback, batch, steps=40, rate=0.002)
    flipped = [weights[0], sign * weights[1], weights[2]]
    found = probed(
        *(linear_network(flipped), half_squared_error, batch, given_feedback(named(feedback))),
        diagnostics=(*WEIGHTS, "error-signal", "weight-gradient"),
    ).sel(rule="dfa")
    expected = pytest.approx([sign, 1.0], abs=1e-10)
    for name in ("cosine_weight_feedback", "alignment_matrix_cosine_identity"):
        assert found[name].isel(layer=slice(1, None)).values.tolist() == expected
    assert found["alignment_matrix_condition"].isel(layer=1) == 1.0
    for name in ("cosine_error_signal", "cosine_error_signal_flat"):
        values = found[name].sel(site="preactivation").isel(layer=slice(0, 2))
        assert values.values.tolist() == expected
    assert found["cosine_weight_gradient"].isel(layer=slice(0, 2)).values.tolist() == expected
    assert found["cosine_feedback_path"].isel(layer=slice(0, 2)).values.tolist() == expected
    assert found["descent_rate"].sel(site="entry").values[0] == (1.0 if sign > 0 else 0.0)


def strongly_aligned(width: int, *, n_errors: int = 10, seed: int = 0) -> xr.Dataset:
    """Measure a network with W_l = F_l F_{l-1}^T and orthonormal feedback of this width."""
    rng = np.random.default_rng(seed)
    feedback = []
    for _ in range(3):
        square = np.linalg.qr(rng.normal(size=(max(width, n_errors),) * 2))[0]
        feedback.append(square[:width, :n_errors])
    weights = [rng.normal(size=(width, 9)), *targets(feedback)]
    x, error = rng.normal(size=(40, 9)), rng.normal(size=(40, n_errors))
    output = x
    for weight in weights:
        output = output @ weight.T
    batch = x, output - error
    return probed(
        *(linear_network(weights), half_squared_error, batch, given_feedback(named(feedback))),
        diagnostics=("error-signal", "weight-feedback", "bottleneck"),
    ).sel(rule="dfa")


def test_strong_weight_alignment_is_gradient_alignment_unless_the_layers_are_narrow() -> None:
    by_width = {width: strongly_aligned(width) for width in (2, 5, 10, 20)}
    bottom = {}
    for width, found in by_width.items():
        aligned = found["cosine_weight_feedback"].isel(layer=slice(1, None))
        np.testing.assert_allclose(aligned, 1.0, atol=1e-10)
        bottom[width] = float(found["cosine_error_signal"].isel(layer=0).sel(site="entry"))
        bounds = found["width_bound"].isel(layer=slice(0, 3)).values
        flat = found["cosine_error_signal_flat"].sel(site="entry").isel(layer=slice(0, 3)).values
        assert (flat <= bounds + 1e-12).all()
    assert bottom[10] == pytest.approx(1.0, abs=1e-10)
    assert bottom[20] == pytest.approx(1.0, abs=1e-10)
    assert bottom[2] < bottom[5] < 0.7


def bottleneck(rank: int, *, best: bool, seed: int) -> xr.Dataset:
    """Measure 9-12-rank-7 with random weights, or with those that are best for the feedback."""
    rng = np.random.default_rng(seed)
    below, error = rng.normal(size=(12, 9)), rng.normal(size=(60, 7))
    feedback = [rng.normal(size=(12, 7)), rng.normal(size=(rank, 7))]
    inner, outer = rng.normal(size=(rank, 12)), rng.normal(size=(7, rank))
    if best:
        inner = np.linalg.svd(error @ feedback[0].T)[2][:rank]
        outer = feedback[0].T @ inner.T
    x = rng.normal(size=(60, 9))
    weights = [below, inner, outer]
    output = x @ below.T @ inner.T @ outer.T
    return probed(
        *(linear_network(weights), half_squared_error, (x, output - error)),
        given_feedback(named(feedback)),
        diagnostics=("error-signal", "bottleneck"),
    ).sel(rule="dfa")


@pytest.mark.parametrize("rank", [1, 2, 4, 6])
def test_a_narrow_layer_bounds_the_alignment_below_it_and_the_bound_is_reached(rank: int) -> None:
    best = bottleneck(rank, best=True, seed=0).isel(layer=0)
    assert best["narrowest_width_above"] == rank
    assert best["narrowest_layer_above"] == "1"
    assert 0.3 < float(best["width_bound"]) < 1.0
    reached = best["cosine_error_signal_flat"].sel(site="entry")
    assert float(reached) == pytest.approx(float(best["width_bound"]), abs=1e-10)
    for seed in range(3):
        other = bottleneck(rank, best=False, seed=seed).isel(layer=0)
        assert abs(other["cosine_error_signal_flat"].sel(site="entry")) <= other["width_bound"]


def test_as_many_units_as_the_errors_have_directions_are_no_bottleneck() -> None:
    found = bottleneck(7, best=False, seed=0)
    np.testing.assert_allclose(found["width_bound"].isel(layer=[0, 1]), 1.0, atol=1e-12)


def test_drawn_feedback_gives_the_bound_a_band_and_no_alignment() -> None:
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=shape) for shape in ((12, 9), (2, 12), (7, 2))]
    drawn = given_feedback({"0": np.zeros((12, 7)), "1": np.zeros((2, 7))}, origin="drawn")
    found = probed(
        *(linear_network(weights), half_squared_error, data(7), drawn),
        diagnostics=("error-signal", "bottleneck"),
    ).isel(rule=0, layer=0)
    assert found["width_bound_low"] < found["width_bound"] < found["width_bound_high"] < 1.0
    assert found["cosine_error_signal"].isnull().all()


def test_the_true_signal_of_a_linear_network_is_within_reach_of_fixed_feedback() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(9, 12), nn.Linear(12, 7), nn.Linear(7, 4)).double()
    batch = torch.randn(100, 9).double(), torch.arange(100) % 4
    found = probed(model, functional.cross_entropy, batch, diagnostics=["reach"])
    hidden = found.isel(layer=slice(0, 2))
    np.testing.assert_allclose(hidden["reach_in_sample"], 1.0, atol=1e-10)
    np.testing.assert_allclose(hidden["reach_held_out"], 1.0, atol=1e-3)
    relu = nn.Sequential(model[0], nn.ReLU(), model[1], nn.ReLU(), model[2])
    other = probed(relu, functional.cross_entropy, batch, diagnostics=["reach"]).isel(layer=0)
    assert (other["reach_held_out"] < other["reach_in_sample"]).all()
    assert float(other["reach_in_sample"].max()) < 0.9


@pytest.mark.parametrize("loss", ["cross-entropy", "squared error"])
def test_alignment_matrices_are_well_conditioned_under_either_loss(loss: str) -> None:
    feedback = gaussian((50, 60), 4)
    weights = by_weights(feedback, data(4), steps=60, rate=0.002)
    x, y = data(4)
    batch = (x, y) if loss == "squared error" else (x, y.argmax(1))
    function = half_squared_error if loss == "squared error" else functional.cross_entropy
    found = probed(
        *(linear_network(weights), function, batch, given_feedback(named(feedback))),
        diagnostics=["alignment-matrix"],
    ).sel(rule="dfa")
    above = found.isel(layer=slice(1, None))
    assert (above["alignment_matrix_rank"] == (4 if loss == "squared error" else 3)).all()
    assert (above["alignment_matrix_condition"] < 50.0).all()
    assert np.isfinite(above["alignment_matrix_condition_chance"]).all()
    assert (above["alignment_matrix_cosine_identity"] > 0.7).all()


def test_weights_unrelated_to_the_feedback_are_explained_at_the_chance_level() -> None:
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=shape) for shape in ((60, 9), (50, 60), (5, 50))]
    feedback = gaussian((60, 50), 5)
    found = probed(
        *(linear_network(weights), half_squared_error, data(5), given_feedback(named(feedback))),
        diagnostics=["alignment-matrix"],
    ).sel(rule="dfa")
    middle = found.isel(layer=1)
    expected = 25 / (60 * 50)
    assert float(middle["alignment_matrix_explained_chance"]) == pytest.approx(expected, rel=0.2)
    assert float(middle["alignment_matrix_explained"]) == pytest.approx(expected, rel=1.0)
    low, high = (
        middle[f"alignment_matrix_singular_value_{edge}"].values for edge in ("low", "high")
    )
    inside = middle["alignment_matrix_singular_value"].values
    assert ((inside[1:] >= low[1:] * 0.5) & (inside[1:] <= high[1:] * 1.5)).all()


def test_fed_back_weights_are_aligned_with_themselves() -> None:
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=shape) for shape in ((12, 9), (7, 12), (4, 7))]
    found = probed(
        *(linear_network(weights), half_squared_error, data(4), BP(), USF(), FA(), DFA()),
        diagnostics=["weight-feedback"],
    )
    own = found["cosine_weight_feedback"].sel(rule="bp").isel(layer=slice(1, None))
    np.testing.assert_allclose(own, 1.0, atol=1e-12)
    signs = found["cosine_weight_feedback"].sel(rule="usf").isel(layer=slice(1, None))
    expected = [np.abs(w).mean() / np.sqrt((w**2).mean()) for w in weights[1:]]
    np.testing.assert_allclose(signs, expected, rtol=1e-9)
    ratio = found["norm_ratio_weight_feedback"].sel(rule=["bp", "usf"]).isel(layer=slice(1, None))
    np.testing.assert_allclose(ratio, 1.0, rtol=1e-9)

"""Narrow layers and frozen weights: bounds that are reached, neighbours, masks, reasons."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor, nn
from torch.nn import functional

from alignlab.diagnostics.bottleneck import SHARES
from alignlab.probe import Probe
from alignlab.rules import DFA, FA, Applied
from alignlab.snapshot import MeasuredRule
from tests.cases import CASES
from tests.diagnostics.probing import given_feedback, half_squared_error, linear_network, probed
from tests.diagnostics.reaching import deep, noise
from tests.kernels.test_bottleneck import softmax_errors
from tests.oracles.linear_dfa import by_weights

LOSS = functional.cross_entropy
NAMES = ("bottleneck", "error-signal", "weight-gradient", "reach")


def with_error(
    sizes: tuple[int, ...], error: np.ndarray, *, seed: int, origin: str = "checkpoint"
) -> xr.Dataset:
    """Measure a random linear network whose outputs have given errors."""
    rng = np.random.default_rng(seed)
    shapes = list(zip(sizes[1:], sizes[:-1], strict=True))
    weights = [rng.normal(size=shape) / shape[1] ** 0.5 for shape in shapes]
    x = rng.normal(size=(len(error), sizes[0]))
    output = x
    for weight in weights:
        output = output @ weight.T
    feedback = {str(k): rng.normal(size=(n, sizes[-1])) for k, n in enumerate(sizes[1:-1])}
    return probed(
        *(linear_network(weights), half_squared_error, (x, output - error)),
        given_feedback(feedback, origin=origin),
        diagnostics=["bottleneck"],
    ).sel(rule="dfa")


def test_ten_classes_have_the_known_bounds_at_every_width() -> None:
    found = [
        with_error((20, 110, 4, 10), softmax_errors(500, 10, seed=seed), seed=seed).sel(layer="0")
        for seed in range(10)
    ]
    curve = np.mean([each["width_bound_by_rank"].values for each in found], 0)
    np.testing.assert_allclose(curve[[0, 1, 3, 7, 8]], [0.41, 0.57, 0.75, 0.97, 1.0], atol=0.012)
    for each in found:
        assert float(each["width_bound"]) == float(each["width_bound_by_rank"][3])
        assert float(each["width_without_limit"]) == 9


def test_the_width_that_lifts_does_and_the_one_below_does_not() -> None:
    error = softmax_errors(300, 8, seed=0)
    narrow = with_error((20, 60, 2, 30, 8), error, seed=0).sel(layer="0")
    needed = int(narrow["width_that_lifts"])
    assert 2 < needed <= int(narrow["width_without_limit"]) == 7
    curve = narrow["width_bound_by_rank"].values
    assert curve[needed - 2] < 0.99 <= curve[needed - 1]
    lifted = with_error((20, 60, needed, 30, 8), error, seed=0).sel(layer="0")
    assert float(lifted["width_bound"]) >= 0.99
    free = with_error((20, 60, 7, 30, 8), error, seed=0)
    np.testing.assert_allclose(free["width_bound"].values[:3], 1.0, atol=1e-12)


def test_drawn_feedback_gives_a_median_with_a_band() -> None:
    error = softmax_errors(200, 6, seed=0)
    found = with_error((10, 30, 2, 6), error, seed=0, origin="drawn").sel(layer="0")
    assert found["width_bound_low"] < found["width_bound"] < found["width_bound_high"] < 1.0
    assert np.isfinite(found["width_that_lifts"])
    assert "no cosine is observed" in reason(found)


def reason(found: xr.Dataset, layer: str = "0") -> str:
    texts = found["not_defined"].sel(diagnostic="bottleneck")
    return str((texts.sel(layer=layer) if "layer" in texts.dims else texts).item())


def trained(width: int, *, n_classes: int = 6) -> xr.Dataset:
    """Measure a linear network with a layer of this width after direct feedback from zero."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 12))
    y = np.eye(n_classes)[(x @ rng.normal(size=(12, n_classes))).argmax(1)]
    y = y - y.mean(0)
    rng = np.random.default_rng(1)
    feedback = [rng.normal(size=(n, n_classes)) / n**0.5 for n in (40, width, 40, 40)]
    weights = by_weights(feedback, (x, y), steps=600, rate=2e-4)
    given = given_feedback({str(k): each for k, each in enumerate(feedback)})
    return probed(
        linear_network(weights), half_squared_error, (x, y), given, diagnostics=NAMES
    ).sel(rule="dfa")


def test_a_narrow_layer_keeps_its_cosine_and_takes_those_of_both_neighbours() -> None:
    by_width = {width: trained(width) for width in (1, 2, 40)}
    entry = {
        width: found["cosine_error_signal_flat"].sel(site="entry").values[:4]
        for width, found in by_width.items()
    }
    for width in (1, 2):
        own, below, above = entry[width][1], entry[width][0], entry[width][2:]
        assert own > 0.8 * entry[40][1]
        assert below < 0.6 * entry[40][0]
        assert (above < 0.6 * entry[40][2:]).all()
        found = by_width[width]
        assert below <= float(found["width_bound"][0])
        assert (above <= found["width_limit_from_below"].values[2:4]).all()
        assert found["narrowest_layer_above"].values[:4].tolist()[0] == "1"
        assert found["narrowest_layer_below"].values[2:4].tolist() == ["1", "1"]
        np.testing.assert_allclose(found["reach_in_sample"].values[:4], 1.0, atol=1e-9)
    np.testing.assert_allclose(by_width[40]["width_bound"].values[:4], 1.0, atol=1e-12)


def gated(sizes: tuple[int, ...]) -> xr.Dataset:
    return probed(
        *(deep(sizes, nn.ReLU), LOSS, noise(200, sizes[0], sizes[-1]), DFA(seed=0)),
        diagnostics=["bottleneck", "effective-rank"],
    )


def test_the_bound_is_exact_behind_gates_only_right_below_the_narrow_layer() -> None:
    model, (x, y) = deep((20, 30, 30, 2, 8), nn.ReLU), noise(200, 20, 8)
    found = gated((20, 30, 30, 2, 8))
    assert found["width_bound_scope"].values[:2].tolist() == ["linear networks", "any network"]
    kept = []
    h = x.double()
    for module in model.double():
        h = module(h)
        h.retain_grad()
        kept.append(h)
    LOSS(h, y).backward()
    ranks = [int(np.linalg.matrix_rank(kept[k].grad.numpy())) for k in (1, 3)]
    assert ranks[0] > 2
    assert ranks[1] == 2


def test_shortcuts_around_a_narrow_layer_lift_its_limit() -> None:
    made = CASES["residual"].make()
    found = probed(made.model, made.loss, (made.x, made.y), DFA(seed=0), diagnostics=["bottleneck"])
    above = dict(zip(found["layer"].values, found["narrowest_layer_above"].values, strict=True))
    assert above["1.conv1"] != "1.conv2"
    below = dict(zip(found["layer"].values, found["narrowest_layer_below"].values, strict=True))
    assert below["1.conv2"] != "1.conv1"


def test_the_narrowest_place_below_is_the_input_or_a_layer() -> None:
    found = gated((6, 30, 4, 30, 8))
    assert found["narrowest_layer_below"].values[:3].tolist() == ["input", "input", "2"]
    assert found["narrowest_width_below"].values[:3].tolist() == [6, 6, 4]


def applied(mask: Callable[[Tensor], Tensor]) -> xr.Dataset:
    """Measure gradients of which a training masks those of the middle layer."""
    model, (x, y) = deep((30, 60, 50, 5), nn.Tanh), noise(300, 30, 5)
    LOSS(model(x), y).backward()
    gradient = model[2].weight.grad
    assert gradient is not None
    gradient.mul_(mask(gradient))
    return probed(
        *(model, LOSS, (x, y), Applied()), diagnostics=["bottleneck", "weight-gradient"]
    ).sel(rule="applied")


def frozen(share: float) -> Callable[[Tensor], Tensor]:
    def mask(gradient: Tensor) -> Tensor:
        stream = torch.Generator().manual_seed(0)
        return (torch.rand(gradient.shape, generator=stream) < share).to(gradient)

    return mask


@pytest.mark.parametrize("share", [0.5, 0.1])
def test_frozen_weights_take_the_layer_s_own_cosine_and_no_other(share: float) -> None:
    found = applied(frozen(share))
    cosine = found["cosine_weight_gradient"]
    assert float(cosine.sel(layer="2")) == pytest.approx(share**0.5, abs=0.05)
    np.testing.assert_allclose(cosine.sel(layer=["0", "4"]), 1.0, atol=1e-6)
    assert float(found["trained_share"].sel(layer="2")) == pytest.approx(share, abs=0.03)
    bound = float(found["trained_bound"].sel(layer="2"))
    assert bound == pytest.approx(float(cosine.sel(layer="2")), abs=1e-6)
    np.testing.assert_allclose(found["trained_share"].sel(layer=["0", "4"]), 1.0)


def test_dead_units_are_not_taken_for_frozen_weights() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 4))
    with torch.no_grad():
        model[0].bias[:5] = -100.0
    found = probed(model, LOSS, noise(100, 10, 4), DFA(seed=0), diagnostics=["bottleneck"])
    assert float(found["trained_share"].sel(rule="dfa", layer="0")) == 1.0


def test_masks_leave_on_average_what_is_expected_of_them() -> None:
    model, batch = deep((30, 60, 50, 5), nn.Tanh), noise(200, 30, 5)
    torch.manual_seed(0)
    weights = {
        name.removesuffix(".weight"): p.detach() + torch.randn_like(p) * p.detach().std()
        for name, p in model.named_parameters()
    }
    rule = MeasuredRule(FA(), weights, "checkpoint")
    masked, expected = [], None
    for seed in range(60):
        with Probe(
            model, LOSS, rules=[rule], diagnostics=["bottleneck"], draws=32, seed=seed
        ) as probe:
            found = probe.measure(*batch).isel(step=0, rule=0).sel(layer="2")
        masked.append(found["cosine_weight_gradient_masked"].values)
        expected = found["cosine_weight_gradient_masked_expected"].values
    assert expected is not None
    assert found["share"].values.tolist() == list(SHARES)
    spread = np.std(masked, 0) / len(masked) ** 0.5
    for mean, value, error in zip(np.mean(masked, 0), expected, spread, strict=True):
        assert mean == pytest.approx(value, abs=3.5 * error + 1e-6)
    np.testing.assert_allclose(expected, expected[0] * np.sqrt(SHARES), rtol=0.1)


def test_what_is_not_defined_has_a_reason() -> None:
    made = CASES["frozen"].make()
    found = probed(
        *(made.model, made.loss, (made.x, made.y), FA(seed=0)), diagnostics=["bottleneck"]
    )
    assert "its weight is frozen" in reason(found, "2")
    assert "does not send the error directly" in reason(found, "0")
    assert "width_bound" not in found
    nothing = probed(made.model, made.loss, (made.x, made.y), diagnostics=["bottleneck"])
    assert "no rule is measured" in reason(nothing)


def test_feedback_of_whole_blocks_has_bounds_where_it_enters() -> None:
    made = CASES["residual"].make()
    rule = DFA(seed=0, granularity="macro")
    found = probed(made.model, made.loss, (made.x, made.y), rule, diagnostics=["bottleneck"])
    bounds = found["width_bound"].isel(rule=0)
    assert np.isfinite(bounds.sel(layer="1.conv2"))
    assert bounds.sel(layer="1.conv1").isnull()
    assert "no feedback enters there" in reason(found, "1.conv1")

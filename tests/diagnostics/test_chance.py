"""Chance levels: p-values, bands, rotations, and what a value is called against them."""

from __future__ import annotations

from math import nan
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from alignlab.diagnostics._base import Reading
from alignlab.diagnostics._chance import (
    CONCENTRATION_BOUND,
    Chance,
    adjusted_statuses,
    chance_of,
    largest_spread,
    readings,
)
from alignlab.diagnostics._closed_forms import STAGES
from alignlab.diagnostics._null_views import rotations
from alignlab.engine.capture import Capture
from alignlab.kernels.cosines import cosine
from alignlab.rules import BP, DFA, FA, USF
from tests.calibration.nulls import NETWORKS, bands, recorded
from tests.cases import CASES
from tests.diagnostics.probing import probed

DRAWS = np.linspace(-0.99, 0.99, 199)


def by_chance(observed: float, draws: Any = DRAWS, **options: Any) -> Chance:
    options = {"kind": "feedback_draw", "concentration": 0.1} | options
    return chance_of(observed, np.asarray(draws, dtype=float), **options)


@pytest.mark.parametrize(("observed", "above"), [(-2.0, 199), (0.0, 100), (0.985, 1)])
def test_the_p_value_counts_the_draws_that_reach_the_value(observed: float, above: int) -> None:
    assert by_chance(observed).p == pytest.approx((1 + above) / 200)
    assert by_chance(-observed).p_opposed == pytest.approx((1 + above) / 200)


def test_beyond_all_draws_there_is_a_tail_only_where_norms_concentrate() -> None:
    far = by_chance(3.0)
    assert far.p == pytest.approx(stats.t.sf(3.0 / far.sd, 199))
    assert far.p < 1 / 200
    assert by_chance(3.0, concentration=2 * CONCENTRATION_BOUND).p == 1 / 200


@pytest.mark.parametrize("value", [-3.0, 0.0, 0.3, 3.0])
def test_the_closed_form_is_a_normal_distribution_and_needs_no_draws(value: float) -> None:
    exact = by_chance(value, [], closed_form=0.6)
    assert exact == by_chance(value, closed_form=0.6)
    assert exact.p == pytest.approx(stats.norm.sf(value / 0.6))
    assert exact.p_opposed == pytest.approx(stats.norm.cdf(value / 0.6))
    assert (exact.low, exact.high) == pytest.approx((-1.96 * 0.6, 1.96 * 0.6))


@pytest.mark.parametrize("n_draws", [4, 8, 32])
def test_few_draws_still_give_a_band_that_holds_95_percent_and_a_p_that_is_no_smaller_than_chance(
    n_draws: int,
) -> None:
    random = np.random.default_rng(0)
    found = [by_chance(row[0], row[1:]) for row in random.normal(size=(3_000, n_draws + 1))]
    values = np.random.default_rng(0).normal(size=(3_000, n_draws + 1))[:, 0]
    inside = np.mean([c.low <= v <= c.high for c, v in zip(found, values, strict=True)])
    assert inside == pytest.approx(0.95, abs=0.012)  # three standard errors
    for level in (0.01, 0.05):
        share = np.mean([c.p <= level for c in found])
        assert share <= level + 3 * np.sqrt(level * (1 - level) / 3_000)


def test_the_closed_form_is_used_where_norms_concentrate_and_redraws_elsewhere() -> None:
    near, wide = (
        by_chance(0.0, closed_form=0.2, concentration=CONCENTRATION_BOUND + side)
        for side in (-1e-6, 1e-6)
    )
    assert (near.method, near.sd, near.high) == ("closed form", 0.2, 1.96 * 0.2)
    assert wide.method == "redraws"
    assert wide.sd == pytest.approx(np.sqrt(np.mean(DRAWS**2)))
    assert (wide.low, wide.high) == pytest.approx((-0.95, 0.95))
    assert by_chance(0.0, closed_form=nan).method == "redraws"


def test_the_band_of_redraws_holds_what_it_says_on_average() -> None:
    rng = np.random.default_rng(0)
    held = []
    for _ in range(2000):
        band = by_chance(nan, rng.normal(size=200), concentration=1.0)
        held.append(stats.norm.cdf(band.high) - stats.norm.cdf(band.low))
    assert np.mean(held) == pytest.approx(0.95, abs=0.002)


def test_by_chance_p_values_are_uniform() -> None:
    rng = np.random.default_rng(0)
    values = [by_chance(rng.normal(), rng.normal(size=99)).p for _ in range(2000)]
    for level in (0.05, 0.5, 0.9):
        assert np.mean(np.array(values) <= level) == pytest.approx(level, abs=0.025)


def test_undefined_draws_are_left_out_and_without_draws_there_is_no_chance_level() -> None:
    with_gaps = by_chance(0.5, [*DRAWS, nan, nan])
    assert with_gaps == by_chance(0.5)
    nothing = by_chance(0.5, [nan, 0.3])
    assert np.isnan([nothing.sd, nothing.low, nothing.high, nothing.p]).all()
    assert np.isnan(by_chance(nan).p)


def status(value: float, sd: float, **options: Any) -> str:
    p, opposed = stats.norm.sf(value / sd), stats.norm.cdf(value / sd)
    chance = Chance(sd, -sd, sd, "feedback_draw", "redraws", 0.1, p, p_opposed=opposed)
    return adjusted_statuses([value], [chance], **({"is_drawn": False} | options))[0]


@pytest.mark.parametrize(
    ("value", "sd", "expected"),
    [
        (nan, 0.1, "undefined"),
        (0.99, 0.26, "undecidable"),
        (0.1, 0.1, "at chance"),
        (-0.1, 0.1, "at chance"),
        (0.09, 0.009, "detectable"),
        (0.5, 0.1, "useful"),
        (-0.5, 0.1, "opposed"),
    ],
)
def test_a_value_is_called_what_it_is_worth(value: float, sd: float, expected: str) -> None:
    assert status(value, sd) == expected


def test_without_a_spread_nothing_can_be_decided() -> None:
    alone = Chance(0.0, 0.0, 0.0, "feedback_draw", "redraws", 0.0, 0.005)
    assert adjusted_statuses([0.9], [alone], is_drawn=False) == ["undecidable"]


def test_a_value_that_is_no_step_efficiency_is_never_useful() -> None:
    assert status(0.9, 0.1, is_cosine=False) == "detectable"


def test_layers_are_judged_together() -> None:
    chances = [
        Chance(0.1, -0.2, 0.2, "feedback_draw", "redraws", 0.1, p, p_opposed=1 - p)
        for p in (0.04, *(0.9 for _ in range(9)))
    ]
    alone = adjusted_statuses([0.175], chances[:1], is_drawn=False)
    assert alone == ["detectable"]
    together = adjusted_statuses([0.175, *(0.0 for _ in range(9))], chances, is_drawn=False)
    assert set(together) == {"at chance"}


def test_drawn_feedback_shows_its_chance_level_and_nothing_else() -> None:
    assert status(0.5, 0.1, is_drawn=True) == "null draw"
    shown: dict[str, Reading] = {
        each.name: each
        for each in readings(
            *("c", 0.5, by_chance(0.5), "null draw"), undefined=0.0, place=("dfa", "0", "entry")
        )
    }
    for name in ("c", "c_z", "c_p"):
        assert np.isnan(float(shown[name].value)), name  # type: ignore[arg-type]
    for name in ("c_null_sd", "c_null_low", "c_null_high", "c_z_attainable"):
        assert np.isfinite(float(shown[name].value)), name  # type: ignore[arg-type]


@pytest.mark.parametrize(("n_samples", "n"), [(5, 40), (60, 12), (20, 20), (1, 7)])
def test_rotations_keep_norms_and_have_the_stated_spread(n_samples: int, n: int) -> None:
    stream = torch.Generator().manual_seed(0)
    true, signal = torch.randn(2, n_samples, n, generator=stream)
    signal = signal + 0.5 * true
    (turn,) = rotations([(signal, -1)], [stream])
    turned = torch.stack([turn() for _ in range(1500)]).double()
    inner = torch.einsum("kin,kjn->kij", turned, turned)
    expected = (signal.double() @ signal.double().T).expand_as(inner)
    torch.testing.assert_close(inner, expected, rtol=1e-4, atol=1e-4)
    values = cosine(turned.flatten(1), true.flatten())
    sd = (signal.T @ true).norm() / (n**0.5 * signal.norm() * true.norm())
    assert abs(float(values.mean())) < 4 * float(sd) / 1500**0.5
    assert float(values.square().mean().sqrt()) == pytest.approx(float(sd), rel=0.08)


def turned_once(signal: Tensor) -> Tensor:
    (turn,) = rotations([(signal, 1)], [torch.Generator().manual_seed(0)])
    return turn()


def test_a_rotation_turns_the_given_axis_alone() -> None:
    signal = torch.randn(4, 3, 5, 5)
    turned = turned_once(signal)
    torch.testing.assert_close(turned.norm(dim=1), signal.norm(dim=1))
    assert not torch.allclose(turned.norm(dim=2), signal.norm(dim=2))
    assert torch.equal(turned_once(0.0 * signal), 0.0 * signal)


def weights_and_gradient(name: str, layer: str) -> Tensor:
    batch = CASES[name].make(n_samples=24)
    capture = Capture(batch.model, batch.loss, batch.x, batch.y)
    parameter = capture.reference(parameters=True).parameters[f"{layer}.weight"]
    return parameter.flatten(1).double()


@pytest.mark.parametrize("name", ["tanh", "conv1d, strided", "dropout"])
def test_without_random_feedback_the_null_is_a_rotation_of_the_output_units(name: str) -> None:
    batch = CASES[name].make(n_samples=24)
    found = probed(
        *(batch.model, batch.loss, (batch.x, batch.y), BP()),
        draws=400, diagnostics=["weight-gradient"],
    ).sel(rule="bp", layer="0")  # fmt: skip
    gradient = weights_and_gradient(name, "0")
    assert found["cosine_weight_gradient_null_kind"] == "output_rotation"
    stated = (gradient @ gradient.T).norm() / (len(gradient) ** 0.5 * gradient.norm() ** 2)
    sd = found["cosine_weight_gradient_null_sd"].item()
    assert sd == pytest.approx(float(stated), rel=0.12)
    assert found["cosine_weight_gradient_z_attainable"].item() == pytest.approx(1 / sd)


def test_every_null_says_what_was_random() -> None:
    batch = CASES["relu in place"].make(n_samples=24)
    found = probed(
        *(batch.model, batch.loss, (batch.x, batch.y), BP(), DFA(), FA(), USF()),
        diagnostics=["weight-gradient"],
    ).isel(layer=slice(0, 2))
    kinds = found["cosine_weight_gradient_null_kind"].isel(layer=0).values.tolist()
    assert kinds == ["output_rotation", "feedback_draw", "feedback_draw", "rule_draw"]


@pytest.mark.parametrize("name", ["16", "32-32", "conv 16, pooled"])
def test_few_redraws_decide_which_method_is_used(name: str) -> None:
    batch = NETWORKS[name].make(0)
    found = recorded(batch, DFA()).isel(rule=0)
    for band in bands(found):
        if band.method == "closed form":
            assert band.concentration <= largest_spread(STAGES[-1])
        elif band.variable != "descent_rate":
            assert band.concentration > largest_spread(STAGES[0])
    methods = {band.method for band in bands(found)}
    assert methods == {"closed form", "redraws"}

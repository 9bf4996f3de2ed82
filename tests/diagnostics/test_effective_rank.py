"""Effective dimensions of a probing: numpy, chance levels, rank bounds, reasons."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from alignlab.kernels.ranks import isotropic_participation_ratio
from alignlab.rules import DFA, FA, Applied
from tests.cases import CASES
from tests.diagnostics.probing import given_feedback, probed
from tests.diagnostics.reaching import deep, noise, signals_of

LOSS = functional.cross_entropy
NAME = "effective-rank"


def of_numpy(matrix: np.ndarray) -> dict[str, float]:
    found = {}
    for suffix, rows in (("", matrix), ("_centred", matrix - matrix.mean(0))):
        share = np.linalg.svd(rows, compute_uv=False) ** 2
        share = share / share.sum()
        found[f"participation_ratio{suffix}"] = 1 / (share**2).sum()
        if not suffix:
            positive = share[share > 0]
            found["entropy_rank"] = np.exp(-(positive * np.log(positive)).sum())
            found["stable_rank"] = 1 / share.max()
    return found


def test_every_object_has_the_dimensions_that_numpy_finds() -> None:
    model, batch = deep((20, 30, 25, 4), nn.ReLU), noise(90, 20, 4)
    found = probed(model, LOSS, batch, DFA(seed=0), diagnostics=[NAME])
    s = signals_of(model, batch, layer=2)
    gradient = (s.gate * s.entry).T @ s.x
    objects = {
        "error": (s.error, {}),
        "activation": (s.x, {"layer": "2"}),
        "true_signal": (s.entry, {"layer": "2", "site": "entry"}),
        "true_weight_gradient": (gradient, {"layer": "2"}),
    }
    for name, (matrix, place) in objects.items():
        for measure, expected in of_numpy(matrix).items():
            value = float(found[f"{measure}_{name}"].sel(place))
            assert value == pytest.approx(expected, rel=1e-4), (name, measure)
    gated = found["participation_ratio_true_signal"].sel(layer="2", site="preactivation")
    expected = of_numpy(s.gate * s.entry)["participation_ratio"]
    assert float(gated) == pytest.approx(expected, rel=1e-4)


def test_every_object_has_the_chance_level_of_its_shape() -> None:
    model, batch = deep((20, 30, 25, 4), nn.ReLU), noise(90, 20, 4)
    found = probed(model, LOSS, batch, diagnostics=[NAME])
    shapes = {
        "error": ((90, 4), {}),
        "activation": ((90, 30), {"layer": "2"}),
        "true_signal": ((90, 25), {"layer": "2", "site": "entry"}),
        "true_weight_gradient": ((25, 30), {"layer": "2"}),
    }
    for name, (shape, place) in shapes.items():
        value = found[f"participation_ratio_{name}_chance"].sel(place)
        assert float(value) == isotropic_participation_ratio(*shape)


def test_inputs_without_structure_are_at_the_chance_level() -> None:
    model = deep((60, 30, 4), nn.ReLU)
    found = probed(model, LOSS, noise(200, 60, 4), diagnostics=[NAME]).sel(layer="0")
    chance = float(found["participation_ratio_activation_chance"])
    assert float(found["participation_ratio_activation"]) == pytest.approx(chance, rel=0.02)


@pytest.mark.parametrize("width", [2, 3, 30])
def test_direct_feedback_has_no_more_directions_than_error_or_layer(width: int) -> None:
    model = deep((20, width, 25, 6), nn.Tanh)
    found = probed(model, LOSS, noise(90, 20, 6), DFA(seed=0), FA(seed=0), diagnostics=[NAME])
    rank = found["signal_rank"].sel(rule="dfa").values[:2].tolist()
    bound = found["signal_rank_bound"].sel(rule="dfa").values[:2].tolist()
    assert rank == bound == [min(5, width), 5]
    assert found["error_rank"] == 5
    assert found["signal_rank_bound"].sel(rule="fa").isnull().all()


def test_gates_lift_the_rank_that_direct_feedback_sends() -> None:
    found = probed(
        *(deep((20, 30, 4), nn.ReLU), LOSS, noise(90, 20, 4), DFA(seed=0)), diagnostics=[NAME]
    ).sel(rule="dfa", layer="0")
    signal = found["participation_ratio_signal"]
    assert float(found["signal_rank"]) == 3
    assert float(signal.sel(site="entry")) <= 3
    assert float(signal.sel(site="preactivation")) > 3


def test_what_lies_outside_the_strongest_directions_is_the_rest_of_the_spectrum() -> None:
    model, batch = deep((20, 30, 25, 4), nn.ReLU), noise(90, 20, 4)
    found = probed(model, LOSS, batch, diagnostics=[NAME])["true_signal_outside_top"]
    values = np.linalg.svd(signals_of(model, batch, layer=0).entry, compute_uv=False) ** 2
    assert float(found.sel(layer="0")) == pytest.approx(values[4:].sum() / values.sum(), rel=1e-4)
    assert float(found.sel(layer="2")) == pytest.approx(0.0, abs=1e-9)


def test_collapsed_errors_are_seen_in_the_signals_and_not_in_the_chance_level() -> None:
    model, (x, y) = deep((20, 30, 6), nn.Tanh), noise(90, 20, 6)

    def collapsed(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return LOSS(output[:, :2], target % 2)

    plain = probed(model, LOSS, (x, y), DFA(seed=0), diagnostics=[NAME]).sel(rule="dfa")
    fault = probed(model, collapsed, (x, y), DFA(seed=0), diagnostics=[NAME]).sel(rule="dfa")
    assert (plain["error_rank"], fault["error_rank"]) == (5, 1)
    assert float(fault["signal_rank"].sel(layer="0")) == 1
    name = "participation_ratio_true_signal_chance"
    assert (plain[name].sel(layer="0") == fault[name].sel(layer="0")).all()


def test_a_rule_without_observed_signals_has_a_reason() -> None:
    model, (x, y) = deep((6, 5, 3), nn.ReLU), noise(40, 6, 3)
    drawn = given_feedback({"0": np.ones((5, 3), dtype=np.float32)}, origin="drawn")
    LOSS(model(x), y).backward()
    found = probed(model, LOSS, (x, y), drawn, Applied(), diagnostics=[NAME])
    text = str(found["not_defined"].sel(diagnostic=NAME, layer="0").item())
    assert "under dfa because its feedback was drawn" in text
    assert "under applied because it yields updates alone" in text
    own = found["participation_ratio_weight_gradient"].sel(rule="applied", layer="0")
    true = found["participation_ratio_true_weight_gradient"].sel(layer="0")
    assert float(own) == pytest.approx(float(true))


@pytest.mark.parametrize("name", ["residual", "language model", "reused", "conv2d, transposed"])
def test_ranks_stay_within_their_bounds_on_any_network(name: str) -> None:
    made = CASES[name].make()
    found = probed(made.model, made.loss, (made.x, made.y), DFA(seed=0), diagnostics=[NAME])
    bound = found["signal_rank_bound"].values
    assert np.isfinite(bound).any()
    assert (found["signal_rank"].values[np.isfinite(bound)] <= bound[np.isfinite(bound)]).all()

"""Nøkland's claims: the exact ones pass, and all run, check and draw at sizes of seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch.nn import functional as F

from alignlab.engine.capture import Capture
from alignlab.experiments.noekland2016 import feature_separation
from alignlab.experiments.noekland2016._setting import (
    cross_entropies,
    error,
    images,
    network,
    recipe,
    rule_named,
)
from alignlab.experiments.noekland2016.disconnected import _Apart, _connected
from alignlab.experiments.noekland2016.feature_separation import features_of, separation
from tests.experiments.short_runs import outcome

SMALL = {"in_features": 64, "widths": (12, 12)}

SHORT: dict[str, dict[str, Any]] = {
    "error_rates": {"widths": (12, 12), "epochs": 1, "seeds": 2},
    "deep_networks": {"widths": (12, 12, 12), "epochs": 1, "seeds": 2},
    "very_deep": {"widths": (8,) * 4, "epochs": 1, "batch_size": 200},
    "frozen_first_layer": {"widths": (8, 8), "epochs": 1, "seeds": 1},
    "convolutions": {"channels": (2, 2), "widths": (8,), "epochs": 1, "seeds": 1},
    "dropout": {"widths": (12, 12), "epochs": 1, "seeds": 1},
    "disconnected": {"widths": (12, 12), "epochs": 1, "seeds": 1},
}


@pytest.mark.parametrize("name", SHORT)
def test_a_short_run_gives_every_check_and_a_figure(name: str, tmp_path: Path) -> None:
    claim, results, checks, _ = outcome(f"noekland2016.{name}", tmp_path, **SHORT[name])
    assert len({check.what for check in checks}) == len(checks) >= 1
    assert all(np.isfinite(check.measured) and check.expected for check in checks)
    figure = Figure(figsize=(8, 4), layout="constrained")
    claim.draw(results, figure)
    assert figure.axes[0].get_ylabel()


def test_with_one_hidden_layer_both_rules_make_the_same_steps(tmp_path: Path) -> None:
    claim, results, checks, _ = outcome("noekland2016.one_hidden_layer", tmp_path, seeds=1)
    assert all(check.passed for check in checks)
    assert results["way"].values.min() > 0.1
    claim.draw(results, Figure(layout="constrained"))


def test_from_zero_only_dfa_with_tanh_learns(tmp_path: Path) -> None:
    options = {"epochs": 4, "widths": (64, 64), "seeds": 1, "lr": 3e-3}
    claim, results, checks, _ = outcome("noekland2016.zero_weights", tmp_path, **options)
    assert [check.what for check in checks if not check.passed] == []
    claim.draw(results, Figure(layout="constrained"))


def test_the_map_of_features_is_drawn_below_their_separation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_separation, "_mapped", lambda features: features[:, :2])
    options = {"epochs": 1, "widths": (12,), "seeds": 1}
    name = "noekland2016.feature_separation"
    claim, results, checks, _ = outcome(name, tmp_path, **options)
    assert len(checks) == 5
    last = results["map"].values[results["rule"].values == "last"]
    assert np.isnan(last).all()
    figure = Figure(figsize=(8, 6), layout="constrained")
    claim.draw(results, figure)
    assert len(figure.axes) == 5


def test_the_error_of_a_sample_is_that_of_logistic_outputs() -> None:
    output = torch.randn(5, 10, requires_grad=True)
    y = torch.arange(5)
    (gradient,) = torch.autograd.grad(cross_entropies(output, y), output)
    expected = (torch.sigmoid(output) - F.one_hot(y, 10)) / 5
    torch.testing.assert_close(gradient, expected)
    summed = cross_entropies(output, y, reduction="sum")
    torch.testing.assert_close(torch.autograd.grad(summed, output)[0], 5 * expected)


def test_feedback_lies_within_one_over_the_root_of_the_fan_out() -> None:
    seen = images("digits")
    model = network({"rule": "bp", "seed": 0}, {"in_features": 64, "widths": (200, 100)})
    capture = Capture(model, cross_entropies, seen.x[:8], seen.y[:8])
    direct: Any = rule_named("dfa", seed=0).start(capture, seed=0)
    for name, width in (("fc1", 200), ("fc2", 100)):
        assert direct[name].abs().max() == pytest.approx(width**-0.5, rel=0.02)
    back: Any = rule_named("fa", seed=0).start(capture, seed=0)
    assert back["fc2"].abs().max() == pytest.approx(200**-0.5, rel=0.02)


@pytest.mark.parametrize("kind", ["mask", "streams"])
def test_no_unit_hears_of_an_output_that_it_acts_on(kind: str) -> None:
    seen = images("digits")
    model = network({"rule": "bp", "seed": 0}, SMALL)
    capture = Capture(model, cross_entropies, seen.x[:8], seen.y[:8])
    feedback: Any = _Apart(network=kind, seed=3).start(capture, seed=3)
    forward = _connected(kind, 10, 12, seed=3)
    assert torch.equal(forward.sum(0), torch.full((12,), 5))
    assert torch.equal(feedback["fc2"] != 0, ~forward)
    lower = feedback["fc1"] != 0
    assert torch.equal(lower, ~forward) if kind == "streams" else bool(lower.all())


def test_separation_is_the_ratio_of_traces_of_scatter_matrices() -> None:
    rows = torch.randn(60, 4, generator=torch.Generator().manual_seed(0)).double().numpy()
    y = np.arange(60) % 3
    mean = rows.mean(0)
    within, across = np.zeros((4, 4)), np.zeros((4, 4))
    for c in range(3):
        some = rows[y == c]
        within += (some - some.mean(0)).T @ (some - some.mean(0))
        across += len(some) * np.outer(some.mean(0) - mean, some.mean(0) - mean)
    found = separation(torch.from_numpy(rows), torch.from_numpy(y))
    assert found == pytest.approx(np.trace(across) / np.trace(within), rel=1e-9)


def test_features_are_the_inputs_and_what_each_activation_returns() -> None:
    model: Any = network({"rule": "bp", "seed": 0}, SMALL)
    x = torch.rand(3, 64)
    first, second, third = features_of(model, x)
    assert torch.equal(first, x)
    torch.testing.assert_close(second, torch.tanh(model.fc1(x)))
    torch.testing.assert_close(third, torch.tanh(model.fc2(second)))


def test_the_error_is_a_share_in_per_cent_and_recipes_name_what_is_frozen() -> None:
    x, y = torch.eye(4), torch.tensor([0, 1, 2, 0])
    assert error(torch.nn.Identity(), x, y) == 25.0
    setting = {"epochs": 2, "batch_size": 8, "lr": 0.1}
    made = recipe(setting, 3, frozen=("fc1.weight",))
    assert (made.frozen, made.order_seed, made.optimizer) == (("fc1.weight",), 1003, "rmsprop")

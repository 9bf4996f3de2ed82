"""Bias, variance and scaling of updates that are random by construction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from alignlab.diagnostics.tangent_scaling import COUNTS
from alignlab.rules import BP, BRSF, DFA, USF, Applied, ForwardGradient, NodePerturbation, Noisy
from alignlab.rules import PhotonicDFA as Photonic
from alignlab.rules._function import FunctionRule
from alignlab.rules._wrapping import WrappingRule
from alignlab.snapshot import MeasuredRule
from tests.cases import Case, each_case
from tests.diagnostics.probing import probed

BOTH = ("bias-variance", "tangent-scaling")
LOSS = functional.cross_entropy


def network(n: int = 30) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, n), nn.Tanh(), nn.Linear(n, 3)).double()


def batch() -> tuple[Tensor, Tensor]:
    stream = torch.Generator().manual_seed(1)
    return torch.randn(20, 6, dtype=torch.float64, generator=stream), torch.arange(20) % 3


def gradient(model: nn.Module) -> dict[str, Tensor]:
    x, y = batch()
    names, parameters = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(LOSS(model(x), y), parameters), strict=True))


def measured(model: nn.Module, *rules: Any) -> Any:
    return probed(model, LOSS, batch(), *rules, diagnostics=BOTH)


class Planted:
    """An update whose mean and variance are known."""

    __name__ = "planted"

    def __init__(self, means: Mapping[str, Tensor], spread: float) -> None:
        self.means, self.spread = means, spread

    def __call__(self, _model: Any, _loss: Any, _x: Any, _y: Any, stream: Any) -> dict[str, Tensor]:
        return {
            name: mean
            + self.spread * torch.randn(mean.shape, generator=stream, dtype=torch.float64)
            for name, mean in self.means.items()
        }


@pytest.mark.parametrize("spread", [0.02, 0.3])
def test_planted_bias_and_variance_are_found_within_their_errors(spread: float) -> None:
    model = network()
    g = gradient(model)
    stream = torch.Generator().manual_seed(2)
    off = {n: 0.1 * torch.randn(p.shape, generator=stream).double() for n, p in g.items()}
    means = {n: 0.5 * p + off[n] for n, p in g.items()}
    found = measured(model, FunctionRule(Planted(means, spread))).sel(rule="planted")
    for layer in ("0", "2", ""):
        names = [name for name in g if name.startswith(layer)]
        a, b = (torch.cat([each[name].flatten() for name in names]) for each in (g, means))
        square = a.square().sum()
        scale = a @ b / square
        expected = {
            "bias_update": (b - a).square().sum() / square,
            "bias_update_best_scale": (b - scale * a).square().sum() / square,
            "best_scale_update": scale,
            "variance_update": spread**2 * len(a) / square,
        }
        suffix = "" if layer else "_network"
        here = found.sel(layer=layer) if layer else found
        for name, value in expected.items():
            error = float(here[f"{name}{suffix}_se"])
            assert abs(float(here[name + suffix]) - float(value)) < 4.0 * error, name
        share = expected["variance_update"] / (
            expected["variance_update"] + expected["bias_update_best_scale"]
        )
        assert float(here[f"variance_share_update{suffix}"]) == pytest.approx(float(share), abs=0.1)
    assert int(found["n_draws_update"]) == 32


def test_noise_on_the_gradient_is_unbiased_and_of_the_stated_size() -> None:
    rule = Noisy(rule=BP(), ratio=2.0)
    found = measured(network(), rule).sel(rule=rule.label)
    assert float(found["variance_update_network"]) == pytest.approx(4.0, rel=0.1)
    for name, expected in {"bias_update": 0.0, "best_scale_update": 1.0}.items():
        error = float(found[f"{name}_network_se"])
        assert abs(float(found[f"{name}_network"]) - expected) < 4.0 * error
    expected = 1.0 / np.sqrt(1.0 + 4.0 / np.array(COUNTS))
    np.testing.assert_allclose(found["cosine_draws_network"].values, expected, rtol=0.05)
    np.testing.assert_allclose(found["cosine_draws_rms_network"].values, expected, rtol=0.07)


def test_a_forward_gradient_follows_its_law_and_node_perturbation_searches_fewer_dimensions() -> (
    None
):
    model = network(200)
    n = sum(p.numel() for p in model.parameters())
    rules = [ForwardGradient(), NodePerturbation()]
    found = measured(model, *rules)
    whole = found.sel(rule="forward-gradient")
    assert float(whole["cosine_draws_exponent_network"]) == pytest.approx(0.5, abs=0.02)
    assert float(whole["cosine_draws_dimension_network"]) == pytest.approx(n, rel=0.8)
    assert float(whole["cosine_draws_rms_chance_network"]) == pytest.approx(n**-0.5)
    np.testing.assert_allclose(
        whole["cosine_draws_rms_network"].values, np.sqrt(np.array(COUNTS) / n), rtol=0.35
    )
    assert float(whole["noise_share_update_network"]) > 0.99
    fewer = found.sel(rule="node-perturbation")
    assert float(fewer["cosine_draws_dimension_network"]) < 0.5 * n
    assert float(fewer["cosine_draws_exponent_network"]) == pytest.approx(0.5, abs=0.05)


def test_draws_of_other_magnitudes_leave_a_bias_that_no_averaging_removes() -> None:
    found = measured(network(), BRSF(), Noisy(rule=DFA(seed=1), ratio=0.5))
    # Of the output layer the gradient is exact, of the layer below it is not.
    hidden = found.sel(rule="brsf", layer="0")
    assert float(hidden["cosine_draws_exponent"]) < 0.15
    assert float(hidden["variance_share_update"]) < 0.9
    output = found.sel(rule="brsf", layer="2")
    assert float(output["bias_update"]) == pytest.approx(0.0, abs=1e-10)
    assert float(output["variance_update"]) == pytest.approx(0.0, abs=1e-10)
    noisy = found.isel(rule=1)
    dfa = probed(network(), LOSS, batch(), DFA(seed=1), diagnostics=["weight-gradient"])
    ratio = dfa["norm_ratio_weight_gradient"].sel(layer="0").item()
    cosine = dfa["cosine_weight_gradient"].sel(layer="0").item()
    bias = ratio**2 - 2 * ratio * cosine + 1
    error = float(noisy["bias_update_se"].sel(layer="0"))
    assert float(noisy["bias_update"].sel(layer="0")) == pytest.approx(bias, abs=4 * error + 0.3)


@pytest.mark.parametrize(
    ("rule", "because"),
    [
        (DFA(seed=0), "its feedback is drawn once and then fixed"),
        (USF(), "it draws nothing in a step"),
        (BP(), "it draws nothing in a step"),
        (Noisy(rule=BP(), ratio=0.0), "does not enter these updates"),
        (Photonic(noise=0.0), "does not enter these updates"),
    ],
)
def test_rules_without_draws_say_why_they_have_no_variance(rule: Any, because: str) -> None:
    found = measured(network(), rule)
    assert "variance_update" not in found
    for name in BOTH:
        for text in found["not_defined"].sel(diagnostic=name).values:
            assert because in text


def test_updates_that_were_read_from_a_training_have_no_variance() -> None:
    model = network()
    for name, g in gradient(model).items():
        model.get_parameter(name).grad = g
    found = measured(model, Applied())
    assert "read from a training" in found["not_defined"].values[0, 0]


def test_nothing_is_said_of_feedback_that_was_drawn_for_the_analysis() -> None:
    model, rule = network(), Photonic(seed=0)
    feedback = {"0": torch.randn(3, 30, dtype=torch.float64)}
    found = measured(model, MeasuredRule(rule, feedback, "drawn"))
    assert "drawn for this analysis" in found["not_defined"].values[0, 0]


@each_case
def test_every_layer_of_every_case_has_a_reading_or_a_reason(case: Case) -> None:
    made = case.make()
    rules = [Photonic(seed=0), DFA(seed=0)]
    found = probed(made.model, made.loss, (made.x, made.y), *rules, diagnostics=BOTH)
    texts = found["not_defined"]
    for layer in found["layer"].values:
        for name, number in zip(BOTH, ("variance_update", "cosine_draws_exponent"), strict=True):
            text = str(texts.sel(diagnostic=name, layer=layer).item())
            assert "under dfa" in text
            defined = np.isfinite(found[number].sel(layer=layer, rule="photonic-dfa"))
            reasons = ("no parameter of it learns", "do not point along", "gradient is zero")
            assert bool(defined) or any(reason in text for reason in reasons)


def test_a_wrapped_rule_is_random_where_the_other_rule_is() -> None:
    from alignlab.diagnostics._draws import draws_anew
    from alignlab.rules import Quantised

    assert draws_anew(Quantised(rule=ForwardGradient()))
    assert not draws_anew(Quantised(rule=DFA()))
    assert issubclass(Quantised, WrappingRule)

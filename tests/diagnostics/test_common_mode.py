"""Common modes of a small network, against plain torch; the fault that they are there to show."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from alignlab.rules import DFA, ForwardGradient
from alignlab.snapshot import MeasuredRule
from tests.cases import CASES
from tests.diagnostics.probing import given_feedback, probed

LOSS = functional.cross_entropy
NAMES = ["common-mode"]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 3)
    ).double()


def batch() -> tuple[Tensor, Tensor]:
    stream = torch.Generator().manual_seed(1)
    return torch.randn(12, 6, generator=stream, dtype=torch.float64) + 0.5, torch.arange(12) % 3


def share(rows: Tensor) -> float:
    mean = rows.mean(0)
    return float(mean @ mean / rows.square().sum(1).mean())


def test_numbers_are_those_of_plain_torch() -> None:
    model, (x, y) = network(), batch()
    feedback = {"0": np.random.default_rng(0).normal(size=(7, 3))}
    feedback["2"] = np.random.default_rng(1).normal(size=(5, 3))
    found = probed(model, LOSS, (x, y), given_feedback(feedback), diagnostics=NAMES)
    a = model[0](x)
    h = torch.tanh(a)
    b = model[2](h)
    k = torch.relu(b)
    out = model[4](k)
    e, da, dh, db, dk = torch.autograd.grad(LOSS(out, y), [out, a, h, b, k])
    approximate = e @ torch.as_tensor(feedback["0"]).T
    for name, rows in {"input": x, "error": e}.items():
        assert found[f"common_mode_{name}"].item() == pytest.approx(share(rows))
    assert found["common_mode_chance"].item() == pytest.approx(1 / 12)
    activity = found["common_mode_activation"].values
    assert activity == pytest.approx([share(rows.detach()) for rows in (h, k, out)])
    true = found["common_mode_true_signal"].values
    expected = [[share(dh), share(da)], [share(dk), share(db)], [np.nan, share(e)]]
    np.testing.assert_allclose(true, expected)
    signal = found["common_mode_signal"].isel(rule=0, layer=0).values
    gated = approximate * (1.0 - h.detach() ** 2)
    assert signal == pytest.approx([share(approximate), share(gated)])
    debiased = found["common_mode_debiased_error"].item()
    assert debiased == pytest.approx((12 * share(e) - 1) / 11)
    unit = h.detach() / h.detach().norm(dim=1, keepdim=True)
    cosines = (unit @ unit.T)[~torch.eye(12, dtype=torch.bool)]
    assert found["pairwise_cosine_activation"].values[0] == pytest.approx(float(cosines.mean()))
    assert "not_defined" not in found


def test_an_error_that_pushes_all_samples_one_way_is_seen_and_centring_removes_it() -> None:
    x, _ = batch()
    target = torch.zeros(12, 3, dtype=torch.float64)

    def pushing(output: Tensor, aim: Tensor) -> Tensor:
        return functional.mse_loss(output + 30.0, aim)

    def centred(output: Tensor, aim: Tensor) -> Tensor:
        return functional.mse_loss(output - output.mean(0).detach(), aim)

    rule = DFA(seed=0)
    pushed = probed(network(), pushing, (x, target), rule, diagnostics=NAMES)
    level = probed(network(), centred, (x, target), rule, diagnostics=NAMES)
    assert pushed["common_mode_error"].item() > 0.99
    assert pushed["common_mode_signal"].sel(site="entry").values[0, :2].min() > 0.99
    assert level["common_mode_error"].item() < 1e-9
    assert level["common_mode_debiased_error"].item() == pytest.approx(-1 / 11)
    assert level["common_mode_signal"].sel(site="entry").values[0, :2].max() < 1e-9
    # It is the error that differs; the activations are the same.
    np.testing.assert_allclose(
        pushed["common_mode_activation"].values, level["common_mode_activation"].values
    )


def test_what_was_not_observed_is_said_so() -> None:
    drawn = given_feedback({"0": np.ones((7, 3)), "2": np.ones((5, 3))}, origin="drawn")
    updates = MeasuredRule(ForwardGradient(), {}, "training", "forward-gradient")
    found = probed(network(), LOSS, batch(), drawn, updates, diagnostics=NAMES)
    texts = found["not_defined"].sel(diagnostic="common-mode").values
    assert all("under dfa because its feedback was drawn" in text for text in texts)
    assert all("under forward-gradient because the rule yields updates" in text for text in texts)
    assert "common_mode_signal" not in found
    assert np.isfinite(found["common_mode_true_signal"].sel(site="preactivation")).all()


@pytest.mark.parametrize("name", ["residual", "positions", "reused", "two heads", "lstm"])
def test_every_layer_of_any_network_has_its_numbers(name: str) -> None:
    made = CASES[name].make()
    found = probed(made.model, made.loss, (made.x, made.y), DFA(seed=0), diagnostics=NAMES)
    assert np.isfinite(found["common_mode_activation"]).all()
    assert np.isfinite(found["common_mode_true_signal"].sel(site="preactivation")).all()
    assert np.isfinite(found["common_mode_signal"].sel(site="preactivation")).all()


def test_what_is_zero_throughout_is_undefined_and_said_so() -> None:
    model = network()
    with torch.no_grad():
        model[2].bias.fill_(-100.0)
    found = probed(model, LOSS, batch(), DFA(seed=0), diagnostics=NAMES).sel(layer="2")
    assert np.isnan(found["common_mode_activation"].item())
    assert np.isnan(found["common_mode_signal"].isel(rule=0).sel(site="preactivation").item())
    text = str(found["not_defined"].item())
    assert "(common_mode_activation)" in text
    assert "under dfa because the samples are zero (common_mode_signal)" in text

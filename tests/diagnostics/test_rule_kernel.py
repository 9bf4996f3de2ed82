"""Kernels of rules against dense Jacobians, losses that move, and their own sketch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from alignlab.diagnostics import _kernel
from alignlab.diagnostics._kernel import blocks_of, kernels
from alignlab.engine.capture import Capture
from alignlab.rules import BP, DFA, DRTP, FA, USF, ForwardGradient, Rule
from alignlab.rules._task import Task
from alignlab.snapshot import MeasuredRule, Snapshot, halves
from tests.cases import CASES, Case, each_case
from tests.diagnostics.probing import probed

LOSS = functional.cross_entropy


def network(*, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)
    ).double()


def batch(n: int = 7) -> tuple[Tensor, Tensor]:
    stream = torch.Generator().manual_seed(1)
    return torch.randn(n, 5, dtype=torch.float64, generator=stream), torch.arange(n) % 3


def snapshot_of(model: nn.Module, loss: Any, x: Tensor, y: Tensor, *rules: Rule) -> Snapshot:
    capture = Capture(model, loss, x, y)
    true = capture.reference(parameters=True)
    measured = tuple(
        MeasuredRule(rule, rule.start(capture, seed=3), "checkpoint") for rule in rules
    )
    passes = {each.label: each.updates(Task(capture, true)) for each in measured}
    return Snapshot(
        *(capture, loss, x, y, true, passes, measured, halves(len(x), seed=0)), seed=0, draws=32
    )


def dense(model: nn.Sequential, x: Tensor, feedback: dict[str, Tensor] | None) -> dict[str, Tensor]:
    """Return the Jacobian of every output in weight and bias of every layer, one row each.

    With feedback the signals enter through it, as direct feedback alignment has it.
    """
    rows: dict[str, list[Tensor]] = {"0": [], "2": [], "4": []}
    for sample in x:
        h1 = torch.tanh(model[0](sample))
        a2 = model[2](h1)
        h2 = torch.relu(a2)
        for c in range(3):
            e = torch.eye(3, dtype=torch.float64)[c]
            at2 = model[4].weight.T @ e if feedback is None else feedback["2"].T @ e
            d2 = at2 * (a2 > 0)
            at1 = model[2].weight.T @ d2 if feedback is None else feedback["0"].T @ e
            d1 = at1 * (1 - h1**2)
            for name, signal, h in (("0", d1, sample), ("2", d2, h1), ("4", e, h2)):
                weight = torch.outer(signal, h).flatten()
                rows[name].append(torch.cat([weight, signal]).detach())
    return {name: torch.stack(each) for name, each in rows.items()}


def test_kernels_are_products_of_dense_jacobians() -> None:
    model, (x, y) = network(), batch()
    snapshot = snapshot_of(model, LOSS, x, y, BP(), DFA())
    found = kernels(snapshot)
    true = dense(model, x, None)
    whole = torch.autograd.functional.jacobian(
        lambda w: torch.func.functional_call(model, {"0.weight": w}, (x,)), model[0].weight
    )
    torch.testing.assert_close(true["0"][:, :30], whole.reshape(21, -1).detach())
    feedback = {name: b.double() for name, b in snapshot.rules[1].feedback.items()}
    pseudo = dense(model, x, feedback)
    for name, rows in true.items():
        torch.testing.assert_close(found.truth.blocks[name], rows @ rows.T)
        torch.testing.assert_close(found.rules["bp"].blocks[name], rows @ rows.T)
        torch.testing.assert_close(found.rules["dfa"].blocks[name], rows @ pseudo[name].T)


@pytest.mark.parametrize("rule", [DFA(), FA(), USF()])
@pytest.mark.parametrize(
    "name", ["conv2d, grouped", "conv2d, transposed", "positions", "residual", "layer norm"]
)
def test_any_two_errors_give_the_product_of_gradient_and_update(name: str, rule: Rule) -> None:
    case = CASES[name]
    made = case.make(dtype=torch.float64, n_samples=4)
    model, x = made.model.eval(), made.x
    shape = model(x).shape
    stream = torch.Generator().manual_seed(5)
    one, other = (torch.randn(shape, dtype=torch.float64, generator=stream) for _ in range(2))

    def along(output: Tensor, weights: Tensor) -> Tensor:
        return (output * weights).sum()

    first = snapshot_of(model, along, x, one, rule)
    found = kernels(first)
    assert found.because == ""
    second = snapshot_of(model, along, x, other, rule)
    update = first.rules[0].updates(second.task).parameters
    for layer, block in found.rules[rule.label].blocks.items():
        product = sum(
            float((first.true.parameters[n] * update[n]).sum())
            for n in update
            if n.rpartition(".")[0] == layer
        )
        assert float(one.flatten() @ block @ other.flatten()) == pytest.approx(product, rel=1e-9)


def test_the_rate_of_the_loss_is_how_the_loss_moves() -> None:
    model, (x, y) = network(), batch()
    found = probed(model, LOSS, (x, y), DFA(seed=3), diagnostics=["rule-kernel"]).isel(rule=0)
    snapshot = snapshot_of(model, LOSS, x, y, DFA())
    updates = snapshot.passes["dfa"].parameters
    error = snapshot.error.flatten()
    blocks = kernels(snapshot).rules["dfa"].blocks
    total = 0.0
    for layer in ("0", "2", "4"):
        rate = float(found["kernel_loss_rate"].sel(layer=layer))
        assert rate == pytest.approx(-float(error @ blocks[layer] @ error))
        step = 1e-6
        losses = [
            float(snapshot.capture.evaluate(
                {
                    name: p.detach() - side * step * updates[name]
                    for name, p in model.named_parameters()
                    if name.startswith(layer)
                },
                precision=torch.float64,
            ))
            for side in (1, -1)
        ]  # fmt: skip
        assert rate == pytest.approx((losses[0] - losses[1]) / (2 * step), rel=1e-5)
        total += rate
    share = float(found["kernel_loss_rate_hidden_share"])
    output = float(found["kernel_loss_rate"].sel(layer="4"))
    assert share == pytest.approx(1.0 - output / total)
    true = float(found["kernel_loss_rate_true"].sel(layer="0"))
    square = sum(
        float(snapshot.true.parameters[f"0.{n}"].square().sum()) for n in ("weight", "bias")
    )
    assert true == pytest.approx(-square)


def test_numbers_of_the_kernels_are_numpys() -> None:
    model, (x, y) = network(), batch()
    found = probed(model, LOSS, (x, y), DFA(seed=3), BP(), diagnostics=["rule-kernel"])
    snapshot = snapshot_of(model, LOSS, x, y, DFA())
    exact = kernels(snapshot)
    centre = np.kron(np.eye(7) - 1 / 7, np.eye(3))
    targets = np.eye(3)[y.numpy()]
    targets = (targets - targets.mean(0)).flatten()
    parts = {name: block.numpy() for name, block in exact.rules["dfa"].blocks.items()}
    truth = {name: block.numpy() for name, block in exact.truth.blocks.items()}
    here = found.sel(rule="dfa")
    for layer, block in parts.items():
        own, true = centre @ block @ centre, centre @ truth[layer] @ centre
        cosine = (own * true).sum() / np.linalg.norm(own) / np.linalg.norm(true)
        assert float(here["cosine_rule_kernel"].sel(layer=layer)) == pytest.approx(cosine)
        values = np.linalg.eigvalsh((block + block.T) / 2)
        expected = values[0] / np.abs(values).max()
        assert float(here["rule_kernel_smallest"].sel(layer=layer)) == pytest.approx(
            expected, abs=1e-9
        )
        along = targets @ own @ targets / np.linalg.norm(own) / (targets @ targets)
        assert float(here["kernel_target_alignment"].sel(layer=layer)) == pytest.approx(along)
        along = targets @ true @ targets / np.linalg.norm(true) / (targets @ targets)
        assert float(found["kernel_target_alignment_true"].sel(layer=layer)) == pytest.approx(along)
    assert str(here["cosine_rule_kernel_status"].sel(layer="4").item()) == "exact"
    whole = sum(parts.values())
    values = np.linalg.eigvalsh((whole + whole.T) / 2)
    assert float(here["rule_kernel_smallest_network"]) == pytest.approx(
        values[0] / np.abs(values).max()
    )
    exact_rule = found.sel(rule="bp")
    np.testing.assert_allclose(exact_rule["cosine_rule_kernel"].values, 1.0)
    assert float(exact_rule["rule_kernel_smallest_network"]) > -1e-9
    assert str(found["rule_kernel_method"].values[0]) == "exact"


def test_hidden_kernels_of_fresh_feedback_have_no_sign() -> None:
    values, p, smallest = [], [], []
    for seed in range(12):
        model = network(seed=seed)
        measured = probed(
            model, LOSS, batch(12), DFA(seed=seed + 100), diagnostics=["rule-kernel"]
        ).sel(rule="dfa", layer="0")
        values.append(float(measured["cosine_rule_kernel"]))
        p.append(float(measured["cosine_rule_kernel_p"]))
        smallest.append(float(measured["rule_kernel_smallest"]))
        assert str(measured["cosine_rule_kernel_null_kind"].item()) == "feedback_draw"
    assert abs(np.mean(values)) < 4.0 * np.std(values) / 12**0.5
    assert 0.2 < np.mean(p) < 0.8
    assert np.mean(smallest) < -0.5


def test_feedback_of_the_forward_path_has_the_tangent_kernel() -> None:
    model, (x, y) = network(), batch()
    path = model[4].weight.detach()
    given = MeasuredRule(DFA(), {"0": torch.zeros(3, 6).double(), "2": path}, "checkpoint")
    found = probed(model, LOSS, (x, y), given, diagnostics=["rule-kernel"]).sel(rule="dfa")
    assert float(found["cosine_rule_kernel"].sel(layer="2")) == pytest.approx(1.0)
    # Of feedback that is zero there is no kernel.
    assert np.isnan(found["cosine_rule_kernel"].sel(layer="0"))
    assert str(found["cosine_rule_kernel_status"].sel(layer="0").item()) == "undefined"
    assert "its kernel is zero" in str(found["not_defined"].sel(layer="0").values)


@pytest.mark.parametrize("rule", [DFA(seed=3), FA(seed=3)])
def test_a_sketch_agrees_with_the_exact_kernels(
    rule: Rule, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = network(), batch(12)
    exact = probed(model, LOSS, data, rule, diagnostics=["rule-kernel"]).isel(rule=0)
    monkeypatch.setattr(_kernel, "LARGEST", 1)
    found = probed(model, LOSS, data, rule, diagnostics=["rule-kernel"]).isel(rule=0)
    assert str(found["rule_kernel_method"].item()) == "sketch"
    assert "rule_kernel_smallest" not in found
    assert "eigenvalues need exact kernels" in str(found["not_defined"].values)
    for layer in ("0", "2"):
        error = float(found["cosine_rule_kernel_se"].sel(layer=layer))
        gap = found["cosine_rule_kernel"] - exact["cosine_rule_kernel"]
        assert abs(float(gap.sel(layer=layer))) < 4.0 * error + 0.02
        assert str(found["cosine_rule_kernel_status"].sel(layer=layer).item()) == "undecidable"
    gap = found["kernel_target_alignment"] / exact["kernel_target_alignment"]
    np.testing.assert_allclose(gap.values, 1.0, atol=0.7)
    np.testing.assert_allclose(found["kernel_loss_rate"], exact["kernel_loss_rate"])


def test_the_sketch_of_backpropagation_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_kernel, "LARGEST", 1)
    found = probed(network(), LOSS, batch(), BP(), diagnostics=["rule-kernel"])
    np.testing.assert_allclose(found["cosine_rule_kernel"].values, 1.0)


def test_rules_that_are_no_linear_map_say_so() -> None:
    rules = [DRTP(seed=0), DFA(seed=0, error="sign"), ForwardGradient()]
    found = probed(network(), LOSS, batch(), *rules, diagnostics=["rule-kernel"])
    text = str(found["not_defined"].values[0, 0])
    assert text.count("is not linear in the output's error") == 2
    assert "under forward-gradient because it is no linear map" in text
    assert np.isfinite(found["kernel_loss_rate"].values).all()


def test_nothing_is_said_of_feedback_that_was_drawn_for_the_analysis() -> None:
    model = network()
    given = MeasuredRule(DFA(), {"0": torch.ones(3, 6), "2": torch.ones(3, 4)}, "drawn")
    found = probed(model, LOSS, batch(), given, diagnostics=["rule-kernel"])
    assert "cosine_rule_kernel" not in found
    assert "kernel_loss_rate" not in found
    assert "drawn for this analysis" in str(found["not_defined"].values)


@each_case
def test_every_layer_of_every_case_has_a_kernel_or_a_reason(case: Case) -> None:
    made = case.make()
    found = probed(
        made.model, made.loss, (made.x, made.y), DFA(seed=0), diagnostics=["rule-kernel"]
    ).sel(rule="dfa")
    for layer in found["layer"].values:
        text = ""
        if "not_defined" in found:
            text = str(found["not_defined"].sel(layer=layer).values)
        defined = "cosine_rule_kernel" in found and bool(
            np.isfinite(found["cosine_rule_kernel"].sel(layer=layer))
        )
        assert defined or "because" in text
        if "several layers" not in text and "elsewhere" not in text and "no parameter" not in text:
            assert defined, text


def test_a_redraw_is_a_kernel_of_other_feedback() -> None:
    snapshot = snapshot_of(network(), LOSS, *batch(), DFA())
    exact = kernels(snapshot)
    (redrawn,) = snapshot.redrawn(snapshot.rules[0], 1)
    other = blocks_of(snapshot, exact.truth, redrawn)
    own = exact.rules["dfa"].blocks
    assert not torch.allclose(own["0"], other["0"])
    torch.testing.assert_close(own["4"], other["4"])

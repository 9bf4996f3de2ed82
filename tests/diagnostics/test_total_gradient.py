"""Cosines of the whole network, against gradients that are stacked by hand."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor, nn
from torch.nn import functional

from alignlab.engine.capture import Capture
from alignlab.rules import BP, DFA, FA, USF, ForwardGradient, FunctionRule
from alignlab.rules._base import Rule
from alignlab.rules._task import Task
from alignlab.snapshot import MeasuredRule
from tests.cases import CASES, Batch, Case, each_case
from tests.diagnostics.probing import probed

NAMES = ["tanh", "conv1d, strided", "batch norm of maps", "residual", "reused", "tied", "frozen"]


def measured(batch: Batch, *rules: Rule, draws: int = 32) -> xr.Dataset:
    given = batch.model, batch.loss, (batch.x, batch.y)
    return probed(*given, *rules, diagnostics=["total-gradient"], draws=draws)


def cosine(first: list[Tensor], second: list[Tensor]) -> Tensor:
    """Return the cosine over the last axis of what is joined there."""
    a, b = torch.cat(first, -1).double(), torch.cat(second, -1).double()
    return (a * b).sum(-1) / a.norm(dim=-1) / b.norm(dim=-1)


@pytest.mark.parametrize("rule", [DFA(seed=0), FA(seed=0)], ids=["dfa", "fa"])
@pytest.mark.parametrize("name", NAMES)
def test_numbers_are_those_of_stacked_gradients(name: str, rule: Rule) -> None:
    batch = CASES[name].make(n_samples=24)
    found = measured(batch, rule).isel(rule=0)
    batch = CASES[name].make(n_samples=24)
    capture = Capture(batch.model, batch.loss, batch.x, batch.y)
    true = capture.reference(parameters=True)
    updates = rule.updates(Task(capture, true), rule.start(capture, seed=0))
    hidden = [layer for layer in capture.layers if not layer.is_output]
    modules = {layer.module for layer in hidden}
    own = [n for n in true.parameters if n.rpartition(".")[0] in modules]
    sides = [[each.parameters[n].flatten() for n in own] for each in (true, updates)]
    assert found["cosine_hidden_gradient"].item() == pytest.approx(cosine(*sides).item(), abs=1e-5)
    angle = np.degrees(np.arccos(cosine(*sides).item()))
    assert found["angle_hidden_gradient"].item() == pytest.approx(angle, abs=1e-2)
    every = [[each.parameters[n].flatten() for n in true.parameters] for each in (true, updates)]
    assert found["cosine_total_gradient"].item() == pytest.approx(cosine(*every).item(), abs=1e-5)
    product, energy = (every[0], every[1]), torch.cat(every[1]).double().square().sum()
    total = (torch.cat(product[0]).double() * torch.cat(product[1]).double()).sum()
    assert found["inner_product_total_gradient"].item() == pytest.approx(total.item(), rel=1e-4)
    assert found["squared_norm_total_gradient"].item() == pytest.approx(energy.item(), rel=1e-4)
    for site in ("entry", "preactivation"):
        places = {k.consumer if site == "entry" else k.name: k.name for k in hidden}
        rows = [
            [getattr(each, site)[n].flatten(1) for n in places.values()] for each in (true, updates)
        ]
        expected = cosine(*rows).nanmean().item()
        shown = found["cosine_total_error_signal"].sel(site=site).item()
        assert shown == pytest.approx(expected, abs=1e-5)


@each_case
def test_every_network_has_numbers_or_a_reason(case: Case) -> None:
    found = measured(case.make(), BP(), DFA())
    assert found["cosine_total_gradient"].sel(rule="bp").item() == pytest.approx(1.0, abs=1e-6)
    status = str(found["cosine_hidden_gradient_status"].sel(rule="dfa").item())
    assert status in {"undecidable", "at chance", "detectable", "useful", "opposed", "undefined"}
    assert np.isfinite(found["cosine_total_error_signal_null_sd"].sel(rule="dfa")).all()


def by_hand(batch: Batch, *, seeds: range) -> Iterator[tuple[float, float, float]]:
    """Yield for fresh feedback the cosines of hidden gradients, signals and all parameters."""
    capture = Capture(batch.model, batch.loss, batch.x, batch.y)
    true = capture.reference(parameters=True)
    task, output = Task(capture, true), capture.layout.outputs[0].module
    hidden = [layer.name for layer in capture.layers if not layer.is_output]
    for seed in seeds:
        found = DFA().updates(task, DFA().start(capture, seed=seed))
        rows = [[each.preactivation[n].flatten(1) for n in hidden] for each in (true, found)]
        every = [dict(each.parameters) for each in (true, found)]
        total = cosine(*([p.flatten() for p in each.values()] for each in every)).item()
        below = [
            [p.flatten() for n, p in each.items() if not n.startswith(output)] for each in every
        ]
        yield cosine(*below).item(), cosine(*rows).mean().item(), total


def test_the_null_is_that_of_fresh_feedback() -> None:
    batch = CASES["tanh"].make(n_samples=40)
    found = measured(batch, DFA(seed=0), draws=400).isel(rule=0)
    fresh = np.array(list(by_hand(CASES["tanh"].make(n_samples=40), seeds=range(400))))
    sds = [
        found["cosine_hidden_gradient_null_sd"].item(),
        found["cosine_total_error_signal_null_sd"].sel(site="preactivation").item(),
    ]
    # A standard deviation of 400 draws is known within 3.5%; four of both.
    assert fresh[:, :2].std(0) == pytest.approx(sds, rel=0.2)
    assert (np.abs(fresh[:, :2].mean(0)) < 4 * np.array(sds) / 20).all()


def test_all_parameters_are_carried_by_the_exact_output_layer() -> None:
    """At untrained weights the total is at its expectation, which is far above zero."""
    found = measured(CASES["tanh"].make(n_samples=60), DFA(seed=0)).isel(rule=0)
    fresh = np.array(list(by_hand(CASES["tanh"].make(n_samples=60), seeds=range(200))))[:, 2]
    expected = found["cosine_total_gradient_chance"].item()
    assert expected > 0.3
    # The norm of the update differs from draw to draw, which makes it an expectation to first
    # order alone.
    assert fresh.mean() == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize("rule", [USF(), ForwardGradient(seed=0)], ids=["usf", "forward"])
def test_rules_without_feedback_and_with_updates_alone_have_a_null(rule: Rule) -> None:
    found = measured(CASES["tanh"].make(n_samples=40), rule).isel(rule=0)
    assert np.isfinite(found["cosine_hidden_gradient_p"].item())
    kind = str(found["cosine_hidden_gradient_null_kind"].item())
    assert kind == ("rule_draw" if isinstance(rule, USF) else "output_rotation")
    assert ("cosine_total_error_signal" in found) == isinstance(rule, USF)


def test_the_rotation_null_has_its_closed_form() -> None:
    r"""Check :math:`\sum_l \|\hat g_l g_l^T\|^2/n_l` over the norms: layers turn by themselves."""
    batch = CASES["tanh"].make(n_samples=40)

    def noisy(
        model: nn.Module, loss: object, x: Tensor, y: Tensor, stream: torch.Generator
    ) -> dict[str, Tensor]:
        return {n: torch.randn(p.shape, generator=stream) for n, p in model.named_parameters()}

    rule = FunctionRule(noisy, "noise")
    found = measured(batch, rule, draws=400).isel(rule=0)
    batch = CASES["tanh"].make(n_samples=40)
    capture = Capture(batch.model, batch.loss, batch.x, batch.y)
    true = capture.reference(parameters=True)
    updates = rule.updates(Task(capture, true), {}).parameters
    variance = norms = 0.0
    sizes = [0.0, 0.0]
    for layer in ("0", "2"):
        g, other = (
            torch.cat([each[f"{layer}.weight"], each[f"{layer}.bias"][:, None]], 1).double()
            for each in (true.parameters, updates)
        )
        variance += ((other @ g.T).norm() ** 2 / len(g)).item()
        sizes = [a + t.square().sum().item() for a, t in zip(sizes, (g, other), strict=True)]
    norms = (sizes[0] * sizes[1]) ** 0.5
    assert found["cosine_hidden_gradient_null_sd"].item() == pytest.approx(
        variance**0.5 / norms, rel=0.15
    )


def test_drawn_feedback_shows_a_chance_level_and_no_cosine() -> None:
    batch = CASES["tanh"].make(n_samples=40)
    capture = Capture(batch.model, batch.loss, batch.x, batch.y)
    rule = MeasuredRule(DFA(), DFA().start(capture, seed=0), "drawn")
    found = measured(batch, rule).isel(rule=0)
    assert str(found["cosine_hidden_gradient_status"].item()) == "null draw"
    assert np.isnan(found["cosine_hidden_gradient"].item())
    assert "cosine_total_gradient" not in found
    assert "angle_hidden_gradient" not in found


def test_a_network_whose_hidden_layers_are_frozen_has_a_reason() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    model[0].requires_grad_(False)
    loss = functional.cross_entropy
    x = torch.randn(20, 6, requires_grad=True)
    found = probed(model, loss, (x, torch.arange(20) % 3), BP(), diagnostics=["total-gradient"])
    assert "no weight or bias of a hidden layer learns" in str(found["not_defined"].values)
    assert "cosine_hidden_gradient" not in found

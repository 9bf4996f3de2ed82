"""What makes a measurement believable, and what is said where it is not."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from alignlab.rules import BP, DFA, FA, USF
from alignlab.snapshot import MeasuredRule
from tests.cases import CASES, Batch
from tests.diagnostics.probing import probed
from tests.oracles.signals import signals


def checked(batch: Batch, *rules: Any) -> Any:
    return probed(
        *(batch.model, batch.loss, (batch.x, batch.y), *rules),
        diagnostics=["validity", "loss-change"],
    )


@pytest.mark.parametrize("name", ["tanh", "conv2d, grouped", "dropout", "batch norm, training"])
def test_the_reference_has_the_norm_of_the_signal_far_above_its_rounding(name: str) -> None:
    batch = CASES[name].make()
    found = checked(batch, DFA())
    expected = signals(batch).preactivation
    for layer in found["layer"].values:
        here = found.sel(layer=layer)
        assert float(here["reference_norm"]) == pytest.approx(float(expected[layer].norm()))
        assert float(here["self_cosine"]) == pytest.approx(1.0, abs=1e-12)
        change = float(here["reference_float64_change"])
        assert 0.0 <= change < 1e-9
        assert 1e5 < float(here["reference_floor_ratio"]) < 1e9
    assert found["reference_check_error"] < 1e-3
    assert found["measurement_status"].item() == "valid"


def test_in_float64_nothing_is_lost() -> None:
    plain = CASES["tanh"].make()
    batch = Batch(plain.model.double(), plain.loss, plain.x.double(), plain.y.double())
    found = checked(batch)
    assert (found["reference_float64_change"] < 1e-15).all()
    assert (found["reference_floor_ratio"] > 1e15).all()


def test_a_model_that_keeps_what_it_computed_is_measured_without_float64() -> None:
    batch = CASES["tanh"].make()
    batch.model.register_forward_hook(lambda module, _, output: setattr(module, "kept", output))
    batch.model(batch.x)
    found = checked(batch, DFA())
    assert found["measurement_status"].item() == "valid"
    assert "reference_float64_change" not in found


class Detached(nn.Module):
    """Its gradient leaves out the path through the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 7), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x))
        return self.last(h - 3.0 * h.detach().mean(0))


class Restless(nn.Module):
    """Draws from a stream of its own, which nobody can set back."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 7), nn.Linear(7, 3)
        self.stream = [torch.Generator().manual_seed(0)]

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x))
        return self.last(h * torch.rand(h.shape, generator=self.stream[0]))

    def __deepcopy__(self, _: Any) -> Restless:
        return Restless()


def batch_of(model: nn.Module, loss: Any = functional.cross_entropy) -> Batch:
    torch.manual_seed(0)
    return Batch(model, loss, torch.randn(8, 6), torch.arange(8) % 3)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (batch_of(Detached()), "a central difference of the loss contradicts it"),
        (batch_of(Restless()), "at first it does not repeat itself"),
        (
            batch_of(CASES["tanh"].make().model, lambda o, _: 1e-44 * o.square().mean()),
            "the true signal at 0 ",
        ),
    ],
)
def test_a_reference_that_cannot_be_believed_says_why(batch: Batch, message: str) -> None:
    status = checked(batch)["measurement_status"].item()
    assert status.startswith("reference invalid: ")
    assert message in status


def test_feedback_that_does_not_act_is_found() -> None:
    batch = CASES["tanh"].make()
    acting, idle = checked(batch, DFA(), FA()), checked(batch, DFA(scale=0.0))
    hidden = acting["feedback_sensitivity"].isel(layer=slice(0, 2))
    assert (hidden > 0.1).all()
    assert acting["measurement_status"].item() == "valid"
    assert "other feedback changes nothing at dfa(scale=0.0) 0" in idle["measurement_status"].item()


def moved(batch: Batch, update: dict[str, Tensor], step: float) -> float:
    """Return the loss after a step of a length along an update, in float64."""
    model = copy.deepcopy(batch.model).double()
    size = torch.stack([u.double().norm() for u in update.values()]).norm()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.sub_(step * update[name].double() / size)
        target = batch.y.double() if batch.y.is_floating_point() else batch.y
        return float(batch.loss(model(batch.x.double()), target))


@pytest.mark.parametrize("name", ["tanh", "conv2d, grouped", "layer norm"])
def test_loss_changes_are_those_of_steps_of_one_length(name: str) -> None:
    batch = CASES[name].make()
    found = checked(batch, BP(), DFA(), FA(), USF())
    true = signals(batch).parameters
    loss = moved(batch, true, 0.0)
    norm = float(torch.stack([g.double().norm() for g in true.values()]).norm())
    length = 1e-3 * loss / norm
    assert float(found["loss_change_step_true"]) == pytest.approx(length, rel=1e-5)
    assert float(found["loss_change_first_order_true"]) == pytest.approx(-1e-3 * loss, rel=1e-5)
    actual = moved(batch, true, length) - loss
    assert float(found["loss_change_actual_true"]) == pytest.approx(actual, rel=1e-4)
    assert float(found["loss_change_ratio_true"]) == pytest.approx(1.0, abs=0.1)
    steps = found["loss_change_step"].values
    np.testing.assert_allclose(steps, length, rtol=1e-5)
    own = found.sel(rule="bp")
    for key in ("first_order", "actual", "ratio"):
        expected = float(found[f"loss_change_{key}_true"])
        assert float(own[f"loss_change_{key}"]) == pytest.approx(expected, rel=1e-6)
    others = found["loss_change_first_order"].sel(rule=["dfa", "fa", "usf"])
    assert (others >= own["loss_change_first_order"]).all()


def test_steps_against_the_gradient_raise_the_loss() -> None:
    batch = CASES["tanh"].make()
    weights = {n: m.weight.detach() for n, m in batch.model.named_modules() if n in ("2", "4")}
    against = {"0": torch.zeros(7, 6), "2": weights["2"], "4": -weights["4"]}
    found = checked(batch, MeasuredRule(FA(), against, "checkpoint")).sel(rule="fa")
    own = checked(batch, BP()).sel(rule="bp")
    # The output layer still descends; the layers below it undo a part of that.
    assert found["loss_change_first_order"] > own["loss_change_first_order"]
    aligned = probed(
        *(batch.model, batch.loss, (batch.x, batch.y)),
        MeasuredRule(FA(), against, "checkpoint"),
        diagnostics=["error-signal"],
    )
    flat = aligned["cosine_error_signal_flat"].isel(rule=0, layer=slice(0, 2))
    np.testing.assert_allclose(flat, -1.0, atol=1e-6)

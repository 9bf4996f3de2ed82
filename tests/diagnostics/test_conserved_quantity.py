"""Drift of what feedback alignment conserves, in networks that it has trained."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor, nn
from torch.nn import functional

from alignlab.engine.capture import Capture
from alignlab.probe import Probe
from alignlab.rules import BP, DFA, FA, KP
from alignlab.rules._base import Rule
from alignlab.rules._task import Task
from alignlab.snapshot import MeasuredRule
from tests.diagnostics.probing import given_feedback, half_squared_error, linear_network, probed

NAME = "conserved-quantity"


def dense(*between: Callable[[], nn.Module]) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for n_in, n_out in ((6, 9), (9, 7)):
        layers += [nn.Linear(n_in, n_out), *(make() for make in between)]
    return nn.Sequential(*layers, nn.Linear(7, 3)).double()


def maps(*between: Callable[[], nn.Module]) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), *(make() for make in between),
        nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=1), *(make() for make in between),
        nn.Flatten(), nn.Linear(24, 3),
    ).double()  # fmt: skip


def batch(model: nn.Sequential) -> tuple[Tensor, Tensor]:
    stream = torch.Generator().manual_seed(1)
    shape = (24, 6) if isinstance(model[0], nn.Linear) else (24, 1, 4, 4)
    return torch.randn(shape, generator=stream).double(), torch.arange(24) % 3


def trained(
    model: nn.Sequential, rule: Rule, *, steps: int = 200, rate: float = 0.01, decay: float = 0.0
) -> tuple[MeasuredRule, dict[str, Tensor]]:
    """Train by a rule with plain steps, and return it and the state at the start."""
    initial = copy.deepcopy(model.state_dict())
    data = batch(model)
    state: Any = None
    for _ in range(steps):
        capture = Capture(model, functional.cross_entropy, *data)
        state = rule.start(capture, seed=0) if state is None else state
        task = Task(capture, capture.reference(parameters=True))
        updates = rule.updates(task, state)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.sub_(rate * (updates.parameters[name] + decay * parameter))
        capture.close()
    return MeasuredRule(rule, state, "training"), initial


def measured(
    model: nn.Sequential, rules: Sequence[Any], initial: dict[str, Tensor] | None
) -> xr.Dataset:
    earlier = {} if initial is None else {"initial": initial}
    with Probe(
        model, functional.cross_entropy, rules=rules, diagnostics=[NAME], draws=32, earlier=earlier
    ) as probe:
        return probe.measure(*batch(model)).isel(step=0)


@pytest.mark.parametrize("rule", [FA(), DFA(normalisation="fan-out")], ids=["fa", "dfa"])
def test_in_a_linear_network_the_matrix_is_conserved_at_every_layer(rule: Rule) -> None:
    model = dense()
    held, initial = trained(model, rule)
    found = measured(model, [held], initial).isel(rule=0, layer=slice(0, 2))
    assert (found["conserved_quantity_law"] == "matrix").all()
    assert (found["conserved_quantity_drift"] < 0.01).all()
    assert (found["conserved_quantity_drift_of_change"] < 0.03).all()
    assert (found["conserved_quantity_drift_chance"] > 0.3).all()
    # The same by hand at the top layer.
    state = held.feedback["2" if isinstance(rule, FA) else "1"]
    assert isinstance(state, Tensor)
    b = state.double()

    def parts(upper: Tensor, lower: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        product = b.T @ upper
        whole = torch.cat([lower, bias[:, None]], 1)
        return product + product.T, whole @ whole.T

    with torch.no_grad():
        one, other = parts(model[2].weight, model[1].weight, model[1].bias)
        s, p = parts(initial["2.weight"], initial["1.weight"], initial["1.bias"])
    drift = float(((one - s) - (other - p)).norm() / (one.norm() + other.norm()))
    shown = found["conserved_quantity_drift"].isel(layer=1)
    assert float(shown) == pytest.approx(drift, rel=1e-6)


@pytest.mark.parametrize("make", [dense, maps])
@pytest.mark.parametrize(
    "between", [(), (nn.ReLU,), (nn.LeakyReLU,)], ids=["none", "relu", "leaky"]
)
def test_under_feedback_alignment_every_layer_has_a_law(
    make: Callable[..., nn.Sequential], between: tuple[Callable[[], nn.Module], ...]
) -> None:
    model = make(*between)
    held, initial = trained(model, FA())
    found = measured(model, [held], initial).isel(rule=0, layer=slice(0, 2))
    assert (found["conserved_quantity_law"] == ("units" if between else "matrix")).all()
    assert (found["conserved_quantity_drift_of_change"] < 0.05).all()
    assert (found["conserved_quantity_drift_chance"] > 0.3).all()


def test_pooling_and_groups_leave_the_law_of_units() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(1, 4, 3, padding=1), nn.MaxPool2d(2), nn.ReLU()),
        *(nn.Conv2d(4, 6, 3, padding=1, groups=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1)),
        *(nn.Flatten(), nn.Linear(6, 3)),
    ).double()
    held, initial = trained(model, FA())
    found = measured(model, [held], initial).isel(rule=0, layer=slice(0, 2))
    assert (found["conserved_quantity_law"] == "units").all()
    assert (found["conserved_quantity_drift_of_change"] < 0.05).all()


def test_direct_feedback_has_a_law_below_the_output_and_says_why_not_below_gates() -> None:
    model = dense(nn.ReLU)
    held, initial = trained(model, DFA(normalisation="fan-out"))
    found = measured(model, [held], initial).isel(rule=0)
    assert found["conserved_quantity_law"].values.tolist() == ["", "units", ""]
    assert float(found["conserved_quantity_drift_of_change"].isel(layer=1)) < 0.05
    text = str(found["not_defined"].isel(layer=0).values[0])
    assert "not one matrix times that of '2'" in text


def test_smaller_steps_drift_less_and_weight_decay_breaks_the_law() -> None:
    drifts = {}
    for rate, decay in ((0.02, 0.0), (0.01, 0.0), (0.01, 0.05)):
        model = dense()
        held, initial = trained(model, FA(), steps=round(2.0 / rate), rate=rate, decay=decay)
        found = measured(model, [held], initial).isel(rule=0, layer=1)
        drifts[rate, decay] = float(found["conserved_quantity_drift_of_change"])
    assert drifts[0.02, 0.0] / drifts[0.01, 0.0] == pytest.approx(2.0, rel=0.2)
    assert drifts[0.01, 0.05] > 5.0 * drifts[0.01, 0.0]


def test_another_feedback_than_the_trainings_is_found_out() -> None:
    model = dense()
    _, initial = trained(model, FA())
    other = FA().backward_weights({n: model[int(n)].weight for n in "012"}, seed=5)
    found = measured(model, [MeasuredRule(FA(), other, "checkpoint")], initial)
    here = found.isel(rule=0, layer=slice(0, 2))
    assert (here["conserved_quantity_drift_of_change"] > 0.3).all()


def test_everything_else_says_why_it_has_no_law() -> None:
    model = dense(nn.Tanh)
    initial = model.state_dict()
    drawn = MeasuredRule(FA(), _drawn(model), "drawn", "drawn")
    found = measured(model, [FA(), BP(), KP(), drawn, DFA(error="sign")], initial)
    texts = " ".join(str(text) for text in found["not_defined"].values.ravel())
    for reason in (
        "is not positively homogeneous of each unit's own pre-activation",
        "under bp because the feedback of the rule changes with the training",
        "under kp because the feedback of the rule changes with the training",
        "under drawn because the feedback is not that of the training",
        "because hidden layers are sent something else than the error",
        "not defined for 4 because no layer lies above it",
    ):
        assert reason in texts
    assert "conserved_quantity_drift" not in found
    without = measured(dense(), [FA()], None)
    assert "the weights at which the training began are not known" in str(without["not_defined"])


def _drawn(model: nn.Sequential) -> dict[str, Tensor]:
    weights = {str(k): m.weight for k, m in enumerate(model) if isinstance(m, nn.Linear)}
    return dict(FA().backward_weights(weights, seed=3))


def test_dominance_is_the_least_descent_over_all_errors() -> None:
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=shape) for shape in ((8, 5), (6, 8), (3, 6))]
    feedback = {"0": rng.normal(size=(8, 3)), "1": rng.normal(size=(6, 3))}
    x = rng.normal(size=(20, 5))
    found = probed(
        *(linear_network(weights), half_squared_error, (x, rng.normal(size=(20, 3)))),
        *(given_feedback(feedback), BP()),
        diagnostics=[NAME],
    )
    for name, above in (("0", weights[2] @ weights[1]), ("1", weights[2])):
        product = above @ feedback[name]
        values = np.linalg.eigvalsh((product + product.T) / 2) / np.linalg.norm(product, 2)
        shown = found["alignment_dominance"].sel(rule="dfa", layer=name)
        assert float(shown) == pytest.approx(values[0])
        # It bounds the descent of every single error.
        e = rng.normal(size=(500, 3))
        descents = np.einsum("nc,cd,nd->n", e, product, e) / (e**2).sum(1)
        assert descents.min() >= values[0] * np.linalg.norm(product, 2)
        own = np.linalg.svd(above, compute_uv=False)
        shown = found["alignment_dominance"].sel(rule="bp", layer=name)
        assert float(shown) == pytest.approx((own[-1] / own[0]) ** 2)
    chance = found["alignment_dominance_chance"].sel(rule="dfa", layer=["0", "1"])
    assert (chance < 0).all()


def test_feedback_alignment_from_small_weights_dominates_by_construction() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 12, bias=False), nn.Linear(12, 3, bias=False)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1e-3)
    held, initial = trained(model, FA(), steps=400, rate=0.05)
    found = measured(model, [held], initial).isel(rule=0, layer=0)
    assert float(found["conserved_quantity_drift"]) < 0.03
    assert float(found["alignment_dominance"]) > 0.0
    assert float(found["alignment_dominance_chance"]) < 0.0

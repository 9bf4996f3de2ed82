"""Faults of other packages' measurements: here each gives the right number or a refusal."""

from __future__ import annotations

import copy
import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alignlab import Probe
from alignlab.diagnosis import answer
from alignlab.engine.capture import Capture
from alignlab.rules import BP, DFA, FA, USF
from alignlab.snapshot import MeasuredRule
from tests.peers.measuring import (
    cosines,
    gradients,
    labels,
    measured,
    network,
    same,
    vectors,
    with_feedback,
)


@pytest.mark.parametrize("scale", [1024.0, 1e-6])
def test_direct_feedback_scales_every_gradient_with_the_loss(scale: float) -> None:
    model, x = network(), vectors()
    rule = with_feedback(model, x)
    plain, scaled = gradients(model, x, rule), gradients(model, x, rule, scale)
    for name, gradient in plain.parameters.items():
        assert same(scaled.parameters[name], gradient * scale), name


@pytest.mark.parametrize("scale", [1e-6, 1e-20])
def test_cosines_do_not_move_with_the_size_of_the_gradients(scale: float) -> None:
    model, x = network(), vectors()
    expected = cosines(measured(model, x))
    small = measured(model, x, loss=lambda o, t: F.cross_entropy(o, t) * scale)
    assert cosines(small) == pytest.approx(expected, abs=1e-6)
    assert abs(expected["fc1"]) < 0.9


def test_a_signal_that_is_mostly_rounding_is_called_so() -> None:
    """Where all labels are met by far, float32 keeps nothing of one minus the probability."""
    model = network()
    with torch.no_grad():
        model.fc3.weight.mul_(3000.0)
    met = measured(
        model,
        vectors(),
        loss=lambda o, _: F.cross_entropy(o, o.argmax(1).detach()),
        diagnostics=["validity"],
    )
    status = str(met["measurement_status"].item())
    assert status.startswith("reference invalid: the true signal at"), status


def test_a_small_loss_alone_does_not_make_the_reference_invalid() -> None:
    small = measured(
        network(),
        vectors(),
        loss=lambda o, t: F.cross_entropy(o, t) * 1e-9,
        diagnostics=["validity"],
    )
    assert str(small["measurement_status"].item()) == "valid"


def test_a_dead_layer_has_no_cosine_and_counts_its_samples() -> None:
    model, x = network(), vectors()
    with torch.no_grad():
        model.fc1.bias.fill_(-100.0)
    found = measured(model, x).isel(rule=0).sel(layer="fc1", site="preactivation")
    assert math.isnan(float(found["cosine_error_signal"]))
    assert float(found["cosine_error_signal_n_undefined"]) == len(x)
    assert str(found["cosine_error_signal_status"].item()) == "undefined"


def test_samples_with_a_dead_layer_are_left_out_of_the_mean() -> None:
    model, x = network(), vectors()
    with torch.no_grad():
        model.fc1.weight.copy_(model.fc1.weight.abs())
        model.fc1.bias.zero_()
        x[:5] = -x[:5].abs()
        x[5:] = x[5:].abs()
    rule = with_feedback(model, x)
    found = measured(model, x, rules=[rule]).isel(rule=0).sel(layer="fc1", site="preactivation")
    true = gradients(model, x, MeasuredRule(BP(), dict(weights(model)), "checkpoint"))
    signals = (gradients(model, x, rule).preactivation["fc1"], true.preactivation["fc1"])
    alive = F.cosine_similarity(*(s[5:].double() for s in signals), dim=1, eps=0.0).mean()
    assert float(found["cosine_error_signal_n_undefined"]) == 5
    assert float(found["cosine_error_signal"]) == pytest.approx(float(alive), abs=1e-6)


def weights(model: nn.Module) -> dict[str, Tensor]:
    found = model.state_dict()
    return {n.removesuffix(".weight"): v for n, v in found.items() if n.endswith(".weight")}


def test_the_output_layer_is_exactly_one_and_in_no_finding() -> None:
    recording = Probe(
        network(), F.cross_entropy, rules=[DFA()], diagnostics=["error-signal"], draws=32
    ).measure(vectors(), labels(24))
    assert cosines(recording.isel(step=0))["fc3"] == pytest.approx(1.0, abs=1e-12)
    assert set(recording["cosine_error_signal"].dims) == {"step", "rule", "layer", "site"}
    assert {finding.layer for finding in answer(recording).findings} == {"fc1", "fc2"}


@pytest.mark.parametrize("rule", [DFA(), FA(), USF()], ids=lambda r: r.name)
def test_dropout_masks_are_shared_with_the_reference(rule: Any) -> None:
    model = network(norm=nn.Dropout(0.5), act2=nn.Dropout(0.5)).train()
    assert cosines(measured(model, vectors(), rules=[rule]))["fc3"] == pytest.approx(1.0, abs=1e-12)
    against_itself = cosines(measured(model, vectors(), rules=[BP()]))
    assert list(against_itself.values()) == pytest.approx([1.0] * 3, abs=1e-9)


def test_measuring_in_training_mode_leaves_statistics_gradients_and_generators_alone() -> None:
    model, x = network(norm=nn.BatchNorm1d(12), act2=nn.Dropout(0.5)).train(), vectors()
    F.cross_entropy(model(x), labels(24)).backward()
    before = copy.deepcopy(model.state_dict())
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    torch_state, python_state = torch.get_rng_state(), random.getstate()
    numpy_state = np.random.get_state()[1].copy()  # noqa: NPY002
    Probe(model, F.cross_entropy, rules=[DFA(), FA()], draws=32).measure(x, labels(24))
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    named = dict(model.named_parameters())
    assert len(grads) == len(named)
    assert all(torch.equal(named[name].grad, value) for name, value in grads.items())
    assert model.training
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert random.getstate() == python_state
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


@pytest.mark.parametrize("shared", [False, True])
def test_layers_of_equal_width_share_feedback_only_where_it_is_asked_for(shared: bool) -> None:
    capture = Capture(network(), F.cross_entropy, vectors(), labels(24))
    rule = DFA(shared=shared)
    drawn = rule.draw(capture.injection_layers("micro"), capture.n_errors, seed=0)
    capture.close()
    assert drawn["fc1"].shape == drawn["fc2"].shape
    assert torch.equal(drawn["fc1"], drawn["fc2"]) is shared


def test_a_model_that_has_run_before_is_measured_alike_again_and_again() -> None:
    model, x = network(), vectors()
    first = cosines(measured(model, x))
    for _ in range(2):
        F.cross_entropy(model(x), labels(24)).backward()
        assert cosines(measured(model, x)) == first

"""Networks, scale of the error and measure of alignment, as the work's code has them."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from alignlab.engine.capture import Capture
from alignlab.experiments import Work
from alignlab.experiments.launay2019._convolutions import CIFAR_MAPS, DIGITS_MAPS, sizes
from alignlab.experiments.launay2019._networks import dense, drawn, pooled
from alignlab.experiments.launay2019._setting import DIGITS, Images, images, rule
from alignlab.experiments.launay2019._training import (
    alignment,
    errors,
    mean_cosine,
    mixed_alignment,
    signals,
    trained,
)
from alignlab.rules import Task
from alignlab.snapshot import MeasuredRule

SMALL: dict[str, Any] = {**DIGITS, "widths": (24, 24, 24), "epochs": 1}


@pytest.fixture
def data() -> Images:
    return images("digits", "cpu")


def measured_on(network: nn.Module, data: Images, work: Work) -> MeasuredRule:
    return trained(network, rule(SMALL, seed=0), data, SMALL, work, seed=0)


@pytest.mark.parametrize(
    ("setting", "entries"),
    [
        pytest.param(CIFAR_MAPS, (7200, 3136, 576, 128), id="cifar10"),
        pytest.param(DIGITS_MAPS, (256, 128, 64), id="digits"),
    ],
)
def test_every_hidden_layer_has_a_feedback_point_of_its_size(
    setting: MappingProxyType[str, Any], entries: tuple[int, ...]
) -> None:
    shape = sizes(setting)
    assert shape.entries == entries
    channels, edge = shape.shape
    network = drawn(lambda: pooled(shape), seed=0)
    capture = Capture(
        network,
        F.cross_entropy,
        torch.randn(2, channels, edge, edge),
        torch.ones(2, dtype=torch.long),
    )
    try:
        state = rule(setting, seed=0).start(capture, seed=0)
        assert tuple(one[0].numel() for one in state.values()) == entries
        assert len(state) == len(capture.layers) - 1
    finally:
        capture.close()


def test_blocks_have_the_order_of_the_code() -> None:
    network = dense(4, (5, 6), normed=True, dropout=(0.1, 0.5))
    names = ["flat", "drop0", "fc1", "drop1", "act1", "bn1", "fc2", "drop2", "act2", "bn2", "out"]
    assert [name for name, _ in network.named_children()] == names


def test_hidden_layers_learn_from_a_sum_over_the_batch_and_the_output_from_a_mean(
    data: Images,
) -> None:
    x, y = data.x[:128], data.y[:128]
    network = drawn(lambda: dense(64, (24, 24)), seed=1)
    capture = Capture(network, F.cross_entropy, x, y)
    try:
        feedback = rule(DIGITS, seed=2)
        state = feedback.start(capture, seed=feedback.seed)
        task = Task(capture, capture.reference(parameters=True))
        found = feedback.updates(task, state).parameters
    finally:
        capture.close()
    with torch.no_grad():
        h1 = torch.tanh(network.fc1(x.flatten(1)))
        h2 = torch.tanh(network.fc2(h1))
        error = network.out(h2).softmax(1) - F.one_hot(y, 10)
        unit = torch.as_tensor(state["fc2"]) / 128
        second = ((error @ unit) * (1 - h2**2)).T @ h1
    torch.testing.assert_close(found["fc2.weight"], second, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["out.weight"], error.T @ h2 / 128, rtol=1e-4, atol=1e-6)
    assert torch.equal(torch.as_tensor(state["fc1"]), torch.as_tensor(state["fc2"]))
    assert float(unit.norm()) == pytest.approx(1.0, abs=0.2)


def test_the_measure_is_the_mean_of_the_cosines_of_samples_where_feedback_enters(
    data: Images, tmp_path: Path
) -> None:
    network = drawn(lambda: dense(64, SMALL["widths"]), seed=0)
    measured = measured_on(network, data, Work(tmp_path))
    ours, true = signals(network, measured.rule, measured.feedback, data, mode="evaluation")
    by_hand = [mean_cosine(ours[name], true[name]) for name in ("fc1", "fc2", "fc3")]
    found = alignment(network, measured, data)
    np.testing.assert_allclose(found["cosine"], by_hand, atol=1e-5)
    assert (found["null_sd"] > 0).all()
    np.testing.assert_allclose(mixed_alignment(network, measured, data), by_hand, atol=1e-5)


@pytest.mark.parametrize("options", [{"normed": True}, {"dropout": (0.1, 0.5)}])
def test_modes_differ_where_there_is_norm_or_dropout_and_measuring_changes_nothing(
    options: dict[str, Any], data: Images, tmp_path: Path
) -> None:
    network = drawn(lambda: dense(64, SMALL["widths"], **options), seed=0)
    measured = measured_on(network, data, Work(tmp_path))
    before = {name: one.clone() for name, one in network.state_dict().items()}
    mixed = mixed_alignment(network, measured, data)
    matched = alignment(network, measured, data)["cosine"].values
    assert np.abs(mixed - matched).max() > 1e-3
    again = mixed_alignment(network, measured, data)
    np.testing.assert_array_equal(mixed, again)
    for name, one in network.state_dict().items():
        assert torch.equal(one, before[name]), name


def test_errors_are_percentages_of_both_splits(data: Images) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with torch.no_grad():
        network[1].weight.zero_()
        network[1].bias.copy_(torch.eye(10)[3])
    found = errors(network, data)
    assert found["test_error"] == pytest.approx(100 * float((data.y_test != 3).float().mean()))
    assert found["train_error"] == pytest.approx(100 * float((data.y != 3).float().mean()))

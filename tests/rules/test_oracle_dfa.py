"""Feedback that knows the network: the ceiling of direct feedback, and the mean Jacobian."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from alignlab import Probe
from alignlab.engine.capture import Capture
from alignlab.errors import InputError, MeasurementError
from alignlab.rules import DFA, OracleDFA, Task
from tests.cases import CASES
from tests.oracles.rules.examples import CLASSES, batch_for, dense
from tests.oracles.rules.networks import Network, backpropagation
from tests.rules.pairs import assert_same, each_net, lowers_the_loss, run

each_aim = pytest.mark.parametrize("aim", ["signal", "jacobian"])


@each_net
def test_the_fit_is_that_of_least_squares(net: Network) -> None:
    batch = batch_for(net)
    exact = backpropagation(net, batch)
    found = run(OracleDFA(), net, batch)
    error = exact.preactivation[-1]
    for matrix, signal in zip(found.feedback, exact.entry, strict=True):
        expected = np.linalg.lstsq(error, signal.reshape(len(signal), -1), rcond=1e-10)[0]
        np.testing.assert_allclose(matrix, expected, atol=1e-10)


def test_the_mean_jacobian_is_that_of_the_samples_one_by_one() -> None:
    net = dense(4, 7, 5, CLASSES)
    batch = batch_for(net)
    passed = net.forward(batch[0])
    found = run(OracleDFA(aim="jacobian"), net, batch)
    top, middle = net.layers[2].weight, net.layers[1].weight
    slopes = net.slope(passed.preactivations[1])
    np.testing.assert_allclose(found.feedback[1], top, rtol=1e-12)
    expected = np.mean([top * slope @ middle for slope in slopes], axis=0)
    np.testing.assert_allclose(found.feedback[0], expected, rtol=1e-10)


@each_aim
def test_of_a_linear_network_it_is_backpropagation(aim: str) -> None:
    net = dense(4, 7, 5, CLASSES, activation="linear")
    batch = batch_for(net, "mse")
    found = run(OracleDFA(aim=aim), net, batch, loss="mse")
    assert_same(found, backpropagation(net, batch, loss="mse"))


@each_net
@each_aim
def test_the_layer_below_the_output_has_its_true_signal(aim: str, net: Network) -> None:
    batch = batch_for(net)
    found = run(OracleDFA(aim=aim), net, batch)
    exact = backpropagation(net, batch).entry[-1]
    last = found.updates.entry[found.hidden[-1]].numpy()
    np.testing.assert_allclose(last, exact.reshape(last.shape), atol=1e-12)


def test_its_cosine_is_the_ceiling_that_reach_gives_and_no_fresh_feedback_is_above() -> None:
    torch.manual_seed(0)
    sizes = (6, 40, 30, 20, 4)
    modules: list[nn.Module] = []
    for n_in, n_out in pairwise(sizes):
        layer = nn.Linear(n_in, n_out)
        layer.weight.data *= 3.0
        modules += [layer, nn.ReLU()]
    model = nn.Sequential(*modules[:-1])
    x, y = torch.randn(200, 6), torch.arange(200) % 4
    rules = [OracleDFA(), OracleDFA(aim="jacobian"), DFA()]
    names = ["error-signal", "reach"]
    loss = functional.cross_entropy
    with Probe(model, loss, rules=rules, draws=32, diagnostics=names) as probe:
        found = probe.measure(x, y).isel(step=0).sel(site="entry")
    for layer in ("0", "2", "4"):
        ceiling = float(found["reach_in_sample"].sel(layer=layer)) ** 0.5
        cosines = found["cosine_error_signal_flat"].sel(layer=layer)
        assert float(cosines.sel(rule="oracle-dfa")) == pytest.approx(ceiling, abs=1e-5)
        others = cosines.drop_sel(rule="oracle-dfa").values
        assert others.max() <= ceiling + 1e-6
        assert float(cosines.sel(rule="oracle-dfa(aim=jacobian)")) > float(cosines.sel(rule="dfa"))
    assert ceiling == pytest.approx(1.0, abs=1e-6)
    assert 0.2 < float(found["reach_in_sample"].sel(layer="0")) < 0.99
    kinds = found["cosine_error_signal_null_kind"].sel(rule="oracle-dfa", layer="0")
    assert str(kinds.values) == "rule_draw"


@each_aim
def test_a_network_learns(aim: str) -> None:
    lowers_the_loss(OracleDFA(aim=aim))


def test_what_it_cannot_know_is_refused() -> None:
    for name, message in (("two heads", "ends in several layers"), ("residual", "one sample")):
        made = CASES[name].make()
        capture = Capture(made.model, made.loss, made.x, made.y)
        with pytest.raises(MeasurementError, match=message):
            OracleDFA(aim="jacobian").start(capture, seed=0)
        rule = OracleDFA()
        rule.updates(Task(capture, capture.reference()), rule.start(capture, seed=0))
    with pytest.raises(InputError, match="choose signal or jacobian"):
        OracleDFA(aim="hessian")


def test_a_step_gives_no_weights_to_fit() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    probe = Probe(model, functional.cross_entropy, rules=[OracleDFA()])
    with pytest.raises(MeasurementError, match=r"from the present weights.*Probe\.measure"):
        probe.observe(0)


def test_feedback_that_would_fill_the_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alignlab.rules.oracle_dfa.LARGEST", 20)
    net = dense(4, 7, 5, CLASSES)
    with pytest.raises(MeasurementError, match="36 entries of feedback for 3 errors"):
        run(OracleDFA(), net, batch_for(net))

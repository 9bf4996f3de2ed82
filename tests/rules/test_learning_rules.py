"""What holds for every rule whose feedback changes or is remembered."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alignlab import Probe
from alignlab.engine.capture import Capture
from alignlab.errors import MeasurementError
from alignlab.feedback import Feedback, decoded, digest, encoded, tensors_of
from alignlab.learner import Learner
from alignlab.recording.validation import validate
from alignlab.rules import (
    DKP,
    EBD,
    FA,
    FDFA,
    FRSF,
    KP,
    LDFA,
    PFA,
    USF,
    AlignProp,
    Applied,
    Rule,
    WeightMirror,
)
from alignlab.rules._task import Task
from alignlab.training import Recipe, save_checkpoint, train

RULES = [KP(), WeightMirror(), LDFA(rank=3), PFA(), DKP(), EBD(), FDFA(), AlignProp()]
each_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)


def network(seed: int = 0, *, maps: bool = False) -> nn.Sequential:
    torch.manual_seed(seed)
    first: list[nn.Module] = [nn.Linear(12, 24), nn.Tanh()]
    if maps:
        first = [nn.Unflatten(1, (1, 3, 4)), nn.Conv2d(1, 2, 2, padding=1), nn.Tanh(), nn.Flatten()]
        first += [nn.Linear(40, 24), nn.Tanh()]
    return nn.Sequential(*first, nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 5))


def batch() -> tuple[Tensor, Tensor]:
    stream = torch.Generator().manual_seed(1)
    return torch.randn(40, 12, generator=stream), torch.arange(40) % 5


def run(learner: Learner, steps: int, *, rate: float = 0.1) -> list[float]:
    optimizer = torch.optim.SGD(learner.model.parameters(), lr=rate)
    x, y = batch()
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        losses.append(float(learner.backward(x, y)))
        optimizer.step()
    return losses


def equal(one: Feedback, other: Feedback) -> bool:
    first, second = tensors_of(one), tensors_of(other)
    return type(one) is type(other) and all(torch.equal(first[k], second[k]) for k in first)


@each_rule
def test_the_loss_falls(rule: Rule) -> None:
    losses = run(Learner(network(), F.cross_entropy, rule), 60)
    assert losses[-1] < 0.97 * losses[0]


@each_rule
@pytest.mark.parametrize("maps", [False, True])
def test_a_learner_goes_on_from_its_state_to_the_same_bits(rule: Rule, maps: bool) -> None:
    whole = Learner(network(maps=maps), F.cross_entropy, rule)
    run(whole, 6)
    first = Learner(network(maps=maps), F.cross_entropy, rule)
    run(first, 3)
    second = Learner(network(maps=maps), F.cross_entropy, rule)
    second.model.load_state_dict(first.model.state_dict())
    second.load_state_dict(first.state_dict())
    run(second, 3)
    for one, other in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert whole.state.keys() == second.state.keys()
    assert all(equal(whole.state[name], second.state[name]) for name in whole.state)


@each_rule
def test_a_checkpoint_holds_the_whole_state(rule: Rule, tmp_path: Path) -> None:
    x, y = batch()
    model = network(maps=True)
    recipe = Recipe(epochs=2, batch_size=20)
    trained = train(model, F.cross_entropy, x=x, y=y, rule=rule, recipe=recipe)
    path = save_checkpoint(tmp_path / "net.pt", model, trained)
    held = torch.load(path, weights_only=True)["alignlab"]
    back = {name: decoded(value) for name, value in held["feedback"].items()}
    assert back.keys() == trained.feedback.keys()
    assert all(equal(back[name], one) for name, one in trained.feedback.items())
    assert digest(back) == held["feedback_sha256"]
    capture = Capture(model, F.cross_entropy, x, y)
    task = Task(capture, capture.reference())
    one, other = (rule.updates(task, state) for state in (trained.feedback, back))
    assert all(torch.equal(one.entry[name], other.entry[name]) for name in one.entry)


@each_rule
def test_updates_leave_the_state_that_they_are_given(rule: Rule) -> None:
    learner = Learner(network(), F.cross_entropy, rule)
    run(learner, 2)
    kept = {n: decoded(value) for n, value in _copied(encoded(learner.state)).items()}
    capture = Capture(learner.model, F.cross_entropy, *batch())
    rule.updates(Task(capture, capture.reference()), learner.state)
    assert kept.keys() == learner.state.keys()
    assert all(equal(kept[name], learner.state[name]) for name in kept)


def _copied(values: dict[str, object]) -> dict[str, object]:
    def copy(value: object) -> object:
        if isinstance(value, dict):
            return {k: copy(v) for k, v in value.items()}
        return value.clone() if isinstance(value, Tensor) else value

    return {name: copy(value) for name, value in values.items()}


@each_rule
def test_a_learner_is_measured_with_what_it_holds_and_a_chance_level(rule: Rule) -> None:
    learner = Learner(network(), F.cross_entropy, rule)
    run(learner, 5)
    probe = Probe(learner.model, F.cross_entropy, rules=[learner.measured()], draws=40)
    found = probe.measure(*batch())
    validate(found)
    cosines = found["cosine_error_signal"].isel(step=0, rule=0)
    assert np.isfinite(cosines.sel(site="entry", layer=["0", "2"]).values).all()
    sd = found["cosine_error_signal_null_sd"].isel(step=0, rule=0)
    assert (sd.sel(site="entry", layer=["0", "2"]).values > 0.01).all()


@pytest.mark.parametrize("rule", [r for r in RULES if r.learns], ids=lambda rule: rule.name)
def test_what_is_learned_is_not_observed_with_the_feedback_of_one_moment(rule: Rule) -> None:
    learner = Learner(network(), F.cross_entropy, rule)
    run(learner, 1)
    for given in (rule, learner.measured()):
        probe = Probe(learner.model, F.cross_entropy, rules=[given])
        with pytest.raises(MeasurementError, match=r"use Probe\.measure|by Probe\.measure"):
            probe.observe(0)
        with pytest.raises(MeasurementError, match=r"Learner\.measured.*by Probe\.measure"):
            Probe(learner.model, F.cross_entropy, rules=[Applied(), given])


def test_initial_weights_are_observed_only_where_they_are_given() -> None:
    learner = Learner(network(), F.cross_entropy, AlignProp())
    run(learner, 30)
    with pytest.raises(MeasurementError, match=r"Learner\.measured"):
        Probe(learner.model, F.cross_entropy, rules=[AlignProp()]).observe(0)
    probe = Probe(learner.model, F.cross_entropy, rules=[learner.measured()])
    x, y = batch()
    with probe.observe(0):
        F.cross_entropy(learner.model(x), y).backward()
    found = probe.recording()["cosine_error_signal"].isel(step=0, rule=0).sel(layer="0")
    assert (found.values < 0.999).all()


@pytest.mark.parametrize("rule", [USF(), FRSF(seed=3)], ids=lambda rule: rule.name)
def test_what_follows_from_the_weights_is_observed_with_those_of_the_step(rule: Rule) -> None:
    learner = Learner(network(), F.cross_entropy, rule)
    run(learner, 1)
    given = learner.measured("given")
    probe = Probe(learner.model, F.cross_entropy, rules=[given, rule])
    run(learner, 30)
    x, y = batch()
    with probe.observe(0):
        F.cross_entropy(learner.model(x), y).backward()
    found = probe.recording()["cosine_error_signal"].isel(step=0)
    np.testing.assert_array_equal(found.sel(rule="given"), found.sel(rule=rule.label))
    again = Probe(learner.model, F.cross_entropy, rules=[given], draws=32)
    measured = again.measure(x, y)["cosine_error_signal"].isel(step=0)
    np.testing.assert_allclose(
        found.sel(rule="given", layer="0"), measured.sel(rule="given", layer="0"), atol=1e-5
    )


@pytest.mark.parametrize("rule", [KP(decay=0.25), WeightMirror(), LDFA(rank=3), PFA()])
def test_reading_the_state_and_gathering_gradients_are_no_steps(rule: Rule) -> None:
    x, y = batch()
    plain, read = (Learner(network(), F.cross_entropy, rule) for _ in range(2))
    for learner in (plain, read):
        optimizer = torch.optim.SGD(learner.model.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            learner.backward(x, y)
            if learner is read:
                before = learner.state
                learner.state_dict()
                assert learner.state is before
            optimizer.step()
    assert all(equal(plain.state[name], read.state[name]) for name in plain.state)


@pytest.mark.parametrize("seed", range(3))
def test_learned_feedback_comes_nearer_to_the_gradient_than_random_feedback(seed: int) -> None:
    random = _cosines(FA(seed=seed), seed)
    assert max(random) < 0.6
    for rule in (KP(seed=seed, decay=0.05), WeightMirror(seed=seed)):
        assert min(_cosines(rule, seed)) > 0.9


def _cosines(rule: Rule, seed: int) -> list[float]:
    """Return the cosines with the true signals at both entries after 100 steps."""
    learner = Learner(network(seed), F.cross_entropy, rule)
    run(learner, 100)
    capture = Capture(learner.model, F.cross_entropy, *batch())
    true = capture.reference(parameters=True)
    found = rule.updates(Task(capture, true), learner.state).entry
    pairs = [(true.entry[name].flatten(), found[name].flatten()) for name in ("0", "2")]
    return [float(F.cosine_similarity(a, b, dim=0)) for a, b in pairs]

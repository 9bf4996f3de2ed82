"""Two checkpoints of one training: the way from one to the other, and what the first one gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alignlab import plugins
from alignlab import recording as store
from alignlab.analyze import analyze_checkpoint
from alignlab.checkpoints import describe, open_checkpoint
from alignlab.diagnosis import answer
from alignlab.errors import AlignlabError, CheckpointError, InputError
from alignlab.report import render
from alignlab.rules import DFA, FA, FRSF, ReplacedWeightRule, Rule, State, Task, Updates
from alignlab.specs import build_loss, build_model
from alignlab.training import Recipe, save_checkpoint, train
from tests.analyze.checkpoints import ARGUMENTS, SPEC, analyse, batch, trained


def model_of(path: Path) -> nn.Module:
    model = build_model(SPEC, ARGUMENTS).eval()
    model.load_state_dict(torch.load(path, weights_only=True)["model"])
    return model


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Return an early and a late checkpoint of one training by DFA, the early one without it."""
    for name, epochs in (("a.pt", 1), ("b.pt", 3)):
        save_checkpoint(tmp_path / name, *trained(DFA(seed=5), epochs), feedback=name == "b.pt")
    return tmp_path / "a.pt", tmp_path / "b.pt"


def test_a_displacement_is_compared_with_the_gradient_where_it_began(
    pair: tuple[Path, Path],
) -> None:
    early, late = pair
    found = analyse(late, since=early, diagnostics=["weight-gradient"]).recording
    store.validate(found)
    first, second, (x, y) = model_of(early), model_of(late), batch()
    named = dict(first.named_parameters())
    gradients = torch.autograd.grad(F.cross_entropy(first(x), y), list(named.values()))
    after = dict(second.named_parameters())
    for (name, before), gradient in zip(named.items(), gradients, strict=True):
        if not name.endswith("weight"):
            continue
        moved = (before - after[name]).detach().double().numpy().ravel()
        true = gradient.double().numpy().ravel()
        expected = moved @ true / np.linalg.norm(moved) / np.linalg.norm(true)
        value = found["cosine_weight_gradient"].sel(layer=name.removesuffix(".weight"))
        assert value.item() == pytest.approx(expected, abs=1e-5)
    assert found["rule"].values.tolist() == ["displacement"]
    assert found["feedback_origin"].values.tolist() == ["observed"]
    assert found.attrs["measured_at"] == "a.pt"
    assert (found.attrs["checkpoint"], found.attrs["since"]) == ("b.pt", "a.pt")
    assert found["loss"].item() == pytest.approx(F.cross_entropy(first(x), y).item())


def test_rules_beside_a_displacement_are_measured_where_it_began(pair: tuple[Path, Path]) -> None:
    early, late = pair
    options: dict[str, Any] = {"diagnostics": ["weight-gradient"]}
    both = analyse(late, since=early, rules=["displacement", "dfa"], **options).recording
    # The early file holds no feedback; that of the late one never changed.
    assert both["feedback_origin"].values.tolist() == ["observed", "checkpoint"]
    save_checkpoint(early, *trained(DFA(seed=5), 1))
    alone = analyse(early, rules=["dfa"], **options).recording
    name = "cosine_weight_gradient"
    np.testing.assert_array_equal(both[name].sel(rule="dfa"), alone[name].sel(rule="dfa"))


def test_checkpoints_that_do_not_fit_are_refused_by_name(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    early, late = pair
    with pytest.raises(InputError, match="hold the same weights"):
        analyse(late, since=late)
    content = torch.load(early, weights_only=True)
    name = next(iter(content["model"]))
    missing = {key: value for key, value in content["model"].items() if key != name}
    torch.save({"model": missing}, tmp_path / "less.pt")
    with pytest.raises(CheckpointError, match=name):
        analyse(late, since=tmp_path / "less.pt")
    with pytest.raises(AlignlabError, match=r"nothing\.pt"):
        analyse(late, since=tmp_path / "nothing.pt")
    with pytest.raises(InputError, match="--rule displacement"):
        analyse(late, since=early, rules=["dfa"])
    with pytest.raises(InputError, match="--since FILE"):
        analyse(late, rules=["displacement"])
    with pytest.raises(InputError, match="--since FILE"):
        analyse(late, rules=["applied"])
    with pytest.raises(InputError, match="--recover"):
        analyze_checkpoint(late, since=early)


@dataclass(frozen=True)
class Frozen(ReplacedWeightRule):
    """The backward pass of the initial network."""

    name: ClassVar[str] = "frozen"
    keeps_initial: ClassVar[bool] = True

    def backward_weights(self, weights: Mapping[str, Tensor], *, seed: int) -> Mapping[str, Tensor]:
        del seed
        return {name: weight.clone() for name, weight in weights.items()}


@dataclass(frozen=True)
class Counting(Rule):
    """True updates scaled by a learned number under a name of its own."""

    name: ClassVar[str] = "counting"
    has_signals: ClassVar[bool] = False
    has_exact_output: ClassVar[bool] = False
    learns: ClassVar[bool] = True

    def start(self, capture: Any, *, seed: int) -> State:
        del capture, seed
        return {"rule.scale": torch.ones(()), "rule.count": torch.zeros(2)}

    def updates(self, task: Task, state: State, *, parameters: bool = True) -> Updates:
        del parameters
        scale = state["rule.scale"]
        assert isinstance(scale, Tensor)
        found = {name: scale * true for name, true in task.true.parameters.items()}
        return Updates(parameters=found, is_local=False, state={**state, "rule.scale": scale * 2})


@pytest.fixture
def own_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let two rules of this file be found by name, as those of an installed package are."""
    own: dict[str, object] = {"frozen": Frozen, "counting": Counting}
    usual, names = plugins.load, plugins.names

    def load(package: str, name: str) -> object:
        return own[name] if name in own else usual(package, name)

    def all_names(package: str) -> list[str]:
        return [*names(package), *(own if package == "alignlab.rules" else ())]

    monkeypatch.setattr(plugins, "load", load)
    monkeypatch.setattr(plugins, "names", all_names)


@pytest.mark.usefixtures("own_rules")
def test_a_rule_of_the_initial_weights_takes_them_from_the_earlier_checkpoint(
    pair: tuple[Path, Path],
) -> None:
    early, late = pair
    options: dict[str, Any] = {"diagnostics": ["weight-gradient"], "save": ["weight-gradients"]}
    analysis = analyse(late, since=early, rules=["frozen"], **options)
    assert analysis.recording.attrs["measured_at"] == "b.pt"
    # The same by hand: at B, with the weights of A in the backward pass of hidden layers.
    first, second, (x, y) = model_of(early), model_of(late), batch()
    old = [m.weight.detach() for m in first.modules() if isinstance(m, nn.Linear)]
    layers = [(n, m) for n, m in second.named_modules() if isinstance(m, nn.Linear)]
    signal: Tensor | None = None
    inputs, outputs = [], []
    h = x.flatten(1)
    for number, (_, layer) in enumerate(layers):
        inputs.append(h.detach())
        a = layer(h.detach()).detach().requires_grad_()
        outputs.append(a)
        h = a if number == len(layers) - 1 else second_activation(second)(a)
    (signal,) = torch.autograd.grad(F.cross_entropy(h, y), h)
    for number in range(len(layers) - 1, -1, -1):
        name = layers[number][0]
        expected = (signal.T @ inputs[number]).numpy()
        saved = analysis.tensors[name].sel(rule="frozen")["weight_gradient"].values
        np.testing.assert_allclose(saved, expected, rtol=1e-4, atol=1e-7)
        if number:
            back = signal @ old[number]
            a = outputs[number - 1]
            (signal,) = torch.autograd.grad(second_activation(second)(a), a, back)
    with pytest.raises(InputError, match="--since FILE"):
        analyse(late, rules=["frozen"])


def second_activation(model: nn.Module) -> Any:
    found = [m for m in model.modules() if type(m).__module__.endswith("activation")]
    return found[0] if found else torch.relu


def short(folder: Path, rule: Rule) -> Path:
    x, y = batch()
    torch.manual_seed(0)
    model = build_model(SPEC, ARGUMENTS)
    recipe = Recipe(epochs=1, batch_size=50)
    done = train(model, build_loss("cross-entropy"), x=x, y=y, rule=rule, recipe=recipe)
    return save_checkpoint(folder / "own.pt", model, done)


@pytest.mark.usefixtures("own_rules")
def test_the_whole_state_of_a_rule_goes_through_a_checkpoint(tmp_path: Path) -> None:
    path = short(tmp_path, Counting())
    held = {entry.layer: entry for entry in open_checkpoint(path).feedback}
    assert {entry.kind for entry in held.values()} == {"state"}
    assert float(held["rule.scale"].tensor) == 4.0, "two steps doubled it twice"
    assert "alignlab.feedback.rule.scale: state, counting, ()" in describe(path)
    # The rules of the usual choice: that of the training, with its state, and uSF.
    recording = analyse(path, diagnostics=["weight-gradient"]).recording
    assert recording["rule"].values.tolist() == ["counting", "usf"]
    assert recording["feedback_origin"].values.tolist() == ["checkpoint", "derived from weights"]
    ratio = recording["norm_ratio_weight_gradient"].sel(rule="counting")
    np.testing.assert_allclose(ratio, 4.0, rtol=1e-5)
    with pytest.raises(InputError, match="cannot replay"):
        analyse(short_without(path), replay=0, rules=["counting"])


def short_without(path: Path) -> Path:
    content = torch.load(path, weights_only=True)
    del content["alignlab"]["feedback"]
    torch.save(content, path)
    return path


@pytest.mark.usefixtures("own_rules")
def test_a_state_of_another_shape_is_refused(tmp_path: Path) -> None:
    path = short(tmp_path, Counting())
    content = torch.load(path, weights_only=True)
    content["alignlab"]["feedback"]["rule.count"] = torch.zeros(3)
    del content["alignlab"]["feedback_sha256"]
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"rule\.count is of shape \(3,\)"):
        analyse(path)


@pytest.mark.parametrize(
    ("rule", "kind"), [(DFA(), "direct"), (FA(), "weight"), (FRSF(), "weight")], ids=str
)
def test_a_checkpoint_says_what_its_feedback_is(tmp_path: Path, rule: Rule, kind: str) -> None:
    path = short(tmp_path, rule)
    assert torch.load(path, weights_only=True)["alignlab"]["feedback_kind"] == kind
    assert {entry.kind for entry in open_checkpoint(path).feedback} == {kind}


def test_a_recording_of_updates_alone_is_reported_without_empty_claims(
    pair: tuple[Path, Path],
) -> None:
    early, late = pair
    recording = analyse(late, since=early, diagnostics=()).recording
    said = answer(recording)
    text = " ".join(said.paragraph)
    assert "At the weights of a.pt" in text
    assert "Under displacement, which was read from the training, the weight gradient is" in text
    for empty in ("nan", "unknown", "derives its feedback", "()"):
        assert empty not in text, text
    assert "displacement" in said.headline
    page = render(recording)
    assert "displacement" in page
    assert "NaN" not in page
    assert "of 3 layers" in said.headline

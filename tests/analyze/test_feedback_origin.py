"""Where feedback comes from decides what a recording holds and what its answer says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from click.testing import CliRunner

from alignlab import datasets
from alignlab import recording as store
from alignlab.diagnosis import CLOSING, answer
from alignlab.errors import CheckpointError, InputError, MissingError
from alignlab.rules import BP, BRSF, DFA, FA, FRSF
from alignlab.specs import build_loss, build_model, parse_rule
from alignlab.training import Recipe, save_checkpoint, train
from alignlab_cli.main import alignlab
from tests.analyze.checkpoints import ARGUMENTS, SPEC, analyse, trained, without, written

RULES = [DFA(seed=5), FA(seed=5), DFA(seed=5, distribution="uniform", scale=0.5)]
each_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.label)


def origins(recording: xr.Dataset) -> dict[str, str]:
    return dict(zip(recording["rule"].values, recording["feedback_origin"].values, strict=True))


def same_numbers(one: xr.Dataset, other: xr.Dataset) -> bool:
    """Return whether two recordings agree in the hash of the feedback and in every number."""
    return (one["feedback_sha256"].values == other["feedback_sha256"].values).all() and all(
        np.array_equal(one[name].values, other[name].values, equal_nan=True)
        for name in one.data_vars
        if one[name].dtype.kind == "f" and name != "feedback_seed"
    )


@each_rule
def test_stored_feedback_is_found_and_is_that_of_the_training(tmp_path: Path, rule: Any) -> None:
    path = written(tmp_path, rule)
    analysis = analyse(path, rules=[rule.label], save=["feedback"])
    assert origins(analysis.recording) == {rule.label: "checkpoint"}
    direct = isinstance(rule, DFA)
    for layer, tensor in trained(rule)[1].feedback.items():
        saved = analysis.tensors[layer][f"feedback_{'direct' if direct else 'backward'}_0"]
        assert np.array_equal(saved.values, tensor.numpy())


@each_rule
def test_replayed_feedback_gives_the_numbers_of_stored_feedback(tmp_path: Path, rule: Any) -> None:
    stored = analyse(written(tmp_path, rule), rules=[rule.label]).recording
    path = written(tmp_path, rule, feedback=False)
    replayed = analyse(path, rules=[rule.label], replay=5).recording
    assert origins(replayed) == {rule.label: "replayed"}
    assert same_numbers(stored, replayed)
    assert not answer(replayed).warnings
    assert "whose feedback was replayed and verified" in " ".join(answer(replayed).paragraph)


BLOCKS: dict[str, Any] = {"in_channels": 1, "widths": (4, 6, 8), "blocks": 1}


@pytest.mark.parametrize(
    "text",
    [
        *("dfa(normalisation=none)", "dfa(shared=True)", "dfa(structure=channel)"),
        *("dfa(granularity=macro)", "dfa(distribution=orthogonal)", "fa(distribution=sign)"),
    ],
)
def test_every_option_survives_training_storage_and_replay(tmp_path: Path, text: str) -> None:
    data = datasets.load("digits", split="train", samples=100)
    torch.manual_seed(0)
    model = build_model("alignlab:resnet20", BLOCKS)
    recipe = Recipe(epochs=1, optimizer_options={"lr": 1e-4, "momentum": 0.9})
    loss = build_loss("cross-entropy")
    done = train(model, loss, x=data.x, y=data.y, rule=parse_rule(text), recipe=recipe)
    found = []
    for kept in (True, False):
        path = save_checkpoint(tmp_path / "model.pt", model, done, feedback=kept)
        network: dict[str, Any] = {"model": "alignlab:resnet20", "model_arguments": BLOCKS}
        replay = None if kept else 0
        found.append(analyse(path, samples=30, replay=replay, **network).recording)
    assert origins(found[0])[text] == "checkpoint"
    assert origins(found[1])[text] == "replayed"
    assert same_numbers(*found)


def test_feedback_of_the_size_of_the_initial_weights_cannot_be_replayed(tmp_path: Path) -> None:
    path = written(tmp_path, FA(seed=5, normalisation="weight"))
    assert "checkpoint" in origins(analyse(path).recording).values()
    with pytest.raises(InputError, match="initial weights, which the file does not hold"):
        analyse(path, replay=5)


@each_rule
def test_a_replay_without_a_hash_has_the_same_numbers_and_a_warning(
    tmp_path: Path, rule: Any
) -> None:
    stored = analyse(written(tmp_path, rule), rules=[rule.label]).recording
    path = without(written(tmp_path, rule, feedback=False), "feedback_sha256")
    replayed = analyse(path, rules=[rule.label], replay=5).recording
    assert origins(replayed) == {rule.label: "replayed, unverified"}
    assert same_numbers(stored, replayed)
    assert "nothing in the checkpoint proves it" in answer(replayed).warnings[0]


@pytest.mark.parametrize("kept", [False, True], ids=["hash only", "feedback stored"])
@each_rule
def test_a_wrong_seed_is_refused(tmp_path: Path, rule: Any, kept: bool) -> None:
    path = written(tmp_path, rule, feedback=kept)
    with pytest.raises(CheckpointError, match=r"Seed 6 does not give the feedback .* \(hash "):
        analyse(path, rules=[rule.label], replay=6)


def test_the_right_seed_with_other_options_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, DFA(seed=5), feedback=False)
    with pytest.raises(CheckpointError, match="the seed and the rule's options"):
        analyse(path, rules=["dfa(distribution=uniform)"], replay=5)


FORMS = [DFA(seed=5, rank=4), DFA(seed=5, storage="seeded"), FRSF(seed=5)]
each_form = pytest.mark.parametrize("rule", FORMS, ids=lambda rule: rule.label)


@each_form
def test_feedback_of_every_form_is_found_or_replayed_and_is_the_same(
    tmp_path: Path, rule: Any
) -> None:
    names = ["error-signal", "weight-feedback", "bottleneck"]
    found = analyse(written(tmp_path, rule), diagnostics=names).recording
    assert origins(found)[rule.label] == "checkpoint"
    path = written(tmp_path, rule, feedback=False)
    again = analyse(path, diagnostics=names, replay=5).recording
    assert origins(again)[rule.label] == "replayed"
    assert same_numbers(found, again)
    assert np.isfinite(found["cosine_weight_feedback"].sel(rule=rule.label)).any()


@pytest.mark.parametrize("kept", [False, True], ids=["hash only", "feedback stored"])
@each_form
def test_a_wrong_seed_of_any_form_is_refused(tmp_path: Path, rule: Any, kept: bool) -> None:
    path = written(tmp_path, rule, feedback=kept)
    with pytest.raises(CheckpointError, match=r"Seed 6 does not give the feedback .* \(hash "):
        analyse(path, rules=[rule.label], replay=6)


@pytest.mark.parametrize("rule", [FRSF(seed=5), BRSF(seed=5)], ids=lambda rule: rule.label)
def test_signs_without_their_magnitudes_are_derived_from_the_weights(
    tmp_path: Path, rule: Any
) -> None:
    path = written(tmp_path, rule, feedback=False)
    recording = analyse(path, rules=[rule.label], diagnostics=["weight-feedback"]).recording
    assert origins(recording) == {rule.label: "derived from weights"}
    # Laws of weights and magnitudes that share no sign would give zero.
    assert float(recording["cosine_weight_feedback"].max()) > 0.5


def test_the_rank_of_the_training_is_not_to_be_contradicted(tmp_path: Path) -> None:
    path = written(tmp_path, DFA(seed=5, rank=4))
    with pytest.raises(InputError, match=r"contradicts .* by dfa\(rank=4\) \(rank=4\)"):
        analyse(path, rules=["dfa(rank=3)"])


def test_a_replay_is_of_the_training_rule_alone(tmp_path: Path) -> None:
    path = written(tmp_path, DFA(seed=5), feedback=False)
    recording = analyse(path, rules=["dfa", "fa", "usf"], replay=5).recording
    assert origins(recording) == {
        **{"dfa": "replayed", "fa": "drawn", "usf": "derived from weights"},
    }


@each_rule
def test_drawn_feedback_leaves_chance_levels_and_no_alignment(tmp_path: Path, rule: Any) -> None:
    path = written(tmp_path, rule, feedback=False)
    recording = analyse(
        path, rules=[rule.label], diagnostics=["error-signal", "weight-feedback", "weight-gradient"]
    ).recording
    assert origins(recording) == {rule.label: "drawn"}
    hidden = recording.sel(layer=~recording["is_output"].values)
    alignments = [n for n, v in recording.data_vars.items() if v.attrs.get("alignment") == 1]
    assert len(alignments) >= 6
    for name in alignments:
        assert bool(hidden[name].isnull().all()), name
        assert bool(hidden[f"{name}_p"].isnull().all()), name
        assert set(np.unique(hidden[f"{name}_status"])) <= {"null draw", ""}, name
    assert bool((hidden["cosine_error_signal_null_sd"] > 0).all())
    for name in ("norm_ratio_error_signal", "angle_error_signal", "norm_ratio_weight_feedback"):
        assert name not in hidden or bool(hidden[name].isnull().all()), name
    assert answer(recording).findings == ()
    assert answer(recording).paragraph[-1] == CLOSING


def test_another_draw_gives_another_chance_level_but_nothing_observed(tmp_path: Path) -> None:
    path = written(tmp_path, DFA(seed=5))
    one, other = (analyse(path, rules=["dfa"], seed=0, samples=360).recording for _ in range(2))
    assert same_numbers(one, other)
    third = analyse(path, rules=["dfa"], seed=9, samples=360).recording
    np.testing.assert_allclose(one["cosine_error_signal"], third["cosine_error_signal"], atol=1e-6)
    assert not np.array_equal(
        one["cosine_mean_error_signal_null_low"], third["cosine_mean_error_signal_null_low"]
    )


@each_rule
def test_without_a_rule_that_of_the_file_is_measured(tmp_path: Path, rule: Any) -> None:
    recording = analyse(written(tmp_path, rule)).recording
    assert origins(recording) == {rule.label: "checkpoint", "usf": "derived from weights"}


def test_a_network_trained_by_backpropagation_is_asked_about_dfa(tmp_path: Path) -> None:
    recording = analyse(written(tmp_path, BP())).recording
    assert origins(recording) == {"dfa": "drawn", "usf": "derived from weights"}


def test_feedback_under_a_name_of_the_users_own_is_pointed_at(tmp_path: Path) -> None:
    rule = DFA(seed=5)
    model, training = trained(rule)
    content = {"model": model.state_dict(), "B": dict(training.feedback)}
    torch.save(content, tmp_path / "own.pt")
    expected = analyse(written(tmp_path, rule), rules=["dfa"]).recording
    named = {"fc1": "B.fc1", "fc2": "B.fc2"}
    found = analyse(tmp_path / "own.pt", rules=["dfa"], feedback=named).recording
    assert origins(found) == {"dfa": "checkpoint"}
    assert same_numbers(expected, found)
    with pytest.raises(InputError, match=r"none for the entry of fc2; name it with --feedback"):
        analyse(tmp_path / "own.pt", rules=["dfa"], feedback={"fc1": "B.fc1"})
    with pytest.raises(MissingError, match=r"no tensor 'B\.fc9'.*nearest: B\.fc"):
        analyse(tmp_path / "own.pt", rules=["dfa"], feedback={"fc1": "B.fc9"})


def test_feedback_of_another_shape_says_both(tmp_path: Path) -> None:
    model, training = trained(DFA(seed=5))
    wrong = {name: torch.randn(10, 7) for name in training.feedback}
    torch.save({"model": model.state_dict(), "B": wrong}, tmp_path / "own.pt")
    with pytest.raises(CheckpointError, match=r"B\.fc1 has shape \(10, 7\).*needs \(10, 24\)"):
        analyse(tmp_path / "own.pt", rules=["dfa"], feedback={"fc1": "B.fc1", "fc2": "B.fc2"})


def test_the_command_replays_with_a_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = written(tmp_path, DFA(seed=5), feedback=False)
    words = ["analyze", "checkpoint", path.name, "--model", SPEC, "--data", "digits", "-q"]
    words += [f"--model-arg={name}={value}" for name, value in ARGUMENTS.items()]
    words += ["--rule", "dfa", "--samples", "100", "--draws", "32", "--diagnostic", "error-signal"]
    runner = CliRunner()
    good = runner.invoke(alignlab, [*words, "--replay", "5"], prog_name="alignlab")
    assert good.exit_code == 0, good.output
    expected = analyse(path, rules=["dfa"], replay=5).recording
    assert same_numbers(store.load("model.nc"), expected)
    bad = runner.invoke(alignlab, [*words, "--replay", "6", "-o", "b.nc"], prog_name="alignlab")
    assert bad.exit_code == 2
    assert bad.stderr.startswith("Error: Seed 6 does not give the feedback")
    assert not Path("b.nc").exists()

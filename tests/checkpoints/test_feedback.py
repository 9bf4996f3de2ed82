"""Feedback in files: whose it is, where it enters, and what the next backward pass would use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from alignlab.checkpoints import (
    Checkpoint,
    describe,
    feedback_for,
    fit,
    match_names,
    name_feedback,
    open_checkpoint,
)
from alignlab.errors import CheckpointError, InputError, MissingError
from alignlab.feedback import digest
from tests.checkpoints.nets import cnn, mlp, saved, weights


def ours(tmp_path: Path, feedback: dict[str, Tensor], **more: Any) -> Path:
    held = {"schema": 1, "feedback": feedback, "feedback_sha256": digest(feedback), **more}
    return saved(tmp_path / "ours.pt", {"model": weights(), "alignlab": held})


def test_our_trainers_dfa_feedback_enters_at_the_entry(tmp_path: Path) -> None:
    feedback = {"fc1": torch.randn(3, 5)}
    opened = open_checkpoint(ours(tmp_path, feedback, rule="dfa", rule_spec="dfa(scale=2)", seed=4))
    (entry,) = opened.feedback
    assert (entry.kind, entry.layer, entry.at, entry.rule) == ("direct", "fc1", "entry", "dfa")
    assert torch.equal(entry.tensor, feedback["fc1"])
    assert list(opened.tensors) == list(weights())
    assert opened.metadata["alignlab"] == {
        "schema": 1,
        "feedback_sha256": digest(feedback),
        "rule": "dfa",
        "rule_spec": "dfa(scale=2)",
        "seed": 4,
    }


def test_our_trainers_fa_feedback_stands_for_weights(tmp_path: Path) -> None:
    opened = open_checkpoint(ours(tmp_path, {"fc2": torch.randn(3, 5)}, rule="fa"))
    (entry,) = opened.feedback
    assert (entry.kind, entry.layer, entry.rule) == ("weight", "fc2", "fa")


def test_feedback_of_an_unknown_rule_is_told_by_its_shape(tmp_path: Path) -> None:
    direct = open_checkpoint(ours(tmp_path, {"fc1": torch.randn(3, 5)}, rule="new"))
    assert direct.feedback[0].kind == "direct"
    shaped = open_checkpoint(ours(tmp_path, {"fc1": torch.randn(5, 4)}, rule="new"))
    assert shaped.feedback[0].kind == "weight"


def test_feedback_that_is_not_what_was_hashed_is_refused(tmp_path: Path) -> None:
    held = {"feedback": {"fc1": torch.ones(3, 5)}, "feedback_sha256": digest({}), "rule": "dfa"}
    path = saved(tmp_path / "a.pt", {"model": weights(), "alignlab": held})
    with pytest.raises(CheckpointError, match="feedback that does not have the hash in the file"):
        open_checkpoint(path)


def test_feedback_without_a_hash_is_said_to_be_so(tmp_path: Path) -> None:
    held = {"feedback": {"fc1": torch.ones(3, 5)}, "rule": "dfa"}
    path = saved(tmp_path / "a.pt", {"model": weights(), "alignlab": held})
    assert "The file has no hash of its feedback." in open_checkpoint(path).notes


def test_feedback_with_nan_is_refused(tmp_path: Path) -> None:
    feedback = {"fc1": torch.full((3, 5), float("nan"))}
    with pytest.raises(
        CheckpointError, match=r"NaN or infinite numbers in alignlab\.feedback\.fc1"
    ):
        open_checkpoint(ours(tmp_path, feedback, rule="dfa"))


def test_feedback_follows_prefixes_and_renames(tmp_path: Path) -> None:
    feedback = {"model.fc1": torch.randn(3, 5)}
    held = {"feedback": feedback, "feedback_sha256": digest(feedback), "rule": "dfa"}
    content = {"model": {f"model.{n}": v for n, v in weights().items()}, "alignlab": held}
    opened = open_checkpoint(saved(tmp_path / "a.pt", content))
    assert opened.feedback[0].layer == "fc1"
    model = torch.nn.Sequential(mlp().fc1, torch.nn.ReLU(), mlp().fc2)
    matched = match_names(opened, model, rename={"fc1": "0", "fc2": "2"})
    assert matched.feedback[0].layer == "0"


def biotorch_like(kind: str, *, bias: bool = True) -> dict[str, Tensor]:
    """Return a state dict with names and shapes of biotorch's layers for an MLP 4-6-3."""
    torch.manual_seed(3)
    shapes = {"fc1": (6, 4), "fc2": (3, 6)}
    result = {}
    for layer, shape in shapes.items():
        weight = torch.randn(shape)
        backward = {
            "dfa": torch.randn(3, shape[1]),
            "fa": torch.randn(shape),
            "usf": 0.3 * torch.sign(weight),
            "brsf": torch.rand(shape) * torch.sign(weight),
            "frsf": torch.rand(shape),
        }[kind]
        result[f"{layer}.weight"] = weight
        result[f"{layer}.weight_backward"] = backward
        if bias:
            result[f"{layer}.bias"] = torch.zeros(shape[0])
            size = (3, shape[1]) if kind == "dfa" else (shape[0],)
            result[f"{layer}.bias_backward"] = torch.zeros(size)
    return result


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kind", ["dfa", "fa", "usf", "brsf", "frsf"])
def test_biotorchs_rules_are_told_apart(tmp_path: Path, kind: str, bias: bool) -> None:
    content = biotorch_like(kind, bias=bias)
    opened = open_checkpoint(saved(tmp_path / "a.pt", content))
    assert [entry.layer for entry in opened.feedback] == ["fc1", "fc2"]
    assert {entry.rule for entry in opened.feedback} == {kind}
    assert {entry.kind for entry in opened.feedback} == {"direct" if kind == "dfa" else "weight"}
    assert {entry.at for entry in opened.feedback} == {"input"}
    assert not any("backward" in name for name in opened.tensors)
    assert set(opened.feedback_entries) == {name for name in content if "backward" in name}


@pytest.mark.parametrize("kind", ["usf", "brsf", "frsf"])
def test_sign_rules_use_the_signs_of_the_present_weights(tmp_path: Path, kind: str) -> None:
    content = biotorch_like(kind)
    # The stored tensor is that of the last forward pass; an update then turned one sign.
    content["fc1.weight"][0, 0] *= -1
    entry = open_checkpoint(saved(tmp_path / "a.pt", content)).feedback[0]
    weight, backward = content["fc1.weight"], content["fc1.weight_backward"]
    if kind == "brsf":  # one of 42 signs is beyond the tolerance for drawn magnitudes
        assert entry.rule == "fa"
        return
    assert entry.rule == kind
    assert torch.equal(entry.tensor, backward.abs() * weight.sign())


def square(*, bias: bool, dfa: bool = True) -> dict[str, Tensor]:
    """Return a network of width 3 throughout, in which a matrix fits both kinds."""
    result = {}
    for layer in ("a", "b"):
        result[f"{layer}.weight"] = torch.randn(3, 3)
        result[f"{layer}.weight_backward"] = torch.randn(3, 3)
        if bias:
            result[f"{layer}.bias_backward"] = torch.zeros((3, 3) if dfa else (3,))
    return result


@pytest.mark.parametrize(("dfa", "kind"), [(True, "direct"), (False, "weight")])
def test_the_feedback_of_the_bias_settles_square_layers(
    tmp_path: Path, dfa: bool, kind: str
) -> None:
    opened = open_checkpoint(saved(tmp_path / "a.pt", square(bias=True, dfa=dfa)))
    assert {entry.kind for entry in opened.feedback} == {kind}


def test_square_layers_without_bias_are_ambiguous_until_a_rule_decides(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", square(bias=False))
    opened = open_checkpoint(path)
    assert {entry.kind for entry in opened.feedback} == {"ambiguous"}
    assert {entry.kind for entry in feedback_for(opened, "dfa(scale=1)")} == {"direct"}
    assert {entry.kind for entry in feedback_for(opened, "fa")} == {"weight"}
    assert "By shape it may be that of dfa or of fa; --rule decides." in describe(path)


def test_shapes_that_fit_no_rule_are_refused(tmp_path: Path) -> None:
    content = {**weights(), "fc1.weight_backward": torch.ones(7, 9)}
    with pytest.raises(
        CheckpointError, match=r"fc1\.weight_backward of shape \(7, 9\), which fits"
    ):
        open_checkpoint(saved(tmp_path / "a.pt", content))


def test_feedback_serves_the_rule_that_it_belongs_to(tmp_path: Path) -> None:
    opened = open_checkpoint(saved(tmp_path / "a.pt", biotorch_like("frsf")))
    assert len(feedback_for(opened, "frsf")) == 2
    assert feedback_for(opened, "fa") == ()
    assert feedback_for(opened, "dfa") == ()


def with_extras(tmp_path: Path) -> Checkpoint:
    content = {
        "net": {**weights(cnn()), "conv1.fixed": torch.randn(3, 4, 7, 7), "B2": torch.randn(3, 6)},
        "feedback_matrices": [torch.randn(3, 4), torch.randn(4, 1, 3, 3), torch.randn(3, 54)],
    }
    return open_checkpoint(saved(tmp_path / "a.pt", content))


@pytest.mark.parametrize(
    ("target", "key", "expected"),
    [
        ("conv1", "conv1.fixed", ("direct", "entry")),
        ("conv2", "B2", ("direct", "entry")),
        ("conv1", "feedback_matrices.0", ("direct", "entry")),
        ("conv1", "feedback_matrices.1", ("weight", "input")),
        ("fc", "feedback_matrices.2", ("ambiguous", "input")),
        ("fc@input", "feedback_matrices.2", ("direct", "input")),
        ("fc@entry", "feedback_matrices.2", ("direct", "entry")),
    ],
)
def test_a_tensor_that_the_user_names_becomes_feedback(
    tmp_path: Path, target: str, key: str, expected: tuple[str, str]
) -> None:
    named = name_feedback(with_extras(tmp_path), {target: key})
    (entry,) = named.feedback
    assert (entry.kind, entry.at) == expected
    assert entry.key == key
    assert key not in named.tensors


def test_named_feedback_leaves_weights_that_fit(tmp_path: Path) -> None:
    named = name_feedback(with_extras(tmp_path), {"conv1": "conv1.fixed", "conv2": "B2"})
    model = cnn()
    fit(named, model)
    assert torch.equal(model.fc.weight, weights(cnn())["fc.weight"])


def test_names_that_are_not_there_are_told_with_the_nearest(tmp_path: Path) -> None:
    opened = with_extras(tmp_path)
    with pytest.raises(MissingError, match=r"no tensor 'conv1\.fixd' .* nearest: conv1\.fixed"):
        name_feedback(opened, {"conv1": "conv1.fixd"})
    with pytest.raises(MissingError, match=r"no layer 'convl'; nearest: conv"):
        name_feedback(opened, {"convl": "B2"})
    with pytest.raises(InputError, match="the site is entry or input"):
        name_feedback(opened, {"conv1@exit": "B2"})

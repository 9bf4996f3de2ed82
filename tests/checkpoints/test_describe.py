"""What ``alignlab inspect`` shows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from alignlab.checkpoints import describe, describe_json
from alignlab.checkpoints._layers import guess_layers
from alignlab.errors import CheckpointError
from tests.checkpoints.nets import cnn, mlp, saved, weights


def test_the_text_tells_layers_feedback_and_what_to_do(tmp_path: Path) -> None:
    content = {"epoch": 3, "args": {"lr": 0.1}, "model": weights(cnn())}
    text = describe(saved(tmp_path / "run 1.pt", content))
    lines = text.splitlines()
    assert lines[0].startswith("run 1.pt: PyTorch zip, ")
    assert lines[2] == "weights under model: 444 numbers, float32, int64"
    assert "  conv1  Conv2d     1 -> 4 3x3 bias" in lines
    assert "  bn1    BatchNorm  (4,)" in lines
    assert "  fc     Linear     54 -> 3 bias" in lines
    assert "feedback: none found, so that alignment of the training rule cannot be observed" in text
    assert "hyper-parameters: lr=0.1" in lines
    assert "beside them: epoch=3" in lines
    assert lines[-1].startswith("to analyse: alignlab analyze checkpoint 'run 1.pt' --model ")


def test_the_command_repeats_what_our_trainer_wrote(tmp_path: Path) -> None:
    held = {
        "model_spec": "alignlab:mlp",
        "data": "digits",
        "rule": "dfa",
        "feedback": {"fc1": torch.ones(3, 5)},
    }
    path = saved(tmp_path / "a.pt", {"model": weights(), "alignlab": held})
    text = describe(path)
    assert "  alignlab.feedback.fc1: direct, dfa, (3, 5) at the entry of fc1" in text
    assert "--model alignlab:mlp --data digits --rule dfa" in text


def test_several_networks_are_listed(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", {"coarse": weights(), "fine": weights(cnn())})
    text = describe(path)
    assert "  coarse: 4 tensors, 43 numbers" in text
    assert text.endswith("to analyse: alignlab inspect a.pt --key coarse")
    assert "fc1" in describe(path, key="coarse")
    assert [one["key"] for one in describe_json(path)["networks"]] == ["coarse", "fine"]


def test_everything_is_plain_values(tmp_path: Path) -> None:
    content = {
        "model": weights(),
        "config": {"act": nn.ReLU, "path": Path("x"), "t": torch.ones(3)},
    }
    for held in (
        describe_json(saved(tmp_path / "a.pt", content)),
        describe_json(saved(tmp_path / "b.pt", {"a": weights(), "b": weights()})),
    ):
        assert json.loads(json.dumps(held)).keys() == held.keys()


def test_suspected_feedback_is_pointed_out(tmp_path: Path) -> None:
    content = {"model": weights(), "feedback_matrices": [torch.ones(3, 5)]}
    text = describe(saved(tmp_path / "a.pt", content))
    assert "perhaps feedback_matrices.0 (--feedback LAYER=KEY)" in text


def test_a_refused_file_is_refused_here_too(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", torch.optim.Adam(mlp().parameters()).state_dict())
    with pytest.raises(CheckpointError, match="an optimizer only"):
        describe(path)


def test_layers_are_guessed_by_names_and_shapes() -> None:
    model = nn.ModuleDict(
        {
            "wte": nn.Embedding(7, 4),
            "attn": nn.MultiheadAttention(4, 2),
            "lstm": nn.LSTM(4, 5),
            "gru": nn.GRU(4, 5),
            "conv": nn.Conv1d(4, 6, 3, bias=False),
            "norm": nn.LayerNorm(4),
            "fc": nn.Linear(4, 2),
        }
    )
    tensors = {**model.state_dict(), "block.scale": torch.ones(4)}
    guessed = {one.name: (one.kind, one.inputs, one.outputs) for one in guess_layers(tensors)}
    assert guessed == {
        "wte": ("Embedding", 7, 4),
        "attn": ("MultiheadAttention", 4, 4),
        "attn.out_proj": ("Linear", 4, 4),
        "lstm": ("LSTM", 4, 5),
        "gru": ("GRU", 4, 5),
        "conv": ("Conv1d", 4, 6),
        "norm": ("Norm", 0, 4),
        "fc": ("Linear", 4, 2),
        "block.scale": ("parameter", 0, 4),
    }

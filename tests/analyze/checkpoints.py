"""Small checkpoints, trained on digits in this process, for the tests of this folder."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from alignlab import datasets
from alignlab.analyze import Analysis, analyze_checkpoint
from alignlab.rules import DFA, Rule
from alignlab.specs import build_loss, build_model
from alignlab.training import Recipe, Training, save_checkpoint, train

SPEC = "alignlab:mlp"
ARGUMENTS: dict[str, Any] = {"in_features": 64, "widths": (24, 16)}


@cache
def trained(rule: Rule, epochs: int = 10) -> tuple[nn.Module, Training]:
    """Return a model that a rule trained, and what its training left."""
    data = datasets.load("digits", split="train", samples=None)
    torch.manual_seed(0)
    model = build_model(SPEC, ARGUMENTS)
    loss = build_loss("cross-entropy")
    recipe = Recipe(epochs=epochs, optimizer_options={"lr": 0.05, "momentum": 0.9})
    done = train(model, loss, x=data.x, y=data.y, rule=rule, recipe=recipe)
    return model, done


def written(folder: Path, rule: Rule, **options: Any) -> Path:
    """Write a checkpoint of our trainer."""
    return save_checkpoint(folder / "model.pt", *trained(rule), **options)


def without(path: Path, *names: str) -> Path:
    """Take entries out of what our trainer wrote beside the weights."""
    content = torch.load(path, weights_only=True)
    content["alignlab"] = {k: v for k, v in content["alignlab"].items() if k not in names}
    torch.save(content, path)
    return path


def analyse(path: Path, **options: Any) -> Analysis:
    settings = {
        "model": SPEC,
        "model_arguments": ARGUMENTS,
        "data": "digits",
        "samples": 100,
        "draws": 32,
        "diagnostics": ["error-signal"],
        **options,
    }
    return analyze_checkpoint(path, **settings)


EVERYTHING: dict[str, Any] = {
    **{"rules": ["dfa"], "diagnostics": (), "seed": 2},
    "save": ["signals", "weight-gradients", "feedback"],
}


@cache
def everything() -> Analysis:
    """Return what all diagnostics say of a network that DFA trained, with its raw tensors."""
    with TemporaryDirectory() as folder:
        return analyse(written(Path(folder), DFA(seed=5)), **EVERYTHING)


def batch(samples: int = 100) -> tuple[Tensor, Tensor]:
    data = datasets.load("digits", samples=samples)
    return data.x, data.y

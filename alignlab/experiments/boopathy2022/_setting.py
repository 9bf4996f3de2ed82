"""Data, networks, loss and rules of the paper's experiments on images, mostly the digits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alignlab.datasets import load
from alignlab.experiments._base import Setting, Work
from alignlab.experiments._digits import CLASSES, Digits, digits
from alignlab.models.mlp import MLP
from alignlab.rules import BP, DFA, FA, AlignAda, AlignProp, AlignZero, Rule
from alignlab.training import Recipe, Training, train

__all__ = ["COLOURS", "data", "fit", "network", "rule_named", "squared_error", "test_error"]

COLOURS = {
    "bp": "C0",
    "align-prop": "C4",
    "align-ada": "C1",
    "align-zero": "C2",
    "fa": "C5",
    "dfa": "C3",
    "last": "C7",
}
"""Of the rules, in every figure; ``last`` trains the output layer alone."""


def data(setting: Setting) -> Digits:
    """Return the digits with the scaling of the setting; or images of its ``data``.

    Those have pixels from 0 to 1, ``samples`` of them to train and ``test`` to test, in the
    proportions of the classes.
    """
    if setting.get("data", "digits") == "digits":
        return digits(scaling=setting["scaling"])
    sizes = {"train": setting["samples"], "test": setting["test"]}
    seen, unseen = (load(setting["data"], split=split, samples=n) for split, n in sizes.items())
    return Digits(seen.x.flatten(1), seen.y, unseen.x.flatten(1), unseen.y)


def squared_error(output: Tensor, y: Tensor) -> Tensor:
    """Return the squared error to one-hot targets less 0.1, mean over samples and outputs."""
    wanted = F.one_hot(y, CLASSES).to(output) - 0.1
    return F.mse_loss(output, wanted)


def network(width: int, *, depth: int, seed: int) -> nn.Module:
    """Return a ReLU network in the NTK parametrisation, biases zero at first."""
    torch.manual_seed(seed)
    return MLP(widths=(width,) * depth, parametrisation="ntk")


def rule_named(name: str, *, seed: int, derivative: str = "initial") -> Rule:
    """Return a rule with the feedback of the paper's code.

    That of FA has the variance of the weights that act, 1/fan-in; that of DFA 1/width.
    """
    made: dict[str, Callable[[], Rule]] = {
        "bp": BP,
        "last": BP,
        "align-prop": AlignProp,
        "align-ada": lambda: AlignAda(derivative=derivative),
        "align-zero": AlignZero,
        "fa": lambda: FA(seed=seed),
        "dfa": lambda: DFA(normalisation="fan-out", scale=3**0.5, seed=seed),
    }
    return made[name]()


def fit(
    model: nn.Module,
    setting: Setting,
    work: Work,
    *,
    name: str,
    seed: int,
    lr: float,
    samples: int | None = None,
    labels_seed: int | None = None,
    rule: Rule | None = None,
) -> Training:
    """Train by plain gradient descent; ``last`` leaves the body as it is.

    Args:
        model: Trained in place.
        setting: With ``epochs``, ``batch_size`` and ``scaling``.
        work: Folder, device and progress.
        name: Of the rule.
        seed: Of feedback, order and choice of samples.
        lr: Rate.
        samples: How many of the training samples, by the seed; None for all.
        labels_seed: By which the labels are permuted over the samples; None leaves them.
        rule: In place of the named one.
    """
    seen = data(setting)
    x, y = seen.x, seen.y
    if samples is not None:
        stream = torch.Generator().manual_seed(3000 + seed)
        chosen = torch.randperm(len(x), generator=stream)[:samples]
        x, y = x[chosen], y[chosen]
    if labels_seed is not None:
        y = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(labels_seed))]
    named = [each for each, _ in model.named_parameters()]
    options: dict[str, Any] = {"optimizer": "sgd", "optimizer_options": {"lr": lr}}
    return train(
        model.to(work.device),
        squared_error,
        x=x.to(work.device),
        y=y.to(work.device),
        rule=rule_named(name, seed=seed) if rule is None else rule,
        recipe=Recipe(
            epochs=setting["epochs"],
            batch_size=setting["batch_size"],
            frozen=tuple(named[:-2]) if name == "last" else (),
            order_seed=1000 + seed,
            **options,
        ),
        progress=work.progress,
    )


@torch.no_grad()
def test_error(model: nn.Module, setting: Setting) -> float:
    """Return the share of wrong answers on test samples in per cent.

    They come in batches as in training, which networks that normalise over a batch see.
    """
    seen = data(setting)
    model = model.cpu().eval()
    answers = torch.cat([model(x).argmax(1) for x in seen.x_test.split(setting["batch_size"])])
    return 100.0 * int((answers != seen.y_test).sum()) / len(answers)

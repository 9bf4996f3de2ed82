"""Train a network of this work's claims, and measure alignment and error as its code does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn
from torch.nn import functional as F

from alignlab import Probe
from alignlab.engine.capture import Capture
from alignlab.experiments._base import Work
from alignlab.experiments.launay2019._setting import MEASURED, Images, recipe
from alignlab.feedback import Feedback
from alignlab.kernels.cosines import cosine, flat
from alignlab.rules import BP, Rule, Task
from alignlab.snapshot import MeasuredRule
from alignlab.training import train

__all__ = ["alignment", "errors", "mean_cosine", "mixed_alignment", "signals", "trained"]

Mode = Literal["evaluation", "training"]


def trained(
    network: nn.Module,
    rule: Rule,
    data: Images,
    setting: Mapping[str, Any],
    work: Work,
    *,
    seed: int,
    rate: float = 0.0,
    frozen: tuple[str, ...] = (),
) -> MeasuredRule:
    """Train a network in place by cross-entropy, and return the rule with its feedback."""
    left = train(
        network,
        F.cross_entropy,
        x=data.x,
        y=data.y,
        rule=rule,
        recipe=recipe(setting, seed=seed, rate=rate, frozen=frozen),
        keep=work.folder / "training.pt",
        progress=work.progress,
    )
    origin = "derived from weights" if isinstance(rule, BP) else "training"
    return MeasuredRule(rule, left.feedback, origin)


def alignment(
    network: nn.Module, measured: MeasuredRule, data: Images, *, mode: Mode = "evaluation"
) -> xr.Dataset:
    """Return cosines of error signals at the entries, mean over samples, with chance levels.

    Rule and reference share the forward pass: mode, dropout masks and batch statistics. The
    entry is where the feedback enters, behind activation, norm and pooling.

    Returns:
        ``cosine``, ``spread`` over samples and ``null_sd`` along ``layer``: ``h1``, ``h2``, ...
    """
    _set(network, mode)
    probe = Probe(
        *(network, F.cross_entropy), rules=[measured], diagnostics=["error-signal"], draws=32
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        recording = probe.measure(data.x_test[:MEASURED], data.y_test[:MEASURED])
    entry = recording.isel(step=0, rule=0, missing_dims="ignore").sel(site="entry")
    names = {"cosine": "", "spread": "_sd", "null_sd": "_null_sd"}
    found = {
        name: ("layer", np.ravel(entry[f"cosine_error_signal{end}"].values)[:-1])
        for name, end in names.items()
    }
    return xr.Dataset(found, {"layer": layer_names(len(found["cosine"][1]))})


def layer_names(count: int) -> list[str]:
    """Return the names of hidden layers, as in figures."""
    return [f"h{number + 1}" for number in range(count)]


def mixed_alignment(network: nn.Module, measured: MeasuredRule, data: Images) -> np.ndarray:
    """Return cosines by layer as the work's code has them: its reference is in training mode.

    The rule's signals are those of a pass in evaluation mode, the true ones those of another
    pass, with batch statistics and dropout.
    """
    ours, _ = signals(network, measured.rule, measured.feedback, data, mode="evaluation")
    _, true = signals(network, measured.rule, measured.feedback, data, mode="training")
    return np.array([mean_cosine(ours[name], true[name]) for name in ours])


def signals(
    network: nn.Module,
    rule: Rule,
    state: Mapping[str, Feedback],
    data: Images,
    *,
    mode: Mode,
) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
    """Return the signals at the entries by layer, those of a rule and the true ones."""
    _set(network, mode)
    x, y = data.x_test[:MEASURED], data.y_test[:MEASURED]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        capture = Capture(network, F.cross_entropy, x, y)
    try:
        true = capture.reference()
        found = rule.updates(Task(capture, true), state, parameters=False)
        return dict(found.entry), dict(true.entry)
    finally:
        capture.close()


def mean_cosine(first: Tensor, second: Tensor) -> float:
    """Return the cosine of each sample, mean over those that have one."""
    return float(cosine(flat(first), flat(second)).nanmean())


def errors(network: nn.Module, data: Images) -> dict[str, float]:
    """Return the shares of training and test images that are classified wrongly, in percent."""
    _set(network, "evaluation")
    parts = {"train_error": (data.x, data.y), "test_error": (data.x_test, data.y_test)}
    return {name: _error(network, x, y) for name, (x, y) in parts.items()}


def _error(network: nn.Module, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        chosen: Sequence[Tensor] = [network(part).argmax(1) for part in x.split(2000)]
    return 100 * int((torch.cat(list(chosen)) != y).sum()) / len(y)


def _set(network: nn.Module, mode: Mode) -> None:
    network.train(mode == "training")

"""The p-values and statuses that are recorded where there is nothing but chance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from alignlab.engine.capture import Capture
from alignlab.engine.updates import Updates
from alignlab.rules import BP, DFA, FA, USF
from alignlab.rules._base import Rule, State
from alignlab.rules._task import Task
from alignlab.snapshot import MeasuredRule
from tests.calibration.fresh import turned
from tests.calibration.nulls import Network, cnn, mlp, recorded
from tests.cases import Batch

__all__ = [
    "CONTINUOUS",
    "SETTINGS",
    "Setting",
    "distance_from_uniform",
    "largest_distance",
    "p_values",
    "statuses",
]

CONTINUOUS = (
    ("cosine_error_signal_flat", "entry"),
    ("cosine_error_signal_flat", "preactivation"),
    ("cosine_weight_gradient", ""),
)
"""Alignments that take a value twice with probability zero in every setting."""

TIED = (
    ("cosine_error_signal", "entry"),
    ("cosine_mean_error_signal", "entry"),
    ("cosine_bias_gradient", ""),
    ("descent_rate", "entry"),
    ("descent_rate", "preactivation"),
)
"""Alignments that are one of few values where a layer has one unit or there are two classes."""

Found = dict[tuple[str, str], np.ndarray]


class RotatedBP(BP):
    """Backpropagation through Linear layers, its signals turned at random among the units."""

    def updates(self, task: Task, state: State, *, parameters: bool = True) -> Updates:
        """Return backpropagation's signals, each turned by itself, seeded by the batch."""
        found = super().updates(task, state, parameters=parameters)
        stream = torch.Generator().manual_seed(int(1e9 * task.error.double().norm()))

        def rotated(signals: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: turned(one, -1, 1, stream)[0] for name, one in signals.items()}

        return Updates(rotated(found.entry), rotated(found.preactivation), found.parameters)


@dataclass(frozen=True)
class Setting:
    """Untrained networks of one kind, and a rule that knows nothing of them.

    Attributes:
        network: Of which every seed gives another one.
        rule: ``dfa``, ``fa``, ``signs`` or ``rotation``.
    """

    network: Network
    rule: str = "dfa"

    def measured(self, batch: Batch, seed: int) -> Rule | MeasuredRule:
        """Return the rule with what it draws by chance from a seed."""
        if self.rule == "signs":
            capture = Capture(batch.model, batch.loss, batch.x, batch.y)
            drawn = USF().redraw(capture, seed=seed)
            capture.close()
            assert drawn is not None
            return MeasuredRule(USF(), drawn, "checkpoint")
        return {"dfa": DFA(seed=seed), "fa": FA(seed=seed), "rotation": RotatedBP()}[self.rule]


def _small(*widths: int, n_classes: int = 10) -> Network:
    return Network(mlp(*widths), n_classes, n_samples=40)


SETTINGS: Mapping[str, Setting] = {
    "one unit": Setting(_small(1)),
    "4 units": Setting(_small(4)),
    "16 units": Setting(_small(16)),
    "two classes": Setting(_small(16, n_classes=2)),
    "one-channel convolution": Setting(Network(cnn(1), 10, n_samples=24)),
    "64 units": Setting(_small(64)),
    "backward weights": Setting(_small(16, 8), "fa"),
    "random signs": Setting(_small(16, 8), "signs"),
    "rotated signals": Setting(_small(16), "rotation"),
}


def p_values(setting: Setting, seeds: Sequence[int], *, draws: int, layer: int = 0) -> Found:
    """Return the recorded p-values of one layer, one for every network that has one.

    Args:
        setting: Networks and rule.
        seeds: Of networks, data and feedback.
        draws: Redraws.
        layer: Number of the layer.
    """
    found: dict[tuple[str, str], list[float]] = {}
    for seed in seeds:
        batch = setting.network.make(seed)
        rule = setting.measured(batch, 7_000_000 + seed)
        recording = recorded(batch, rule, draws=draws, seed=seed).isel(rule=0, layer=layer)
        for variable, site in (*CONTINUOUS, *TIED):
            if f"{variable}_p" in recording:
                p = recording[f"{variable}_p"]
                value = float(p.sel(site=site) if site else p)
                if np.isfinite(value):
                    found.setdefault((variable, site), []).append(value)
    return {key: np.array(values) for key, values in found.items()}


def distance_from_uniform(p: np.ndarray, *, one_sided: bool = False) -> float:
    """Return the largest difference between the shares of p-values and what they should be.

    Args:
        p: P-values.
        one_sided: Whether only too many small ones count, as where values are tied.
    """
    ordered = np.sort(p)
    above = np.arange(1, len(p) + 1) / len(p) - ordered
    below = ordered - np.arange(len(p)) / len(p)
    return float(above.max() if one_sided else max(above.max(), below.max()))


def largest_distance(n: int, *, draws: int) -> float:
    """Return what that distance is below with probability 0.999 if p-values are uniform.

    Args:
        n: How many p-values.
        draws: Of how many redraws each; they are multiples of one over one more than that.
    """
    return 1.949 / n**0.5 + 1.0 / (draws + 1)


def statuses(
    networks: Iterator[tuple[Batch, Rule | MeasuredRule]], variable: str, site: str
) -> Iterator[list[str]]:
    """Yield the statuses of all hidden layers of every network."""
    for seed, (batch, rule) in enumerate(networks):
        recording = recorded(batch, rule, draws=200, seed=seed).isel(rule=0)
        found = recording[f"{variable}_status"]
        found = found.sel(site=site) if site else found
        yield [str(each) for each in found.values[:-1]]

"""With one hidden layer feedback alignment and direct feedback alignment are one rule (N8)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
import xarray as xr

from alignlab.engine.capture import Capture
from alignlab.experiments._base import Case, Check, Claim, Provenance, Setting, Work
from alignlab.experiments._checking import mean_check, worst_check
from alignlab.experiments._drawing import dots, level
from alignlab.experiments._selection import over_seeds
from alignlab.experiments.noekland2016._setting import (
    cross_entropies,
    images,
    network,
    recipe,
    rule_named,
)
from alignlab.rules import DFA, Rule, State
from alignlab.training import train

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["OneHiddenLayer"]


@dataclass(frozen=True)
class _SameFeedback(DFA):
    """Direct feedback that is what feedback alignment draws for the output layer."""

    def start(self, capture: Capture, *, seed: int) -> State:
        """Return it under the name of the one hidden layer."""
        hidden, output = capture.layers
        drawn = rule_named("fa", seed=self.seed).start(capture, seed=seed)
        return {hidden.name: drawn[output.name]}


class OneHiddenLayer(Claim):
    """Two trainings with the same feedback, one by each rule, step by step the same."""

    identity: ClassVar[str] = "N8"
    statement: ClassVar[str] = (
        "In a network with one hidden layer, feedback alignment whose output feedback is B and "
        "direct feedback alignment by the same B make the same steps."
    )
    provenance: ClassVar[Provenance] = "our derivation"
    source: ClassVar[str] = "both rules send B e to the one entry"
    fast: ClassVar[Setting] = {
        "data": "digits",
        "in_features": 64,
        "widths": (256,),
        "lr": 1e-3,
        "batch_size": 64,
        "epochs": 3,
        "seeds": 3,
    }
    caption: ClassVar[str] = (
        "Largest difference of the parameters after training by FA and by DFA with the same "
        "feedback, and of those at the end and at the start, in units of the largest parameter; "
        "{data}, one hidden layer of {widths} tanh units, from torch's start, binary "
        "cross-entropy, RMSprop, {epochs} epochs, {seeds} seeds. The line is the limit of the "
        "check."
    )

    def cases(self, setting: Setting) -> Sequence[Case]:
        """Return one pair of trainings a seed."""
        return [{"seed": seed} for seed in range(setting["seeds"])]

    def measure(self, case: Case, setting: Setting, work: Work) -> xr.Dataset:
        """Train by both rules and compare what they leave."""
        seen, seed, ends = images(setting["data"], device=work.device), int(case["seed"]), []
        rules: list[Rule] = [rule_named("fa", seed=seed), _SameFeedback(seed=seed)]
        begun = network({"rule": "fa", "seed": seed}, setting, start="default")
        start = torch.cat([p.detach().flatten() for p in begun.parameters()])
        for rule in rules:
            model = network({"rule": "fa", "seed": seed}, setting, start="default")
            train(
                model.to(work.device),
                cross_entropies,
                x=seen.x,
                y=seen.y,
                rule=rule,
                recipe=recipe(setting, seed),
            )
            ends.append(torch.cat([p.detach().flatten().cpu() for p in model.parameters()]))
        first, second = (end.double() for end in ends)
        difference = (first - second).abs().max() / first.abs().max()
        way = (first - start).abs().max() / first.abs().max()
        return xr.Dataset({"difference": float(difference), "way": float(way)})

    def checks(self, results: xr.Dataset, setting: Setting) -> Sequence[Check]:
        """Hold the difference against rounding, and that there was a training."""
        del setting
        what = "largest difference of parameters after training, relative to the largest"
        difference, way = (over_seeds(results, name) for name in ("difference", "way"))
        return [
            worst_check(what, difference, most=1e-6, stated="algebraic"),
            mean_check(
                "largest change of a parameter in training, relative to the largest",
                way,
                least=0.1,
                chance="0: nothing was trained",
            ),
        ]

    def draw(self, results: xr.Dataset, figure: Figure) -> None:
        """Draw the difference by seed, beside the way that the parameters went."""
        axes = figure.subplots()
        names = {"FA minus DFA": "difference", "end minus start": "way"}
        dots(axes, {label: over_seeds(results, name) for label, name in names.items()})
        level(axes, 1e-6, "limit of the check")
        axes.set_yscale("symlog", linthresh=1e-8)
        axes.set_ylim(-1e-9, 10.0)
        axes.set_ylabel("largest difference (share of the largest parameter)")
        figure.legend(loc="outside lower right")

"""Shared feedback leads deep networks from different starts to like weights (R11)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
import xarray as xr

from alignlab.experiments._alignment import accuracy, weights_of
from alignlab.experiments._base import Case, Check, Claim, Setting, Work
from alignlab.experiments._checking import mean_check
from alignlab.experiments._deep_digits import data_of, feedback_rule, started, taught
from alignlab.experiments._selection import chosen
from alignlab.experiments.refinetti2021._pairs import (
    GROUPS,
    cases_of_pairs,
    cosines_of_pairs,
    draw_pairs,
    group_of,
    pair_check,
)
from alignlab.rules import BP
from alignlab.schedules import at

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from alignlab.training import Moment

__all__ = ["DeepDegeneracy"]

_STATED = {
    ("tanh", "shared"): ".538",
    ("tanh", "own"): "-.014",
    ("tanh", "bp"): "-.007",
    ("relu", "shared"): ".309",
    ("relu", "own"): ".019",
    ("relu", "bp"): ".013",
}


class DeepDegeneracy(Claim):
    """How alike are the weights that different starts end with?"""

    identity = "R11"
    statement = (
        "Among solutions of low loss direct feedback alignment goes to the one of largest "
        "alignment with its feedback, in deep non-linear networks too. Our test: runs from "
        "different initial weights end with like weights where they share the feedback, and not "
        "otherwise."
    )
    provenance = "read in the paper"
    source = (
        "Abstract: degeneracy breaking, and its occurrence in deep networks; the measure (mean "
        "pairwise cosine of all flattened weights) is read in its code; digits and bounds ours"
    )
    fast: ClassVar[Setting] = {
        "sizes": (64, 64, 64, 64, 10),
        "activations": ("tanh", "relu"),
        "samples": 1500,
        "lr": 0.003,
        "batch": 32,
        "epochs": 80,
        "inits": 3,
    }
    full: ClassVar[Setting | None] = {**fast, "inits": 10}
    caption = (
        "Cosine of all weights, flattened, of pairs of runs from different initial weights: DFA "
        "with one feedback for all, DFA with another feedback each, backpropagation. Digits "
        "({samples} to train, standardised globally), 64-64-64-64-10 without biases, torch's "
        "initial weights, summed cross-entropy, SGD lr {lr}, batch {batch}, {epochs} epochs, "
        "feedback U(-1,1)/8. Dots: pairs of {inits} runs; bars: mean over pairs and its 95% "
        "interval, by the jackknife over runs."
    )

    def cases(self, setting: Setting) -> Sequence[Case]:
        """Return rules, inits and feedback; the first run of shared feedback is one of its own."""
        return [
            case
            for name in setting["activations"]
            for case in cases_of_pairs(setting, activation=name)
        ]

    def measure(self, case: Case, setting: Setting, work: Work) -> xr.Dataset:
        """Train one network, and keep its weights as they were and are."""
        del work
        init, fed = int(case["init"]), 1000 + int(case["feedback"])
        model, _ = started(
            setting, activation=str(case["activation"]), seed=init, feedback_seed=fed
        )
        found = taught(
            *(model, BP() if case["rule"] == "bp" else feedback_rule(fed), setting),
            seed=init,
            watch=_weights,
            when=at(0),
        )
        data = data_of(setting)
        first, last = (each["weights"].numpy() for each in found.history)
        return xr.Dataset(
            {
                "initial": ("weight", first),
                "weights": ("weight", last),
                "accuracy": accuracy(model, data.x_test, data.y_test),
            }
        )

    def checks(self, results: xr.Dataset, setting: Setting) -> Sequence[Check]:
        """Hold the mean cosine over pairs against its bounds, and the accuracy of all."""
        found = []
        for activation in setting["activations"]:
            runs = chosen(results, activation=activation)
            for group in GROUPS:
                start = cosines_of_pairs(group_of(runs, group)["initial"].values).mean()
                stated = f"ours earlier: {_STATED[activation, group]}"
                chance = f"0; of initial weights {start:.4f}"
                found.append(pair_check(activation, runs, group, stated=stated, chance=chance))
            found.append(
                mean_check(
                    f"{activation}: least accuracy on the test digits",
                    [runs["accuracy"].values.min()],
                    least=0.95,
                    stated="ours earlier: .97 to .99",
                    chance=".1",
                )
            )
        return found

    def draw(self, results: xr.Dataset, figure: Figure) -> None:
        """Draw the pairs of every group, an axes for every activation."""
        draw_pairs(figure, results, key="activation")


def _weights(moment: Moment) -> dict[str, torch.Tensor]:
    return {"weights": torch.cat([w.flatten() for w in weights_of(moment.model)]).clone()}

"""A network learns although its hidden layers bring about none of the descent (R19)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
import xarray as xr

from alignlab.experiments._alignment import (
    accuracy,
    gradient_alignment,
    summed_cross_entropy,
)
from alignlab.experiments._base import Case, Check, Claim, Setting, Work
from alignlab.experiments._checking import mean_check
from alignlab.experiments._deep_digits import data_of, feedback_rule, started, taught
from alignlab.experiments._drawing import curve, legend_beside, level
from alignlab.experiments._selection import chosen, crossed
from alignlab.schedules import every

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from alignlab.training import Moment

__all__ = ["WithoutAlignment"]

_LABELS = {
    "large": "initial weights x 20",
    "large, frozen": "the same, hidden layers frozen",
    "default": "usual initial weights",
    "default, frozen": "the same, hidden layers frozen",
}


class WithoutAlignment(Claim):
    r"""The share of hidden layers in :math:`\langle g, u\rangle`, from large initial weights."""

    identity = "R19"
    statement = (
        "Alignment is not always what drives the descent. Our case: from large initial weights "
        "samples are fitted while hidden layers contribute nothing to the descent, to first order "
        "in the step."
    )
    provenance = "read in the paper"
    source = (
        "Abstract: alignment is not always what drives the descent; large initial weights as the "
        "case, and the share of hidden layers as the measure, are ours"
    )
    fast: ClassVar[Setting] = {
        "sizes": (64, 64, 64, 10),
        "samples": 1437,
        "lr": 0.001,
        "batch": 32,
        "epochs": 10,
        "factor": 20.0,
        "seeds": 5,
    }
    full: ClassVar[Setting | None] = {**fast, "seeds": 30}
    caption = (
        "Share of the hidden layers in the product of gradient and update, sum over l<L of "
        "<g_l,u_l> / <g,u> on all training samples, and accuracy on these, over 10 epochs of DFA "
        "on digits (1,437, standardised globally); relu 64-64-64-10 without biases, summed "
        "cross-entropy, SGD lr .001, batch 32, feedback U(-1,1)/8. Bands: 95% over 5 seeds of "
        "weights, feedback and order. The controls train the output layer alone."
    )

    def cases(self, setting: Setting) -> Sequence[Case]:
        """Return both sizes of initial weights, with and without learning hidden layers."""
        return crossed(start=_LABELS, seed=range(setting["seeds"]))

    def measure(self, case: Case, setting: Setting, work: Work) -> xr.Dataset:
        """Train and watch share and accuracy once an epoch."""
        del work
        seed, start = int(case["seed"]), str(case["start"])
        model, measured = started(setting, activation="relu", seed=seed, feedback_seed=1000 + seed)
        if start.startswith("large"):
            with torch.no_grad():
                for weight in model.parameters():
                    weight.mul_(setting["factor"])
        data = data_of(setting)

        def watch(moment: Moment) -> dict[str, float]:
            (found,) = gradient_alignment(
                moment.model, summed_cross_entropy, data.x, data.y, measured
            )
            right = accuracy(moment.model, data.x, data.y)
            return {"share": found.share, "alignment": found.total, "accuracy": right}

        names = [name for name, _ in model.named_parameters()]
        training = taught(
            *(model, feedback_rule(1000 + seed), setting),
            seed=seed,
            watch=watch,
            when=every(-(-setting["samples"] // setting["batch"])),
            frozen=tuple(names[:-1]) if start.endswith("frozen") else (),
        )
        seen = training.history
        values = {
            name: ("epoch", np.array([each[name] for each in seen]))
            for name in ("share", "alignment", "accuracy")
        }
        return xr.Dataset(values, {"epoch": np.arange(len(seen))})

    def checks(self, results: xr.Dataset, setting: Setting) -> Sequence[Check]:
        """Hold shares and accuracies against their bounds."""
        runs = {start: chosen(results, start=start) for start in _LABELS}
        late = runs["large"].sel(epoch=slice(3, None))
        end = setting["epochs"]
        right = {start: found["accuracy"].sel(epoch=end).values for start, found in runs.items()}
        return [
            mean_check(
                "initial weights x 20: largest absolute share of hidden layers, epochs 3 on",
                np.abs(late["share"].values).max(1),
                most=0.05,
                stated="ours earlier: at most .006",
                chance="0",
            ),
            mean_check(
                f"initial weights x 20: training accuracy after {end} epochs",
                right["large"],
                least=0.8,
                stated="ours earlier: .85 to .89 over epochs 3 to 10",
                chance=".1",
            ),
            mean_check(
                "usual initial weights: share of hidden layers at epoch 3",
                runs["default"]["share"].sel(epoch=3).values,
                least=0.2,
                stated="ours earlier: .36",
                chance="0",
            ),
            mean_check(
                "initial weights x 20, hidden layers frozen: training accuracy",
                right["large, frozen"],
                stated="ours earlier: .91",
            ),
            mean_check(
                "usual initial weights, hidden layers frozen: training accuracy",
                right["default, frozen"],
                stated="ours earlier: .51",
            ),
        ]

    def draw(self, results: xr.Dataset, figure: Figure) -> None:
        """Draw share and accuracy over epochs."""
        left, right = figure.subplots(1, 2)
        for number, (start, label) in enumerate(_LABELS.items()):
            runs = chosen(results, start=start)
            is_frozen = start.endswith("frozen")
            style = {"color": f"C{number // 2}", "ls": ":" if is_frozen else "-"}
            if not is_frozen:
                curve(left, runs["epoch"].values, runs["share"].values, label, **style)
            curve(right, runs["epoch"].values, runs["accuracy"].values, label, **style)
        level(left, 0.0, "chance")
        level(right, 0.1, "chance")
        left.set(xlabel="epoch", ylabel="share of hidden layers in <g, u>")
        right.set(xlabel="epoch", ylabel="accuracy on training digits")
        legend_beside(right)

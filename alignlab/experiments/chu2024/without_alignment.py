"""From large weights a network learns while its hidden layers bring about no descent (R19)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
import xarray as xr

from alignlab.experiments._alignment import (
    accuracy,
    drawn,
    feedback_matrices,
    gradient_alignment,
    summed_cross_entropy,
    weight_alignment,
    weights_of,
)
from alignlab.experiments._base import Case, Check, Claim, Setting, Work
from alignlab.experiments._checking import mean_check
from alignlab.experiments._deep_digits import data_of, feedback_rule, started, taught
from alignlab.experiments._drawing import curve, legend_beside, level
from alignlab.experiments._selection import chosen, crossed
from alignlab.schedules import every

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import nn

    from alignlab.experiments._digits import Digits
    from alignlab.training import Moment

__all__ = ["WithoutAlignment"]

_LABELS = {
    "large": "initial weights x 20",
    "large, frozen": "the same, hidden layers frozen",
    "default": "usual initial weights",
    "default, frozen": "the same, hidden layers frozen",
}


_WATCHED = ("share", "alignment", "weight_alignment", "accuracy")


class WithoutAlignment(Claim):
    r"""The share of hidden layers in :math:`\langle g, u\rangle`, from large initial weights."""

    identity = "R19"
    statement = (
        "Alignment is not always what drives the descent. Our case: from initial weights twenty "
        "times the usual ones DFA learns the training samples while the hidden layers contribute "
        "next to nothing to the descent, to first order in the step."
    )
    provenance = "read in the paper"
    source = (
        "Abstract: alignment is not always what drives the descent; large initial weights as the "
        "case, the share of hidden layers as the measure, and both alignments beside it are ours"
    )
    fast: ClassVar[Setting] = {
        "sizes": (64, 64, 64, 10),
        "samples": 1437,
        "lr": 0.001,
        "batch": 32,
        "epochs": 10,
        "factor": 20.0,
        "redraws": 100,
        "seeds": 5,
    }
    full: ClassVar[Setting | None] = {**fast, "seeds": 30}
    caption = (
        "Share of the hidden layers in the product of gradient and update, sum over l<L of "
        "<g_l,u_l> / <g,u> on all training samples, gradient alignment (cosine of the error "
        "signals of all hidden layers of a sample, mean over these), and accuracy on them, over "
        "{epochs} epochs of DFA on digits ({samples}, standardised globally); relu 64-64-64-10 "
        "without biases, summed cross-entropy, SGD lr {lr}, batch {batch}, feedback U(-1,1)/8. "
        "Bands: 95% over {seeds} seeds of weights, feedback and order. The controls train the "
        "output layer alone."
    )

    def cases(self, setting: Setting) -> Sequence[Case]:
        """Return both sizes of initial weights, with and without learning hidden layers."""
        return crossed(start=_LABELS, seed=range(setting["seeds"]))

    def measure(self, case: Case, setting: Setting, work: Work) -> xr.Dataset:
        """Train and watch share, alignment and accuracy once an epoch; redraw at the end."""
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
            weights = weight_alignment(weights_of(moment.model), feedback_matrices(measured))
            right = accuracy(moment.model, data.x, data.y)
            numbers = (found.share, found.total, weights.total, right)
            return dict(zip(_WATCHED, numbers, strict=True))

        names = [name for name, _ in model.named_parameters()]
        training = taught(
            *(model, feedback_rule(1000 + seed), setting),
            seed=seed,
            watch=watch,
            when=every(-(-setting["samples"] // setting["batch"])),
            frozen=tuple(names[:-1]) if start.endswith("frozen") else (),
        )
        seen = training.history
        values = {name: ("epoch", np.array([each[name] for each in seen])) for name in _WATCHED}
        values |= _redrawn(model, data, setting, seed)
        return xr.Dataset(values, {"epoch": np.arange(len(seen))})

    def checks(self, results: xr.Dataset, setting: Setting) -> Sequence[Check]:
        """Hold shares and accuracies against their bounds."""
        runs = {start: chosen(results, start=start) for start in _LABELS}
        late = runs["large"].sel(epoch=slice(3, None))
        end = setting["epochs"]
        right = {start: found["accuracy"].sel(epoch=end).values for start, found in runs.items()}
        chance = {
            start: f"up to {_edge(found['fresh_share']):.3f} in 95% of redraws, at the end"
            for start, found in runs.items()
        }
        return [
            mean_check(
                "initial weights x 20: largest absolute share of hidden layers, epochs 3 on",
                np.abs(late["share"].values).max(1),
                most=0.05,
                stated="ours earlier: at most .006",
                chance=chance["large"],
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
                chance=chance["default"],
            ),
            mean_check(
                "initial weights x 20, hidden layers frozen: training accuracy",
                right["large, frozen"],
                stated="ours earlier: .91",
                chance=".1",
            ),
            mean_check(
                "usual initial weights, hidden layers frozen: training accuracy",
                right["default, frozen"],
                stated="ours earlier: .51",
                chance=".1",
            ),
            *(
                mean_check(
                    f"{_LABELS[start]}: {kind} alignment after {end} epochs",
                    runs[start][name].sel(epoch=end).values,
                    chance=f"absolute value up to {_edge(runs[start][f'fresh_{name}']):.3f} in "
                    "95% of redraws",
                )
                for start in ("large", "default")
                for name, kind in (("alignment", "gradient"), ("weight_alignment", "weight"))
            ),
        ]

    def draw(self, results: xr.Dataset, figure: Figure) -> None:
        """Draw share, alignment and accuracy over epochs."""
        left, middle, right = figure.subplots(1, 3)
        for number, (start, label) in enumerate(_LABELS.items()):
            runs = chosen(results, start=start)
            is_frozen = start.endswith("frozen")
            style = {"color": f"C{number // 2}", "ls": ":" if is_frozen else "-"}
            if not is_frozen:
                for axes, name in ((left, "share"), (middle, "alignment")):
                    curve(axes, runs["epoch"].values, runs[name].values, label, **style)
            curve(right, runs["epoch"].values, runs["accuracy"].values, label, **style)
        for axes in (left, middle):
            level(axes, 0.0, "chance")
        level(right, 0.1, "chance")
        left.set(xlabel="epoch", ylabel="share of hidden layers in <g, u>")
        middle.set(xlabel="epoch", ylabel="gradient alignment")
        right.set(xlabel="epoch", ylabel="accuracy on training digits")
        legend_beside(right)


def _redrawn(
    model: nn.Module, data: Digits, setting: Setting, seed: int
) -> dict[str, tuple[str, np.ndarray]]:
    """Return share and alignments at these weights with feedback that no training met."""
    seeds = range(100_000 * (seed + 1), 100_000 * (seed + 1) + setting["redraws"])
    fresh = [drawn(feedback_rule(each), model, data.x, data.y, seed=each) for each in seeds]
    found = gradient_alignment(model, summed_cross_entropy, data.x, data.y, *fresh)
    weights = weights_of(model)
    return {
        "fresh_share": ("draw", np.array([each.share for each in found])),
        "fresh_alignment": ("draw", np.array([each.total for each in found])),
        "fresh_weight_alignment": (
            "draw",
            np.array([weight_alignment(weights, feedback_matrices(r)).total for r in fresh]),
        ),
    }


def _edge(values: xr.DataArray) -> float:
    """Return what 95% of redraws of all runs do not exceed in absolute value."""
    return float(np.quantile(np.abs(values.values), 0.95))

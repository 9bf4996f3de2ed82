"""Alignment is what the weights remember of their feedback: fresh feedback has none (R24)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import xarray as xr

from alignlab.experiments._alignment import drawn, gradient_alignment, summed_cross_entropy
from alignlab.experiments._base import Case, Check, Claim, Setting, Work
from alignlab.experiments._checking import mean_check, share_check
from alignlab.experiments._deep_digits import data_of, feedback_rule, started, taught
from alignlab.experiments._drawing import legend_beside, level
from alignlab.experiments._selection import chosen, crossed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["RandomWalk"]


class RandomWalk(Claim):
    """Gradient alignment of trained weights with feedback that they have never met."""

    identity = "R24"
    statement = (
        "Feedback makes the update rule a random walk in weight space: for feedback drawn afresh "
        "the update has no preferred direction with respect to the gradient, at any weights. "
        "Alignment therefore measures what the weights remember of the feedback they had."
    )
    provenance = "our derivation"
    source = "Abstract: the update rule as a random walk in weight space (read); this test is ours"
    fast: ClassVar[Setting] = {
        "sizes": (64, 64, 64, 64, 10),
        "activations": ("tanh", "relu"),
        "samples": 1500,
        "lr": 0.003,
        "batch": 32,
        "epochs": 20,
        "redraws": 200,
        "probed": 300,
        "seeds": 4,
    }
    full: ClassVar[Setting | None] = {**fast, "epochs": 80, "redraws": 1000, "seeds": 10}
    caption = (
        "Gradient alignment (mean over 300 training samples of the cosine of error signals at the "
        "pre-activations, hidden layers one by one) after 20 epochs of DFA on 1,500 digits, with "
        "the feedback of the training (dots, one a seed) and with fresh feedback (bar: mean and "
        "central 95% of 200 redraws a seed); 64-64-64-64-10 without biases, summed cross-entropy, "
        "SGD lr .003, batch 32, feedback U(-1,1)/8."
    )

    def cases(self, setting: Setting) -> Sequence[Case]:
        """Return every activation for every seed."""
        return crossed(activation=setting["activations"], seed=range(setting["seeds"]))

    def measure(self, case: Case, setting: Setting, work: Work) -> xr.Dataset:
        """Train, then measure with the feedback of the training and with fresh ones."""
        del work
        seed = int(case["seed"])
        model, own = started(
            setting, activation=str(case["activation"]), seed=seed, feedback_seed=1000 + seed
        )
        taught(model, feedback_rule(1000 + seed), setting, seed=seed)
        data = data_of(setting)
        x, y = data.x[: setting["probed"]], data.y[: setting["probed"]]
        seeds = range(100_000 * (seed + 1), 100_000 * (seed + 1) + setting["redraws"])
        fresh = [drawn(feedback_rule(each), model, x, y, seed=each) for each in seeds]
        found = gradient_alignment(model, summed_cross_entropy, x, y, own, *fresh)
        layers = np.array([each.layers for each in found])
        return xr.Dataset(
            {
                "own": ("layer", layers[0]),
                "fresh": (("draw", "layer"), layers[1:]),
                "total": found[0].total,
                "fresh_total": ("draw", np.array([each.total for each in found[1:]])),
            }
        )

    def checks(self, results: xr.Dataset, setting: Setting) -> Sequence[Check]:
        """Hold fresh feedback against zero, and that of the training against fresh one."""
        width = setting["sizes"][1]
        found = []
        for activation in setting["activations"]:
            runs = chosen(results, activation=activation)
            bound = 3 / width**0.5
            fresh = runs["fresh_total"]
            found += [
                mean_check(
                    f"{activation}: mean alignment of all hidden layers with fresh feedback",
                    fresh.mean("draw").values,
                    least=-0.02,
                    most=0.02,
                    chance="0",
                ),
                mean_check(
                    f"{activation}: 99.7% quantile over draws and layers of the absolute alignment "
                    "with fresh feedback, mean over seeds",
                    np.quantile(np.abs(runs["fresh"].values), 0.997, axis=(1, 2)),
                    most=bound,
                    stated="3/sqrt(width)",
                ),
                mean_check(
                    f"{activation}: alignment of all hidden layers with the feedback of the "
                    "training",
                    runs["total"].values,
                    least=bound,
                    chance="0, with the spread of the fresh draws",
                ),
                share_check(
                    f"{activation}: alignment of all hidden layers as one vector exceeds that of "
                    f"all {setting['redraws']} fresh draws",
                    (runs["total"] > runs["fresh_total"].max("draw")).values,
                    chance=f"1/{setting['redraws'] + 1}",
                ),
            ]
        return found

    def draw(self, results: xr.Dataset, figure: Figure) -> None:
        """Draw the layers side by side, an axes for every activation."""
        names = list(dict.fromkeys(results["activation"].values))
        panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
        for axes, activation in zip(panels, names, strict=True):
            runs = chosen(results, activation=activation)
            for layer in range(runs.sizes["layer"]):
                own = runs["own"].values[:, layer]
                fresh = runs["fresh"].values[:, :, layer].ravel()
                low, high = np.quantile(fresh, [0.025, 0.975])
                mean = fresh.mean()
                label = (
                    ("feedback of the training", "fresh feedback") if layer == 0 else (None,) * 2
                )
                axes.plot(np.full(len(own), layer + 1), own, "o", color="C0", label=label[0])
                axes.errorbar(
                    *([layer + 1.15], [mean]),
                    yerr=[[mean - low], [high - mean]],
                    **{"fmt": "_", "color": "C3", "capsize": 4, "label": label[1]},
                )
            axes.set(title=activation, xlabel="hidden layer", xticks=range(1, layer + 2))
            axes.set_xlim(0.6, layer + 1.6)
            level(axes, 0.0, "chance")
        panels[0].set_ylabel("gradient alignment")
        legend_beside(axes)

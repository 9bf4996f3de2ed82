"""Trained weights align with the feedback they had; with fresh feedback only by chance (R24)."""

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
from alignlab.experiments.chu2024._fresh_spread import fresh_spread

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["RandomWalk"]


class RandomWalk(Claim):
    """Gradient alignment of trained weights with feedback that they have never met."""

    identity = "R24"
    statement = (
        "At trained weights the update by feedback drawn afresh has no preferred direction with "
        "respect to the gradient: its alignment spreads around zero as far as the closed form for "
        "random feedback says. With the feedback of the training alignment is larger than with "
        "any fresh one: it measures what the weights remember of that feedback."
    )
    provenance = "our derivation"
    source = (
        "Abstract: the update rule as a random walk in weight space (read; not tested as such); "
        "this test and the closed form of the spread are ours"
    )
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
        "Gradient alignment (mean over {probed} training samples of the cosine of error signals "
        "at the pre-activations, hidden layers one by one) after {epochs} epochs of DFA on "
        "{samples} digits, with the feedback of the training (dots, one for each of {seeds} "
        "seeds) and with fresh feedback (bar: mean and central 95% of {redraws} redraws a seed); "
        "64-64-64-64-10 without biases, summed cross-entropy, SGD lr {lr}, batch {batch}, "
        "feedback U(-1,1)/8. Dashed: 1.96 standard deviations by the closed form, mean of the "
        "seeds."
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
                "spread": (
                    "layer",
                    fresh_spread(model, x, y, activation=str(case["activation"])),
                ),
                "total": found[0].total,
                "fresh_total": ("draw", np.array([each.total for each in found[1:]])),
            }
        )

    def checks(self, results: xr.Dataset, setting: Setting) -> Sequence[Check]:
        """Hold fresh feedback against the closed form, and that of the training against fresh."""
        return [
            check
            for activation in setting["activations"]
            for check in _of_activation(chosen(results, activation=activation), activation)
        ]

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
                edge = 1.96 * float(runs["spread"][:, layer].mean())
                for height in (-edge, edge):
                    label_of = "closed form" if layer == 0 and height > 0 else None
                    axes.hlines(
                        *(height, layer + 0.95, layer + 1.35),
                        **{"color": "black", "ls": "--", "lw": 1, "label": label_of},
                    )
            axes.set(title=activation, xlabel="hidden layer", xticks=range(1, layer + 2))
            axes.set_xlim(0.6, layer + 1.6)
            level(axes, 0.0, "chance")
        panels[0].set_ylabel("gradient alignment")
        legend_beside(axes)


def _of_activation(runs: xr.Dataset, activation: str) -> list[Check]:
    fresh, own = runs["fresh"], runs["own"]
    above = float(np.quantile(np.abs(runs["fresh_total"].values), 0.95))
    draws = fresh.sizes["draw"]
    exceeds_all = (own > fresh.max("draw")).all("layer")
    return [
        mean_check(
            f"{activation}: mean alignment of all hidden layers with fresh feedback, zero by the "
            "symmetry of its distribution",
            runs["fresh_total"].mean("draw").values,
        ),
        mean_check(
            f"{activation}: standard deviation over fresh draws of a layer's alignment, of the "
            "closed form, mean over layers",
            (fresh.std("draw", ddof=1) / runs["spread"]).mean("layer").values,
            near=(1.0, 0.15),
        ),
        mean_check(
            f"{activation}: that standard deviation, mean over layers",
            fresh.std("draw", ddof=1).mean("layer").values,
            chance=f"{float(runs['spread'].mean()):.3f} by the closed form",
        ),
        mean_check(
            f"{activation}: alignment of all hidden layers with the feedback of the training",
            runs["total"].values,
            chance=f"absolute value up to {above:.3f} in 95% of fresh draws",
        ),
        share_check(
            f"{activation}: that alignment exceeds that of all {draws} fresh draws",
            (runs["total"] > runs["fresh_total"].max("draw")).values,
            chance=f"{1 / (draws + 1):.4f}",
        ),
        share_check(
            f"{activation}: so does that of every hidden layer by itself",
            exceeds_all.values,
            chance=f"{(1 / (draws + 1)) ** fresh.sizes['layer']:.0e}",
        ),
    ]

"""Noise in the labels delays alignment (R13)."""

from __future__ import annotations

from collections.abc import Sequence
from math import factorial
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import xarray as xr

from alignlab.experiments._base import Case, Check, Claim, Setting, Work
from alignlab.experiments._checking import mean_check, share_check
from alignlab.experiments._drawing import curve, legend_beside
from alignlab.experiments._selection import chosen, over_seeds
from alignlab.experiments.refinetti2021._half_times import along_epochs, noisy_training

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["LabelNoise"]

_STATED = {0.0: ("2.3", ".71", ".449"), 0.5: ("4.7", ".73", ".465"), 0.9: ("15.2", ".74", ".479")}
_STATED_ORDER = "ours earlier: 2.3 < 4.7 < 15.2"


class LabelNoise(Claim):
    """When does the first layer align, with ever more labels drawn at random?"""

    identity = "R13"
    statement = (
        "The more labels are noise, the later the first hidden layer reaches half of its gradient "
        "alignment. Nothing is asked of the alignment that is reached in the end."
    )
    provenance = "our derivation"
    source = (
        "Its code trains on noisy labels and plots alignment over epochs; what is to come out "
        "was measured by us"
    )
    fast: ClassVar[Setting] = {
        "sizes": (64, 64, 64, 64, 10),
        "activation": "tanh",
        "samples": 1500,
        "lr": 0.003,
        "batch": 32,
        "epochs": 200,
        "noise": (0.0, 0.5, 0.9),
        "probed": 300,
        "probes": 40,
        "seeds": 3,
    }
    full: ClassVar[Setting | None] = {**fast, "noise": (0.0, 0.1, 0.2, 0.5, 0.9), "seeds": 10}
    caption = (
        "Gradient alignment of the first hidden layer, and weight alignment of all layers "
        "together, over training by DFA with a share p of the labels drawn anew from all classes "
        "(.9 p of them wrong; the test labels are clean and not used). Alignment: mean over "
        "{probed} training samples, with their labels of the training, of the cosine of error "
        "signals at the pre-activations. Digits ({samples}, standardised globally), tanh "
        "64-64-64-64-10 without biases, summed cross-entropy, SGD lr {lr}, batch {batch}, "
        "{epochs} epochs, feedback U(-1,1)/8. Bands: 95% over seeds of weights, feedback, order "
        "and noise."
    )

    def cases(self, setting: Setting) -> Sequence[Case]:
        """Return every noise for every seed."""
        seeds = range(setting["seeds"])
        return [{"noise": float(p), "seed": 10 + s} for p in setting["noise"] for s in seeds]

    def measure(self, case: Case, setting: Setting, work: Work) -> xr.Dataset:
        """Train and watch."""
        del work
        return noisy_training(
            setting,
            activation=setting["activation"],
            noise=float(case["noise"]),
            seed=int(case["seed"]),
        )

    def checks(self, results: xr.Dataset, setting: Setting) -> Sequence[Check]:
        """Hold half-times against the order of the noise, seed by seed; show what is reached."""
        found = []
        for noise in setting["noise"]:
            runs = chosen(results, noise=float(noise))
            stated = [f"ours earlier: {one}" for one in _STATED.get(noise, ())] or [""] * 3
            columns = {
                "epochs to half of the alignment of the first hidden layer": runs[
                    "half_time_gradient"
                ][:, 0],
                "its final gradient alignment": runs["gradient"][:, -1, 0],
                "final weight alignment of all layers": runs["weight_total"][:, -1],
            }
            found += [
                mean_check(f"p={noise:g}: {what}", values.values, stated=said)
                for (what, values), said in zip(columns.items(), stated, strict=True)
            ]
        times = np.array(
            [
                over_seeds(results, "half_time_gradient", noise=float(noise))[:, 0]
                for noise in setting["noise"]
            ]
        )
        found.append(
            share_check(
                "the half-time of the first hidden layer rises with p",
                np.all(np.diff(times, axis=0) > 0, axis=0).tolist(),
                stated=_STATED_ORDER if list(setting["noise"]) == list(_STATED) else "",
                chance=f"1/{factorial(len(setting['noise']))}",
            )
        )
        return found

    def draw(self, results: xr.Dataset, figure: Figure) -> None:
        """Draw both alignments over epochs, a curve for every noise."""
        left, right = figure.subplots(1, 2)
        for number, noise in enumerate(dict.fromkeys(results["noise"].values)):
            runs, style = chosen(results, noise=noise), {"color": f"C{number}"}
            epochs, label = runs["epoch"].values, f"p = {noise:g}"
            curve(left, epochs, runs["gradient"].values[:, :, 0], label, **style)
            curve(right, epochs, runs["weight_total"].values, label, **style)
            left.axvline(float(runs["half_time_gradient"][:, 0].mean()), ls=":", **style)
        for axes, name in ((left, "gradient alignment of layer 1"), (right, "weight alignment")):
            along_epochs(axes)
            axes.set_ylabel(name)
        legend_beside(right)

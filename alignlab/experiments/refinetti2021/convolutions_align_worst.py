"""Of hidden layers of equal units a second one that is a convolution aligns worst (R15)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import xarray as xr

from alignlab.experiments._alignment import (
    accuracy,
    drawn,
    gradient_alignment,
    summed_cross_entropy,
)
from alignlab.experiments._base import Case, Check, Claim, Setting, Work
from alignlab.experiments._checking import mean_check, share_check
from alignlab.experiments._deep_digits import data_of, feedback_rule, taught
from alignlab.experiments._drawing import dots, legend_beside, level
from alignlab.experiments._selection import chosen
from alignlab.experiments.refinetti2021._structured import (
    KINDS,
    attainable_alignment,
    structured_network,
    unrolled_alignment,
)
from alignlab.rules import BP

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["ConvolutionsAlignWorst"]

_NAMES = {"dense": "fully connected", "local": "locally connected", "convolution": "convolution"}
_STATED = {"dense": (".79", ".39", ".207", ".98"), "local": (".54", ".06", ".033", ".95"),
           "convolution": (".28", ".03", ".006", ".97")}  # fmt: skip


_STATED_GAPS = {"dense": ("ours earlier: .33", "ours earlier: .25"),
                "local": ("ours earlier: .03", "ours earlier: .26")}  # fmt: skip
"""Of the first and the second hidden layer."""
_GAP = 0.1


class ConvolutionsAlignWorst(Claim):
    """Gradient and weight alignment of layers of the same units with ever fewer free weights."""

    identity = "R15"
    statement = (
        "The theory of alignment suggests why direct feedback fails with convolutions. Our "
        "reading: their weights, unrolled, are too sparse and too much alike to follow the "
        "feedback. At equal units a layer of windows has less gradient alignment than a fully "
        "connected one, in both hidden layers, and in the second one that shares its weights has "
        "less again."
    )
    provenance = "read in the paper"
    source = (
        "Abstract: the conditioning of alignment matrices suggests why convolutions fail; the "
        "comparison at equal units, and its bounds, are ours"
    )
    fast: ClassVar[Setting] = {
        "samples": 1437,
        "batch": 32,
        "lr": 0.003,
        "epochs": 20,
        "probed": 300,
        "seeds": 3,
    }
    full: ClassVar[Setting | None] = {**fast, "seeds": 20}
    caption = (
        "After {epochs} epochs of DFA on digits (1,437 of 8x8 pixels, standardised globally): "
        "gradient alignment of both hidden layers (mean over 300 training samples of the cosine of "
        "error signals at the pre-activations, channels and positions flattened), and weight "
        "alignment of the second layer, unrolled, beside the largest it could have (bars). tanh, "
        "1x8x8 - 8x6x6 - 8x4x4 - 10 without biases; windows of 3x3; summed cross-entropy, SGD lr "
        ".003, batch 32; feedback U(-1,1) over the root of the units of the layer. Dots: {seeds} "
        "seeds of weights, feedback and order. The cosine of kernel gradients, summed over "
        "positions, is another number."
    )

    def cases(self, setting: Setting) -> Sequence[Case]:
        """Return every kind of layer by direct feedback, convolutions by backpropagation too."""
        runs = [("dfa", kind) for kind in KINDS] + [("bp", "convolution")]
        seeds = range(setting["seeds"])
        return [{"rule": r, "kind": k, "seed": s} for r, k in runs for s in seeds]

    def measure(self, case: Case, setting: Setting, work: Work) -> xr.Dataset:
        """Train, and measure alignment at the end."""
        del work
        seed = int(case["seed"])
        data = data_of(setting)
        images = data.x.unflatten(1, (1, 8, 8))
        model = structured_network(str(case["kind"]), seed=seed)
        fed = feedback_rule(1000 + seed)
        measured = drawn(fed, model, images, data.y, seed=fed.seed)
        rule = BP() if case["rule"] == "bp" else fed
        taught(model, rule, setting, seed=seed, images=(1, 8, 8))
        x, y = images[: setting["probed"]], data.y[: setting["probed"]]
        (found,) = gradient_alignment(model, summed_cross_entropy, x, y, measured)
        tests = data.x_test.unflatten(1, (1, 8, 8))
        return xr.Dataset(
            {
                "gradient": ("layer", found.layers),
                "weight": unrolled_alignment(model, measured).layers[0],
                "attainable": attainable_alignment(model, measured),
                "accuracy": accuracy(model, tests, data.y_test),
            },
            {"layer": np.array([1, 2])},
        )

    def checks(self, results: xr.Dataset, setting: Setting) -> Sequence[Check]:
        """Hold the gaps between kinds against their bounds."""
        del setting
        runs = {k: chosen(results, rule="dfa", kind=k) for k in KINDS}
        found = []
        for kind, (top, bottom, weight, right) in _STATED.items():
            columns = (
                ("gradient alignment of the second hidden layer", "gradient", 1, top),
                ("gradient alignment of the first", "gradient", 0, bottom),
                ("weight alignment of the second", "weight", None, weight),
                ("accuracy on the test digits", "accuracy", None, right),
            )
            for what, name, place, stated in columns:
                values = runs[kind][name].values
                values = values if place is None else values[:, place]
                text, chance = f"{_NAMES[kind]}: {what}", ".1" if name == "accuracy" else "0"
                found.append(
                    mean_check(text, values, stated=f"ours earlier: {stated}", chance=chance)
                )
        for more, less in (("dense", "local"), ("local", "convolution")):
            gap = (runs[more]["gradient"] - runs[less]["gradient"]).values
            what = f"{_NAMES[more]} minus {_NAMES[less]}: gradient alignment of the"
            first, second = _STATED_GAPS[more]
            least = _GAP if more == "dense" else None
            found += [
                mean_check(f"{what} second", gap[:, 1], least=_GAP, stated=second, chance="0"),
                mean_check(f"{what} first", gap[:, 0], least=least, stated=first, chance="0"),
            ]
        dense, local, convolution = (runs[k]["gradient"].values[:, 1] for k in KINDS)
        inside = [runs[k]["weight"] <= runs[k]["attainable"] + 1e-6 for k in KINDS]
        found += [
            mean_check(
                "cost of sharing less that of locality, second layer",
                2 * local - convolution - dense,
            ),
            share_check(
                "weight alignment is at most the attainable one (a theorem)",
                np.concatenate(inside),
                least=0.0,
            ),
            mean_check(
                "convolution by backpropagation: accuracy on the test digits",
                chosen(results, rule="bp")["accuracy"].values,
                stated="ours earlier: .98",
                chance=".1",
            ),
        ]
        return found

    def draw(self, results: xr.Dataset, figure: Figure) -> None:
        """Draw gradient alignment of both layers, and weight alignment with its bound."""
        panels = figure.subplots(1, 3)
        runs = {_NAMES[k].replace(" ", "\n"): chosen(results, rule="dfa", kind=k) for k in KINDS}
        for number, axes in enumerate(panels[:2]):
            dots(axes, {name: each["gradient"].values[:, number] for name, each in runs.items()})
            axes.set_ylabel(f"gradient alignment, hidden layer {number + 1}")
            axes.set_ylim(-0.1, 1)
        dots(panels[2], {name: each["weight"].values for name, each in runs.items()})
        for place, each in enumerate(runs.values()):
            height = float(each["attainable"].mean())
            label = "attainable" if place == 0 else None
            panels[2].plot([place - 0.3, place + 0.3], [height] * 2, color="C3", label=label)
        panels[2].set_ylabel("weight alignment, second layer")
        for axes in panels:
            level(axes, 0.0, "chance")
            axes.tick_params(axis="x", labelsize="small", rotation=30)
        legend_beside(panels[2])

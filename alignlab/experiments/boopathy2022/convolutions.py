"""Wide convolutional networks learn by Align rules as by backpropagation (A2b)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import xarray as xr

from alignlab.errors import DivergedError
from alignlab.experiments._base import Case, Check, Claim, Provenance, Setting, Work
from alignlab.experiments._checking import mean_check
from alignlab.experiments._drawing import level, whiskers
from alignlab.experiments._selection import crossed, over_seeds
from alignlab.experiments.boopathy2022._convolutions import Convolutional
from alignlab.experiments.boopathy2022._distance import distance_falls
from alignlab.experiments.boopathy2022._setting import (
    COLOURS,
    fit,
    rule_named,
    test_error,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Convolutions"]

ALIGNED = ("align-ada", "align-zero")


class Convolutions(Claim):
    """Test error of each rule by the number of maps, at one rate."""

    identity: ClassVar[str] = "A2b"
    statement: ClassVar[str] = (
        "The more maps a convolutional network has, the closer Align-zero and Align-ada come to "
        "backpropagation; there they are better than direct feedback alignment."
    )
    provenance: ClassVar[Provenance] = "recalled"
    source: ClassVar[str] = (
        "width sweeps; network, rules, rate and loss as in its code; bounds are those of our dense "
        "sweep, since none were measured for convolutions"
    )
    fast: ClassVar[Setting] = {
        "data": "digits",
        "rules": ("bp", "align-ada", "align-zero", "dfa"),
        "widths": (8, 64),
        "strides": (1, 2, 2),
        "edge": 8,
        "lr": 2.0,
        "batch_size": 100,
        "epochs": 30,
        "scaling": "unit",
        "seeds": 3,
    }
    full: ClassVar[Setting | None] = {
        "data": "mnist",
        "samples": 1000,
        "test": 2000,
        "rules": ("bp", "align-prop", "align-ada", "align-zero", "fa", "dfa", "last"),
        "widths": (16, 32, 64),
        "strides": (1, 2, 2),
        "edge": 28,
        "lr": 5.0,
        "batch_size": 100,
        "epochs": 20,
        "scaling": "unit",
        "seeds": 3,
    }
    full_data: ClassVar[tuple[str, ...]] = ("mnist",)
    caption: ClassVar[str] = (
        "Test error by maps of every convolution, mean over seeds with 95% interval and single "
        "runs. Three convolutions of 3 x 3 pixels with strides 1, 2, 2, each followed by the "
        "code's normalisation over the batch, by pixel and without parameters, at test, too, and "
        "ReLU; mean over pixels, readout; NTK parametrisation, squared error to one-hot targets "
        "less 0.1, plain gradient descent, batch 100, one draw of feedback a seed, which for DFA "
        "enters the last convolution at the means. Here {data}, rate {lr}, {epochs} epochs, "
        "{seeds} seeds; full: 1,000 images of MNIST, an hour or two on a CPU, where the code has "
        "all of KMNIST, up to 512 maps, 100 epochs and the best of the rates 5, 2 and 1. Dotted: "
        "chance."
    )

    def cases(self, setting: Setting) -> Sequence[Case]:
        """Return one run a rule, width and seed."""
        return crossed(rule=setting["rules"], width=setting["widths"], seed=range(setting["seeds"]))

    def measure(self, case: Case, setting: Setting, work: Work) -> xr.Dataset:
        """Train and take the test error; that of guessing where the training diverges."""
        seed, name = int(case["seed"]), str(case["rule"])
        model = Convolutional(
            int(case["width"]), edge=setting["edge"], strides=setting["strides"], seed=seed
        )
        rule = rule_named(name, seed=seed)
        try:
            fit(model, setting, work, name=name, seed=seed, lr=setting["lr"], rule=rule)
        except DivergedError:
            return xr.Dataset({"test_error": 90.0, "diverged": True})
        return xr.Dataset({"test_error": test_error(model, setting), "diverged": False})

    def checks(self, results: xr.Dataset, setting: Setting) -> Sequence[Check]:
        """Hold both rules against backpropagation and DFA, at the largest width."""
        narrow, wide = min(setting["widths"]), max(setting["widths"])
        at = {
            (rule, width): over_seeds(results, "test_error", rule=rule, width=width)
            for rule in ("bp", *ALIGNED, "dfa")
            for width in (narrow, wide)
        }
        found = [
            mean_check(
                f"test error of {rule} minus that of BP at {wide} maps, percentage points",
                at[rule, wide] - at["bp", wide],
                least=-2.5,
                most=2.5,
            )
            for rule in ALIGNED
        ]
        for rule in ALIGNED:
            gaps = [at[rule, width] - at["bp", width] for width in (narrow, wide)]
            what = f"distance of {rule} from BP at {narrow} maps minus that at {wide}"
            found.append(distance_falls(what, *gaps))
        found.append(
            mean_check(
                f"test error of DFA minus that of align-zero at {wide} maps, percentage points",
                at["dfa", wide] - at["align-zero", wide],
                above=0.0,
            )
        )
        return found + [
            mean_check(f"test error of {rule} at {width} maps, per cent", values, chance="90")
            for (rule, width), values in at.items()
        ]

    def draw(self, results: xr.Dataset, figure: Figure) -> None:
        """Draw the error of each rule over the width."""
        axes = figure.subplots()
        widths = np.unique(results["width"].values)
        rules = list(dict.fromkeys(results["rule"].values.tolist()))
        for place, rule in enumerate(rules):
            values = np.stack(
                [over_seeds(results, "test_error", rule=rule, width=int(w)) for w in widths], axis=1
            )
            # Side by side, since wide networks lie on each other.
            beside = widths * 1.04 ** (place - (len(rules) - 1) / 2)
            whiskers(axes, beside, values, rule, color=COLOURS[rule], linestyle="-")
        level(axes, 90.0, "chance")
        axes.set_xscale("log", base=2)
        axes.set_xticks(widths, [str(width) for width in widths])
        axes.set_ylim(0, 100)
        axes.set_xlabel("maps of every convolution")
        axes.set_ylabel("test error (%)")
        figure.legend(loc="outside right center")

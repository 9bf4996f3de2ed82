"""Wide networks learn by Align rules as by backpropagation, and far better than by DFA (A2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import xarray as xr

from alignlab.errors import DivergedError
from alignlab.experiments._base import Case, Check, Claim, Provenance, Setting, Work
from alignlab.experiments._checking import mean_check
from alignlab.experiments._drawing import curve, level
from alignlab.experiments._selection import chosen, crossed, over_seeds
from alignlab.experiments.boopathy2022._distance import distance_falls
from alignlab.experiments.boopathy2022._setting import (
    COLOURS,
    fit,
    network,
    rule_named,
    test_error,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["WidthSweep"]

ALIGNED = {"align-zero": "5.7 at 64", "align-ada": "3.8 at 64"}
"""Rules that are held, and how far each was from backpropagation in our earlier measure."""

EARLIER = "ours earlier, best of three rates"


class WidthSweep(Claim):
    """Test error of each rule by width, at its best rate."""

    identity: ClassVar[str] = "A2"
    statement: ClassVar[str] = (
        "The wider the network, the closer Align-zero and Align-ada come to backpropagation; "
        "there they are far better than direct feedback alignment."
    )
    provenance: ClassVar[Provenance] = "recalled"
    source: ClassVar[str] = (
        "width sweeps; rules, rates and loss as in its code; dense networks on digits where it has "
        "convolutions on CIFAR-10 and KMNIST, at one rate in fast; bounds are ours"
    )
    fast: ClassVar[Setting] = {
        "rules": ("bp", "align-ada", "align-zero", "dfa"),
        "widths": (64, 1024),
        "lrs": (2.0,),
        "depth": 2,
        "batch_size": 100,
        "epochs": 30,
        "scaling": "pixel",
        "seeds": 3,
    }
    full: ClassVar[Setting | None] = {
        "rules": ("bp", "align-prop", "align-ada", "align-zero", "fa", "dfa", "last"),
        "widths": (16, 64, 256, 1024, 4096),
        "lrs": (2.0, 1.0, 0.5),
        "depth": 2,
        "batch_size": 100,
        "epochs": 30,
        "scaling": "pixel",
        "seeds": 5,
    }
    caption: ClassVar[str] = (
        "Test error by width at the best of the rates, which is chosen by the mean over seeds on "
        "the same test samples; mean with 95% interval. Digits, 64-w-w-10 ReLU in the NTK "
        "parametrisation, squared error to one-hot targets less 0.1, plain gradient descent, rates "
        "{lrs}, batch {batch_size}, {epochs} epochs, {seeds} seeds, one draw of feedback each. "
        "Dotted: chance."
    )

    def cases(self, setting: Setting) -> Sequence[Case]:
        """Return one run a rule, width, rate and seed."""
        return crossed(
            rule=setting["rules"],
            width=setting["widths"],
            lr=setting["lrs"],
            seed=range(setting["seeds"]),
        )

    def measure(self, case: Case, setting: Setting, work: Work) -> xr.Dataset:
        """Train and take the test error; that of guessing where the loss is not finite."""
        seed, width = int(case["seed"]), int(case["width"])
        model = network(width, depth=setting["depth"], seed=seed)
        name, lr = str(case["rule"]), float(case["lr"])
        rule = rule_named(name, seed=seed)
        try:
            fit(model, setting, work, name=name, seed=seed, lr=lr, rule=rule)
        except DivergedError:
            return xr.Dataset({"test_error": 90.0, "diverged": True})
        return xr.Dataset({"test_error": test_error(model, setting), "diverged": False})

    def checks(self, results: xr.Dataset, setting: Setting) -> Sequence[Check]:
        """Hold both rules against backpropagation and DFA, at the largest width."""
        narrow, wide = min(setting["widths"]), 1024
        at = {
            (rule, width): _best(results, rule, width)
            for rule in ("bp", "align-ada", "align-zero", "dfa")
            for width in (narrow, wide)
        }
        found = [
            mean_check(
                f"test error of {rule} minus that of BP at width {wide}, percentage points",
                at[rule, wide] - at["bp", wide],
                least=-2.5,
                most=2.5,
                stated=f"{EARLIER}: 7.9 against 8.8",
                chance=f"{np.mean(at['dfa', wide] - at['bp', wide]):.1f} for DFA",
            )
            for rule in ALIGNED
        ]
        found += [
            mean_check(
                f"test error of DFA minus that of {rule} at width {wide}, percentage points",
                at["dfa", wide] - at[rule, wide],
                least=15.0,
                stated=f"{EARLIER}: 42.9 against 7.9",
                chance="0",
            )
            for rule in ALIGNED
        ]
        return found + [
            distance_falls(
                f"distance of {rule} from BP at width {narrow} minus that at {wide}",
                *(at[rule, width] - at["bp", width] for width in (narrow, wide)),
                stated=f"{EARLIER}: {gap}, 0.9 at 1024" if narrow == 64 else "",
            )
            for rule, gap in ALIGNED.items()
        ]

    def draw(self, results: xr.Dataset, figure: Figure) -> None:
        """Draw the error of each rule over the width."""
        axes = figure.subplots()
        widths = sorted({int(width) for width in results["width"].values})
        for rule in dict.fromkeys(results["rule"].values.tolist()):
            values = np.stack([_best(results, rule, width) for width in widths], axis=1)
            curve(axes, widths, values, label=rule, color=COLOURS[rule], marker=".")
        level(axes, 90.0, "chance")
        axes.set_xscale("log", base=2)
        axes.set_xticks(widths, [str(width) for width in widths])
        axes.set_ylim(0, 100)
        axes.set_xlabel("width (units)")
        axes.set_ylabel("test error (%)")
        figure.legend(loc="outside right center")


def _best(results: xr.Dataset, rule: str, width: int) -> np.ndarray:
    """Return the errors by seed at the rate with the least mean."""
    some = chosen(results, rule=rule, width=width)
    rates = dict.fromkeys(some["lr"].values.tolist())
    found = [over_seeds(some, "test_error", lr=lr) for lr in rates]
    best: np.ndarray = min(found, key=np.mean)
    return best

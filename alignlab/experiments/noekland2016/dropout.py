"""Dropout helps DFA, or at least does no harm (N10)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import xarray as xr
from torch import nn

from alignlab.experiments._base import Case, Check, Claim, Provenance, Setting, Work
from alignlab.experiments._checking import mean_check
from alignlab.experiments._drawing import dots_by
from alignlab.experiments._selection import crossed, over_seeds
from alignlab.experiments.noekland2016._setting import error, fit, images, network

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Dropout"]

RULES = ("bp", "dfa")
PARTS = ("without", "with")


class Dropout(Claim):
    """Test and training error with and without dropout."""

    identity: ClassVar[str] = "N10"
    statement: ClassVar[str] = (
        "Dropout works under direct feedback alignment: the test error is no higher with it."
    )
    provenance: ClassVar[Provenance] = "recalled"
    source: ClassVar[str] = (
        "table of test errors; shares 0.1 of inputs, 0.5 of units as in its code"
    )
    fast: ClassVar[Setting] = {
        "data": "digits",
        "in_features": 64,
        "widths": (256, 256),
        "inputs": 0.1,
        "units": 0.5,
        "lr": 1e-3,
        "batch_size": 64,
        "epochs": 60,
        "seeds": 3,
    }
    full: ClassVar[Setting | None] = {
        "data": "mnist",
        "in_features": 784,
        "widths": (800, 800),
        "inputs": 0.1,
        "units": 0.5,
        "lr": 1e-4,
        "batch_size": 64,
        "epochs": 300,
        "seeds": 3,
    }
    full_data: ClassVar[tuple[str, ...]] = ("mnist",)
    caption: ClassVar[str] = (
        "Test (left) and training error (right) at the end, in evaluation mode, without and with "
        "dropout of 10% of inputs and half of the hidden units; mean over seeds with 95% interval "
        "and single runs. Tanh, binary cross-entropy, RMSprop; DFA from zero with uniform "
        "feedback, backpropagation from torch's start. Chance: 90%."
    )

    def cases(self, setting: Setting) -> Sequence[Case]:
        """Return one run a rule, with and without dropout, and seed."""
        return crossed(rule=RULES, dropout=PARTS, seed=range(setting["seeds"]))

    def measure(self, case: Case, setting: Setting, work: Work) -> xr.Dataset:
        """Train and take both errors without dropping anything."""
        seen = images(setting["data"], device=work.device)
        is_on = case["dropout"] == "with"
        body = network(case, setting, dropout=setting["units"] if is_on else 0.0)
        model = nn.Sequential(nn.Dropout(setting["inputs"]), body) if is_on else body
        fit(model, case, setting, work)
        return xr.Dataset(
            {
                "train_error": error(model, seen.x, seen.y),
                "test_error": error(model, seen.x_test, seen.y_test),
            }
        )

    def checks(self, results: xr.Dataset, setting: Setting) -> Sequence[Check]:
        """Hold DFA with dropout against DFA without."""
        found = {
            (part, kind): over_seeds(results, f"{kind}_error", rule="dfa", dropout=part)
            for part in PARTS
            for kind in ("test", "train")
        }
        is_fast = setting["data"] == "digits"
        gap = {p: (found[p, "test"] - found[p, "train"]).mean() for p in PARTS}
        checks = [
            mean_check(
                "test error of DFA with dropout minus without (test less training error: "
                f"{gap['with']:.2f} with, {gap['without']:.2f} without), percentage points",
                found["with", "test"] - found["without", "test"],
                most=0.5,
                stated="" if is_fast else "recalled: 1.45 against 1.74",
            )
        ]
        if not is_fast:
            what = "test error of DFA with dropout, per cent"
            values = found["with", "test"]
            checks.append(
                mean_check(what, values, most=1.75, stated="1.45 in the abstract", chance="90")
            )
        return checks

    def draw(self, results: xr.Dataset, figure: Figure) -> None:
        """Draw test and training errors."""
        panels = figure.subplots(1, 2)
        for axes, kind in zip(panels, ("test", "train"), strict=True):
            dots_by(axes, results, f"{kind}_error", "rule", "dropout")
            axes.set_ylim(bottom=0)
            axes.set_ylabel(f"{'training' if kind == 'train' else kind} error (%)")

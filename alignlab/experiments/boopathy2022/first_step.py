"""In the first step all Align rules are backpropagation (A1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
import xarray as xr
from torch import nn

from alignlab.engine.capture import Capture
from alignlab.experiments._base import Case, Check, Claim, Provenance, Setting, Work
from alignlab.experiments._checking import worst_check
from alignlab.experiments._drawing import dots, level
from alignlab.experiments._selection import over_seeds
from alignlab.experiments.boopathy2022._recurrent import Recurrent, additions, summed_error
from alignlab.experiments.boopathy2022._setting import (
    data,
    network,
    rule_named,
    squared_error,
)
from alignlab.rules import Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FirstStep"]

RULES = ("align-prop", "align-ada", "align-zero")
KINDS = ("dense", "recurrent")


class FirstStep(Claim):
    """Each rule's first update against the gradient, dense and recurrent."""

    identity: ClassVar[str] = "A1"
    statement: ClassVar[str] = (
        "At the initial weights, Align-prop, Align-ada and Align-zero make the update of "
        "backpropagation, in dense networks and, with the corrected credit, in recurrent ones."
    )
    provenance: ClassVar[Provenance] = "our derivation"
    source: ClassVar[str] = "every factor that is frozen is then the present one"
    fast: ClassVar[Setting] = {
        "widths": (16, 256),
        "units": 32,
        "steps": 20,
        "scaling": "pixel",
        "seeds": 3,
    }
    caption: ClassVar[str] = (
        "Distance of each rule's first update from the gradient, over the norm of the gradient, "
        "all parameters stacked; points: mean over widths and seeds with 95% interval. Dense: "
        "64-w-w-10 ReLU in the NTK parametrisation, squared error, 100 digits; recurrent: 32 ReLU "
        "units on 20 steps of the Add task. Dotted: limit of the check."
    )

    def cases(self, setting: Setting) -> Sequence[Case]:
        """Return one run a network, its size and seed."""
        sizes = {"dense": setting["widths"], "recurrent": (setting["units"],)}
        return [
            {"kind": kind, "width": width, "seed": seed}
            for kind in KINDS
            for width in sizes[kind]
            for seed in range(setting["seeds"])
        ]

    def measure(self, case: Case, setting: Setting, work: Work) -> xr.Dataset:
        """Take the first update of every rule on one batch."""
        del work
        seed, width = int(case["seed"]), int(case["width"])
        if case["kind"] == "dense":
            seen = data(setting)
            model: nn.Module = network(width, depth=2, seed=seed)
            capture = Capture(model, squared_error, seen.x[:100], seen.y[:100])
        else:
            x, y = additions(50, steps=setting["steps"], seed=100 + seed)
            capture = Capture(Recurrent(width, seed=seed), summed_error, x, y)
        true = capture.reference(parameters=True)
        exact = torch.cat([one.flatten() for one in true.parameters.values()])
        found = []
        for name in RULES:
            rule = rule_named(name, seed=seed)
            updates = rule.updates(Task(capture, true), rule.start(capture, seed=seed)).parameters
            one = torch.cat([updates[key].flatten() for key in true.parameters])
            found.append(float((one - exact).norm() / exact.norm()))
        capture.close()
        return xr.Dataset({"distance": ("rule", found)}, {"rule": list(RULES)})

    def checks(self, results: xr.Dataset, setting: Setting) -> Sequence[Check]:
        """Hold the largest distance against rounding."""
        del setting
        found = []
        for kind in KINDS:
            for rule in RULES:
                distance = over_seeds(results, "distance", kind=kind, rule=rule)
                what = f"relative distance of {rule} from backpropagation in the first step, {kind}"
                found.append(worst_check(what, distance, most=1e-5, stated="ours earlier: 0"))
        return found

    def draw(self, results: xr.Dataset, figure: Figure) -> None:
        """Draw the distance of each rule."""
        panels = figure.subplots(1, 2, sharey=True)
        for axes, kind in zip(panels, KINDS, strict=True):
            distance = over_seeds(results, "distance", kind=kind)
            dots(axes, dict(zip(RULES, distance.T, strict=True)))
            level(axes, 1e-5, "limit of the check")
            axes.set_yscale("symlog", linthresh=1e-8)
            axes.set_title(kind)
        panels[0].set_ylabel("relative distance from the gradient (1)")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower right")

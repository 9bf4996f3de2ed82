"""From zero weights DFA learns, and backpropagation, ReLU networks and IFA do not (N4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import xarray as xr

from alignlab.experiments._base import Case, Check, Claim, Provenance, Setting, Work
from alignlab.experiments._checking import mean_check
from alignlab.experiments._drawing import dots_by, level
from alignlab.experiments._selection import over_seeds
from alignlab.experiments.noekland2016._setting import cosines, error, fit, images, network
from alignlab.schedules import at
from alignlab.training import Moment

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["ZeroWeights"]

NETWORKS = (("dfa", "tanh"), ("bp", "tanh"), ("dfa", "relu"), ("ifa", "tanh"))


class ZeroWeights(Claim):
    """Which rules leave the saddle at zero, and what no cosine can say there."""

    identity: ClassVar[str] = "N4"
    statement: ClassVar[str] = (
        "DFA trains a tanh network from zero weights. Backpropagation, DFA with ReLU, and IFA "
        "stay at chance from there, the upper weights of IFA exactly at zero; in the first step "
        "DFA's alignment is undefined."
    )
    provenance: ClassVar[Provenance] = "our derivation"
    source: ClassVar[str] = (
        "zero start as in its code; that others cannot leave it: products with zero weights, or "
        "with the derivative 0 of ReLU at 0"
    )
    fast: ClassVar[Setting] = {
        "data": "digits",
        "in_features": 64,
        "widths": (256, 256),
        "lr": 1e-3,
        "batch_size": 64,
        "epochs": 20,
        "seeds": 2,
    }
    full: ClassVar[Setting | None] = {
        "data": "mnist",
        "in_features": 784,
        "widths": (800, 800),
        "lr": 1e-4,
        "batch_size": 64,
        "epochs": 20,
        "seeds": 3,
    }
    full_data: ClassVar[tuple[str, ...]] = ("mnist",)
    caption: ClassVar[str] = (
        "Test error after {epochs} epochs from zero weights and biases, mean over seeds with 95% "
        "interval and single runs; two hidden layers, binary cross-entropy, RMSprop, uniform "
        "feedback, one draw a seed. Dotted: chance, 90%."
    )

    def cases(self, setting: Setting) -> Sequence[Case]:
        """Return one run a rule, activation and seed."""
        seeds = range(setting["seeds"])
        return [{"rule": r, "activation": a, "seed": seed} for r, a in NETWORKS for seed in seeds]

    def measure(self, case: Case, setting: Setting, work: Work) -> xr.Dataset:
        """Train from zero, with the alignment before the first step."""
        seen = images(setting["data"], device=work.device)
        model = network(case, setting, start="zero", activation=case["activation"])

        def look(moment: Moment) -> Mapping[str, Any]:
            is_first = moment.step == 0 and case["rule"] == "dfa"
            return cosines(moment, seen.x_test[:360], seen.y_test[:360]) if is_first else {}

        history = fit(model, case, setting, work, watch=look, when=at(0)).history
        upper = [p for name, p in model.named_parameters() if name in {"fc2.weight", "fc3.weight"}]
        largest = float(torch.stack([p.detach().abs().max() for p in upper]).max())
        first = history[0].get("cosine", np.full(len(setting["widths"]), np.nan))
        return xr.Dataset(
            {
                "test_error": error(model, seen.x_test, seen.y_test),
                "largest": largest,
                "n_defined": int(np.isfinite(np.asarray(first)).sum()),
            }
        )

    def checks(self, results: xr.Dataset, setting: Setting) -> Sequence[Check]:
        """Hold what is stuck against chance, and exact zeros against zero."""
        del setting
        found = [
            mean_check(
                f"test error from zero of {rule} with {activation}, per cent",
                over_seeds(results, "test_error", rule=rule, activation=activation),
                least=85.0,
                stated="ours earlier: 90",
                chance="90",
            )
            for rule, activation in NETWORKS[1:]
        ]
        tanh = {"rule": "dfa", "activation": "tanh"}
        test = over_seeds(results, "test_error", **tanh)
        found.append(
            mean_check(
                "test error from zero of dfa with tanh, per cent", test, most=10.0, chance="90"
            )
        )
        for what, values in (
            (
                "largest weight of IFA above the first layer, after training",
                over_seeds(results, "largest", rule="ifa"),
            ),
            (
                "layers where DFA's cosine is a number before the first step",
                over_seeds(results, "n_defined", **tanh),
            ),
        ):
            worst, runs = float(values.max()), len(values)
            found.append(Check(what, worst, "exactly 0", worst == 0, "algebraic", runs=runs))
        return found

    def draw(self, results: xr.Dataset, figure: Figure) -> None:
        """Draw the error of each network."""
        axes = figure.subplots()
        dots_by(axes, results, "test_error", "rule", "activation")
        level(axes, 90.0, "chance")
        axes.set_ylim(0, 100)
        axes.set_ylabel("test error (%)")
        figure.legend(loc="outside lower right")

"""Where errors vanish DFA and gradient rest together; elsewhere one may rest alone (R23)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import xarray as xr

from alignlab.experiments._alignment import drawn, gradient_alignment
from alignlab.experiments._base import Case, Check, Claim, Setting, Work
from alignlab.experiments._checking import mean_check
from alignlab.experiments._drawing import legend_beside
from alignlab.experiments.chu2024._counter_case import (
    Resting,
    rests_under_feedback,
    rests_under_gradient,
)
from alignlab.experiments.chu2024._interpolation import (
    feedback_rule,
    interpolated,
    samples,
    squared_error,
)
from alignlab.schedules import log_spaced
from alignlab.snapshot import MeasuredRule
from alignlab.training import Moment

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FixedPoints"]

_COLUMNS = ("loss", "gradient", "update")


class FixedPoints(Claim):
    """Do the fixed points of direct feedback coincide with those of the gradient?"""

    identity = "R23"
    statement = (
        "DFA can train until all errors vanish, and there its update and the gradient vanish "
        "together. Where errors remain either can vanish without the other, as two built networks "
        "show: fixed points of the rule are in general no stationary points of the loss, nor the "
        "other way round."
    )
    provenance = "our derivation"
    source = (
        "Abstract: fixed points of the update rule correspond to extrema of the loss (read; its "
        "conditions are not known to us, and without any it does not hold); what is tested is our "
        "derivation"
    )
    fast: ClassVar[Setting] = {
        "sizes": (10, 40, 40, 2),
        "samples": 12,
        "target": 0.7,
        "lr": 0.004,
        "steps": 5000,
        "stop_loss": None,
        "seeds": 3,
    }
    full: ClassVar[Setting | None] = {**fast, "steps": 12_000, "seeds": 16}
    caption = (
        "Norms of the gradient and of the DFA update over all weights, and the root of the summed "
        "squared error, over {steps} full-batch steps of DFA (lr {lr}) on {samples} samples with "
        "targets +-{target}; tanh 10-40-40-2 without biases, float64, feedback N(0, 1/40), one "
        "line a seed of weights, data and feedback. Right: norms in two linear networks of one "
        "hidden unit built so that errors remain and one of the two is zero."
    )

    def cases(self, setting: Setting) -> Sequence[Case]:
        """Return the seeds."""
        return [{"seed": seed} for seed in range(setting["seeds"])]

    def measure(self, case: Case, setting: Setting, work: Work) -> xr.Dataset:
        """Train and watch the norms; measure the two built networks beside it."""
        del work
        seed = int(case["seed"])
        x, y = samples(setting, seed)

        rule = feedback_rule(setting, seed)

        def watch(moment: Moment) -> dict[str, float]:
            measured = drawn(rule, moment.model, x, y, seed=rule.seed)
            (found,) = gradient_alignment(moment.model, squared_error, x, y, measured)
            loss = float(squared_error(moment.model(x), y).detach())
            return dict(zip(_COLUMNS, (loss, *found.norms), strict=True))

        _, _, training = interpolated("dfa", setting, seed=seed, watch=watch, when=log_spaced(10))
        seen = training.history
        values: dict[str, object] = {
            name: ("step", np.array([each[name] for each in seen])) for name in _COLUMNS
        }
        built = [_norms(rests_under_feedback()), _norms(rests_under_gradient())]
        values["built"] = (("network", "quantity"), np.array(built))
        return xr.Dataset(
            values,
            {
                "step": [each["step"] for each in seen],
                "network": ["update rests", "gradient rests"],
                "quantity": list(_COLUMNS),
            },
        )

    def checks(self, results: xr.Dataset, setting: Setting) -> Sequence[Check]:
        """Hold the loss at the end against that at the start, and the built norms against zero."""
        del setting
        first, last = results.isel(step=0), results.isel(step=-1)
        share = {n: (last[n] / first[n]).values for n in ("gradient", "update")}
        error = np.sqrt((last["loss"] / first["loss"]).values)
        ratio = (results["update"] / results["gradient"]).values
        built = results["built"].isel(run=0).to_series().to_dict()
        return [
            mean_check("largest root of the loss at the end, of that at the start",
                       [error.max()], most=1e-4),
            mean_check("largest norm of the gradient then, likewise", [share["gradient"].max()]),
            mean_check("largest norm of the update then, likewise", [share["update"].max()]),
            mean_check("least ratio of the norms of update and gradient on the way", [ratio.min()]),
            mean_check("largest such ratio", [ratio.max()]),
            mean_check("built network: norm of the update where the gradient's is not 0",
                       [built["update rests", "update"]], most=1e-12),
            mean_check("norm of the gradient there",
                       [built["update rests", "gradient"]], least=0.1),
            mean_check("built network: norm of the gradient where the update's is not 0",
                       [built["gradient rests", "gradient"]], most=1e-12),
            mean_check("norm of the update there", [built["gradient rests", "update"]], least=0.1),
        ]  # fmt: skip

    def draw(self, results: xr.Dataset, figure: Figure) -> None:
        """Draw the norms over the steps, and those of the built networks."""
        left, right = figure.subplots(1, 2, width_ratios=(2, 1))
        steps = results["step"].values + 1
        labels = {"gradient": "gradient", "update": "DFA update", "loss": "root of the loss"}
        for color, (name, label) in enumerate(labels.items()):
            for number, values in enumerate(results[name].values):
                shown = np.sqrt(values) if name == "loss" else values
                text = label if number == 0 else None
                left.loglog(steps, shown, color=f"C{color}", alpha=0.8, label=text)
        left.set(xlabel="1 + step", ylabel="norm")
        built = results["built"].isel(run=0)
        for place, name in enumerate(labels):
            heights = built.sel(quantity=name).values
            heights = np.sqrt(heights) if name == "loss" else heights
            right.bar(np.arange(2) + 0.25 * place, heights, 0.22, label=labels[name])
        right.set_xticks([0.25, 1.25], ["update\nrests", "gradient\nrests"])
        right.set_ylabel("norm")
        legend_beside(right)


def _norms(built: Resting) -> tuple[float, float, float]:
    """Return loss and norms of gradient and update of a built network."""
    rule = MeasuredRule(feedback_rule({"sizes": (2, 1, 2)}, 0), {"fc1": built.feedback}, "training")
    (found,) = gradient_alignment(built.model, squared_error, built.x, built.y, rule)
    return float(squared_error(built.model(built.x), built.y).detach()), *found.norms

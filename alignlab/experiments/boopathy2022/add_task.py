"""A recurrent network learns the Add task by Align rules (A5)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
import xarray as xr

from alignlab.errors import DivergedError
from alignlab.experiments._base import Case, Check, Claim, Provenance, Setting, Work
from alignlab.experiments._checking import mean_check, share_check
from alignlab.experiments._drawing import level, whiskers
from alignlab.experiments._selection import chosen, crossed, over_seeds
from alignlab.experiments.boopathy2022._recurrent import Recurrent, additions, summed_error
from alignlab.experiments.boopathy2022._setting import COLOURS, rule_named
from alignlab.schedules import every
from alignlab.training import Moment, Recipe, Training, train

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["AddTask"]

RULES = ("bp", "align-ada", "align-zero", "last")
LABELS = {"bp": "BPTT", "last": "readout alone"}
STATED = {
    128: {
        "bp": ".28 to .36",
        "align-ada": ".31 to .37",
        "align-zero": ".36 to .44",
        "last": ".54 to .75",
    },
    32: {
        "bp": ".37 to .44",
        "align-ada": ".42 to .44",
        "align-zero": ".49 to .67",
        "last": ".55 to .95",
    },
}
"""Our earlier losses by units, in 20 steps."""


class AddTask(Claim):
    """Test loss of each rule after training, the least of all epochs as in the code."""

    identity: ClassVar[str] = "A5"
    statement: ClassVar[str] = (
        "Recurrent networks learn the Add task by Align-zero and, with the corrected credit, by "
        "Align-ada, nearly as by backpropagation through time and far better than by their "
        "readout alone."
    )
    provenance: ClassVar[Provenance] = "recalled"
    source: ClassVar[str] = "Add task; network and loss as in its code, with the targets corrected"
    fast: ClassVar[Setting] = {
        "units": (32, 128),
        "steps": 20,
        "train": 300,
        "test": 100,
        "batch_size": 50,
        "lr": 1e-2,
        "epochs": 100,
        "seeds": 2,
        "seeds_of_fewer": 1,
    }
    full: ClassVar[Setting | None] = {
        "units": (128, 1024),
        "steps": 100,
        "train": 300,
        "test": 100,
        "batch_size": 50,
        "lr": 1e-3,
        "epochs": 200,
        "seeds": 3,
        "seeds_of_fewer": 3,
    }
    caption: ClassVar[str] = (
        "Least test loss over the epochs by units, squared error summed over steps, mean over "
        "seeds with 95% interval and single runs. ReLU units in the NTK parametrisation, zero "
        "first state, plain gradient descent. Dotted: expected loss of predicting one half; "
        "dashed: of the best constant. Of a run that diverges the epochs before count. Fast: one "
        "run with 32 units, two with 128."
    )

    def cases(self, setting: Setting) -> Sequence[Case]:
        """Return one run a rule, number of units and seed."""
        *fewer, most = sorted(setting["units"])
        return [
            *crossed(rule=RULES, width=(most,), seed=range(setting["seeds"])),
            *crossed(rule=RULES, width=fewer, seed=range(setting["seeds_of_fewer"])),
        ]

    def measure(self, case: Case, setting: Setting, work: Work) -> xr.Dataset:
        """Train and take the test loss after every epoch, as far as it is finite."""
        seed = int(case["seed"])
        x_test, y_test = additions(setting["test"], steps=setting["steps"], seed=200 + seed)
        x_test, y_test = x_test.to(work.device), y_test.to(work.device)

        @torch.no_grad()
        def look(moment: Moment) -> Mapping[str, float]:
            return {"loss": float(summed_error(moment.model(x_test), y_test))}

        try:
            found, diverged = _trained(case, setting, work, watch=look), False
        except DivergedError as error:
            found, diverged = error.reached, True
        losses = [each["loss"] for each in found.history if math.isfinite(each["loss"])]
        half, constant = expected_losses(setting["steps"])
        return xr.Dataset(
            {
                "least_loss": min(losses, default=math.nan),
                "diverged": diverged,
                "loss_of_half": half,
                "loss_of_constant": constant,
            }
        )

    def checks(self, results: xr.Dataset, setting: Setting) -> Sequence[Check]:
        """Hold the rules against readout, backpropagation and constant, at the most units."""
        *fewer, most = sorted(setting["units"])
        loss = {rule: over_seeds(results, "least_loss", rule=rule, width=most) for rule in RULES}
        _, constant = expected_losses(setting["steps"])
        stated = STATED.get(most, {}) if setting["steps"] == 20 else {}
        found = []
        for rule, other, bound in (
            ("align-zero", "last", 0.75),
            ("align-ada", "last", 0.75),
            ("align-ada", "bp", 1.25),
        ):
            ratio = float(loss[rule].mean() / loss[other].mean())
            named = "the readout alone" if other == "last" else "BP"
            what = f"mean test loss of {rule} over that of {named}, {most} units"
            text = f"ours earlier: {stated[rule]} against {stated[other]}" if stated else ""
            passed, runs = ratio <= bound, len(loss[rule])
            found.append(Check(what, ratio, f"<= {bound}", passed, text, runs=runs))
        bounds = {most: round(0.8 * constant, 3)}
        for units in (most, *fewer):
            found += [
                _loss_check(results, setting, rule=rule, units=units, most=bounds.get(units))
                for rule in RULES
            ]
            diverged = chosen(results, width=units)["diverged"].values
            found.append(share_check(f"runs that diverged, {units} units", diverged, least=0.0))
        return found

    def draw(self, results: xr.Dataset, figure: Figure) -> None:
        """Draw the loss of each rule over the units."""
        axes = figure.subplots()
        units = np.unique(results["width"].values)
        for place, rule in enumerate(RULES):
            name, color = LABELS.get(rule, rule), COLOURS[rule]
            # Side by side, since the rules lie on each other.
            beside = units * 1.04 ** (place - (len(RULES) - 1) / 2)
            loss = [over_seeds(results, "least_loss", rule=rule, width=int(n)) for n in units]
            axes.plot(beside, [each.mean() for each in loss], color=color, label=name)
            for x, each in zip(beside, loss, strict=True):
                whiskers(axes, [x], each[:, None], "", color=color)
        half, constant = (
            float(results[name].values.flat[0]) for name in ("loss_of_half", "loss_of_constant")
        )
        level(axes, half, "one half")
        axes.axhline(constant, color="grey", ls="--", lw=1, label="best constant")
        axes.set_xscale("log", base=2)
        axes.set_xticks(units, [str(n) for n in units])
        axes.set_ylim(bottom=0)
        axes.set_xlabel("units")
        axes.set_ylabel("least test loss (squared error, summed over steps)")
        figure.legend(loc="outside right center")


def _trained(
    case: Case, setting: Setting, work: Work, *, watch: Callable[[Moment], Mapping[str, float]]
) -> Training:
    """Train the network of a case, and look at it after every epoch."""
    seed, name = int(case["seed"]), str(case["rule"])
    x, y = additions(setting["train"], steps=setting["steps"], seed=100 + seed)
    model = Recurrent(int(case["width"]), seed=seed).to(work.device)
    body = tuple(n for n, _ in model.named_parameters() if not n.startswith("out."))
    return train(
        model,
        summed_error,
        x=x.to(work.device),
        y=y.to(work.device),
        rule=rule_named(name, seed=seed),
        recipe=Recipe(
            epochs=setting["epochs"],
            batch_size=setting["batch_size"],
            optimizer="sgd",
            optimizer_options={"lr": setting["lr"]},
            frozen=body if name == "last" else (),
            order_seed=1000 + seed,
        ),
        watch=watch,
        when=every(-(-setting["train"] // setting["batch_size"])),
        keep=work.folder / "training.pt",
        progress=work.progress,
    )


def _loss_check(
    results: xr.Dataset, setting: Setting, *, rule: str, units: int, most: float | None
) -> Check:
    stated = STATED.get(units, {}).get(rule, "") if setting["steps"] == 20 else ""
    return mean_check(
        f"test loss of {rule}, {units} units",
        over_seeds(results, "least_loss", rule=rule, width=units),
        most=most,
        stated=f"ours earlier: {stated}" if stated else "",
        chance=f"best constant {expected_losses(setting['steps'])[1]:.2f}",
    )


def expected_losses(steps: int) -> tuple[float, float]:
    r"""Return the expected losses of predicting one half, and of the best constant.

    Inputs are 0 or 1 with even chances, and :math:`y_t - \frac12 = \frac12 x_{t-2} -
    \frac14 x_{t-5}`, where what lies before the first step is 0 (our derivation).

    Args:
        steps: Of a sequence, at least 5.

    Example:
        >>> expected_losses(20)[0]
        1.78125
    """
    # Of 0.5 x and of 0.5 x - 0.25 x', with x and x' even coins: mean, and second moment.
    early, late = (0.25, 0.125), (0.125, 0.09375)
    n_early, n_late = 3, steps - 5
    half = n_early * early[1] + n_late * late[1]
    mean = (n_early * early[0] + n_late * late[0]) / steps
    return half, half - steps * mean**2

"""Recurrent networks that learn the Add task, with the targets of the code or causal ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from alignlab.errors import DivergedError
from alignlab.experiments._base import Case, Check, Claim, Setting, Work
from alignlab.experiments._checking import mean_check, ratio_check, share_check
from alignlab.experiments._drawing import level, whiskers
from alignlab.experiments._selection import chosen, crossed, over_seeds
from alignlab.experiments.boopathy2022._recurrent import (
    Recurrent,
    additions,
    expected,
    summed_error,
)
from alignlab.experiments.boopathy2022._setting import COLOURS, rule_named
from alignlab.schedules import every
from alignlab.training import Moment, Recipe, Training, train

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CAPTION", "FULL", "SIZES", "Additions"]

RULES = ("bp", "align-ada", "align-zero", "last")
LABELS = {"bp": "BPTT", "last": "readout alone"}
NAMES = {"bp": "BP", "last": "the readout alone"}
SIZES = {
    "steps": 20,
    "train": 300,
    "test": 100,
    "batch_size": 50,
    "lr": 1e-2,
    "epochs": 100,
    "seeds": 3,
}
"""What the fast settings have in common."""

FULL = {
    "units": (128, 1024),
    "steps": 100,
    "train": 300,
    "test": 100,
    "batch_size": 50,
    "lr": 1e-3,
    "epochs": 200,
    "seeds": 3,
}
"""The full settings."""

BOUNDS = {"last": 0.75, "bp": 1.25}
"""Of the loss of the Align rules over that of the readout alone and of backpropagation; ours."""

CAPTION = (
    "Least test loss over the epochs by units, squared error summed over {steps} steps, mean over "
    "{seeds} seeds with 95% interval and single runs. ReLU units in the NTK parametrisation, zero "
    "first state, plain gradient descent at rate {lr}, {train} sequences in batches of "
    "{batch_size}, {epochs} epochs. "
)
"""What the captions have in common."""


class Additions(Claim):
    """Test loss of each rule after training, the least of all epochs as in the code.

    Attributes:
        is_published: Whether the targets are those of the published code.
        stated: Earlier losses by units and rule, in 20 steps.
    """

    is_published: ClassVar[bool]
    stated: ClassVar[Mapping[int, Mapping[str, str]]]

    def cases(self, setting: Setting) -> Sequence[Case]:
        """Return one run a rule, number of units and seed."""
        return crossed(rule=RULES, width=setting["units"], seed=range(setting["seeds"]))

    def measure(self, case: Case, setting: Setting, work: Work) -> xr.Dataset:
        """Train and take the test loss after every epoch, as far as it is finite."""
        seed = int(case["seed"])
        x, y = (each.to(work.device) for each in self._drawn(setting, "test", 200 + seed))

        @torch.no_grad()
        def look(moment: Moment) -> Mapping[str, float]:
            return {"loss": float(summed_error(moment.model(x), y))}

        try:
            training = self._drawn(setting, "train", 100 + seed)
            found, diverged = _trained(case, setting, work, *training, watch=look), False
        except DivergedError as error:
            found, diverged = error.reached, True
        losses = [each["loss"] for each in found.history if math.isfinite(each["loss"])]
        known = expected(x) if self.is_published else y
        return xr.Dataset(
            {
                "least_loss": min(losses, default=math.nan),
                "diverged": diverged,
                **{
                    f"loss_of_{name}": float(summed_error(guess.expand_as(y), y))
                    for name, guess in (("half", y.new_tensor(0.5)), ("constant", y.mean()))
                },
                "loss_of_known": float(summed_error(known, y)),
            }
        )

    def _drawn(self, setting: Setting, part: str, seed: int) -> tuple[Tensor, Tensor]:
        steps, is_published = setting["steps"], self.is_published
        return additions(setting[part], steps=steps, seed=seed, is_published=is_published)

    def checks(self, results: xr.Dataset, setting: Setting) -> Sequence[Check]:
        """Hold the rules against readout, backpropagation and constant, at the most units."""
        *fewer, most = sorted(setting["units"])
        loss = {rule: over_seeds(results, "least_loss", rule=rule, width=most) for rule in RULES}
        constant = float(chosen(results, rule="bp", width=most)["loss_of_constant"].mean())
        stated = self.stated.get(most, {}) if setting["steps"] == 20 else {}
        found = [
            _over(loss, rule, other, units=most, most=bound, stated=stated)
            for other, bound in BOUNDS.items()
            for rule in ("align-zero", "align-ada")
        ]
        bounds = {most: round(0.8 * constant, 3)}
        for units in (most, *fewer):
            found += [
                self._loss_check(results, setting, rule, units=units, most=bounds.get(units))
                for rule in RULES
            ]
            diverged = chosen(results, width=units)["diverged"].values
            found.append(share_check(f"runs that diverged, {units} units", diverged, least=0.0))
        return found

    def _loss_check(
        self, results: xr.Dataset, setting: Setting, rule: str, *, units: int, most: float | None
    ) -> Check:
        stated = self.stated.get(units, {}).get(rule, "") if setting["steps"] == 20 else ""
        runs = chosen(results, rule=rule, width=units)
        guessing, known = (float(runs[f"loss_of_{n}"].mean()) for n in ("constant", "known"))
        return mean_check(
            f"test loss of {rule}, {units} units",
            over_seeds(results, "least_loss", rule=rule, width=units),
            most=most,
            stated=f"ours earlier: {stated}" if stated else "",
            chance=f"best constant {guessing:.2f}, all that is known {known:.2f}",
        )

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
        half, constant, known = (
            float(results[f"loss_of_{name}"].mean()) for name in ("half", "constant", "known")
        )
        level(axes, half, "one half")
        if known:
            axes.axhline(known, color="grey", ls="-.", lw=1, label="all that is known")
        axes.axhline(constant, color="grey", ls="--", lw=1, label="best constant")
        axes.set_xscale("log", base=2)
        axes.set_xticks(units, [str(n) for n in units])
        axes.set_ylim(bottom=0)
        axes.set_xlabel("units")
        axes.set_ylabel("least test loss (squared error, summed over steps)")
        figure.legend(loc="outside right center")


def _over(
    loss: Mapping[str, np.ndarray],
    rule: str,
    other: str,
    *,
    units: int,
    most: float,
    stated: Mapping[str, str],
) -> Check:
    """Return the ratio of the mean losses of two rules, with its interval over paired seeds."""
    without = float(loss["last"].mean() / loss[other].mean())
    return ratio_check(
        f"mean test loss of {rule} over that of {NAMES[other]}, {units} units",
        *(loss[rule], loss[other]),
        most=most,
        stated=f"ours earlier: {stated[rule]} against {stated[other]}" if stated else "",
        chance=f"{without:.2f} where the body learns nothing",
    )


def _trained(
    case: Case,
    setting: Setting,
    work: Work,
    x: Tensor,
    y: Tensor,
    *,
    watch: Callable[[Moment], Mapping[str, float]],
) -> Training:
    """Train the network of a case, and look at it after every epoch."""
    seed, name = int(case["seed"]), str(case["rule"])
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

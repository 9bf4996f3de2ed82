"""With a hundred samples Align-zero learns as backpropagation does, far ahead of FA, DFA (A4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import xarray as xr

from alignlab.experiments._base import Case, Check, Claim, Provenance, Setting, Work
from alignlab.experiments._checking import mean_check
from alignlab.experiments._drawing import curve, level
from alignlab.experiments._selection import crossed, over_seeds
from alignlab.experiments.boopathy2022._setting import COLOURS, fit, network, test_error

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FewSamples"]

NUMBER = 100
RULES = ("bp", "align-zero", "fa", "dfa")
NAMES = {"bp": "BP", "fa": "FA", "dfa": "DFA"}
STATED = {
    30: {"bp": 45.2, "align-zero": 44.7, "fa": 53.5, "dfa": 50.1},
    NUMBER: {"bp": 30.7, "align-zero": 29.4, "fa": 71.8, "dfa": 69.4},
    300: {"bp": 22.7, "align-zero": 22.7, "fa": 70.7, "dfa": 67.5},
}
"""Test errors by number of samples."""


class FewSamples(Claim):
    """Test error after training on a hundred samples, and on other numbers."""

    identity: ClassVar[str] = "A4"
    statement: ClassVar[str] = (
        "With little data, a hundred training samples, Align-zero does as well as backpropagation "
        "and far better than feedback alignment and direct feedback alignment."
    )
    provenance: ClassVar[Provenance] = "recalled"
    source: ClassVar[str] = (
        "low-data experiment; that the advantage of Align rules is largest with little data is "
        "shown by number of samples and not held, since our earlier one over FA was smallest with "
        "least data (8.8, 42.4 and 48.1 percentage points at 30, 100 and 300); rules and loss as "
        "in its code, at one rate where it has the best of three; a dense network on digits where "
        "it has convolutions on CIFAR-10; bounds are ours"
    )
    fast: ClassVar[Setting] = {
        "rules": RULES,
        "numbers": (30, NUMBER),
        "width": 512,
        "depth": 2,
        "lr": 1.0,
        "batch_size": 100,
        "epochs": 450,
        "scaling": "pixel",
        "seeds": 3,
    }
    full: ClassVar[Setting | None] = {
        "rules": ("bp", "align-prop", "align-ada", "align-zero", "fa", "dfa", "last"),
        "numbers": (30, NUMBER, 300, 1000),
        "width": 512,
        "depth": 2,
        "lr": 1.0,
        "batch_size": 100,
        "epochs": 450,
        "scaling": "pixel",
        "seeds": 5,
    }
    caption: ClassVar[str] = (
        "Test error by number of training samples, mean over seeds (weights, feedback, choice of "
        "samples) with 95% interval. Digits, 64-512-512-10 ReLU in the NTK parametrisation, "
        "squared error to one-hot targets less 0.1, plain gradient descent at rate {lr}, batches "
        "of {batch_size} or all, {epochs} epochs, {seeds} seeds. Dotted: chance."
    )

    def cases(self, setting: Setting) -> Sequence[Case]:
        """Return one run a rule, number of samples and seed."""
        return crossed(
            rule=setting["rules"], samples=setting["numbers"], seed=range(setting["seeds"])
        )

    def measure(self, case: Case, setting: Setting, work: Work) -> xr.Dataset:
        """Train on some samples and take the test error."""
        seed, name = int(case["seed"]), str(case["rule"])
        model = network(setting["width"], depth=setting["depth"], seed=seed)
        samples = int(case["samples"])
        fit(model, setting, work, name=name, seed=seed, lr=setting["lr"], samples=samples)
        return xr.Dataset({"test_error": test_error(model, setting)})

    def checks(self, results: xr.Dataset, setting: Setting) -> Sequence[Check]:
        """Hold Align-zero against backpropagation, FA and DFA with a hundred samples."""
        found = []
        for number in (NUMBER, *(each for each in setting["numbers"] if each != NUMBER)):
            text, stated = f"with {number} samples, percentage points", STATED.get(number, {})
            test = {
                rule: over_seeds(results, "test_error", rule=rule, samples=number) for rule in RULES
            }
            bounds = {"bp": (-4.0, 4.0), "fa": (20.0, None), "dfa": (20.0, None)}
            for rule, (least, most) in bounds.items():
                pair = ("align-zero", rule) if rule == "bp" else (rule, "align-zero")
                one, other = (NAMES.get(each, each) for each in pair)
                held = number == NUMBER
                found.append(
                    mean_check(
                        f"test error of {one} minus that of {other} {text}",
                        test[pair[0]] - test[pair[1]],
                        least=least if held else None,
                        most=most if held else None,
                        stated=f"ours earlier: {stated[pair[0]]} against {stated[pair[1]]}"
                        if stated
                        else "",
                        chance="0",
                    )
                )
        return found

    def draw(self, results: xr.Dataset, figure: Figure) -> None:
        """Draw the error of each rule over the number of samples."""
        axes = figure.subplots()
        numbers = sorted({int(number) for number in results["samples"].values})
        for rule in dict.fromkeys(results["rule"].values.tolist()):
            values = [over_seeds(results, "test_error", rule=rule, samples=n) for n in numbers]
            colour = COLOURS[rule]
            if len(numbers) > 1:
                curve(axes, numbers, np.stack(values, axis=1), label=rule, color=colour, marker=".")
                continue
            place = list(COLOURS).index(rule)
            curve(axes, [place], values[0][:, None], label=rule, color=colour, marker=".")
            axes.plot([place] * len(values[0]), values[0], ".", color=colour, markersize=4)
        level(axes, 90.0, "chance")
        axes.set_ylim(0, 100)
        if len(numbers) > 1:
            axes.set_xscale("log")
            axes.set_xlabel("training samples")
        else:
            axes.set_xticks([])
            axes.set_xlabel(f"rules, trained on {numbers[0]} samples")
        axes.set_ylabel("test error (%)")
        figure.legend(loc="outside right center")

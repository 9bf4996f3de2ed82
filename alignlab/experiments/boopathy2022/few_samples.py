"""With few samples Align-zero learns as backpropagation does, FA and DFA hardly (A4)."""

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
STATED = {"bp": 30.7, "align-zero": 29.4, "fa": 71.8, "dfa": 69.4}


class FewSamples(Claim):
    """Test error after training on a hundred samples."""

    identity: ClassVar[str] = "A4"
    statement: ClassVar[str] = (
        "The advantage of Align rules over feedback alignment is largest with little data, where "
        "they do as well as backpropagation."
    )
    provenance: ClassVar[Provenance] = "recalled"
    source: ClassVar[str] = "low-data experiment; rules, rates and loss as in its code"
    fast: ClassVar[Setting] = {
        "rules": ("bp", "align-zero", "fa", "dfa"),
        "numbers": (NUMBER,),
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
        "squared error to one-hot targets less 0.1, plain gradient descent at rate 1, batches of "
        "100 or all, 450 epochs. Dotted: chance."
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
        """Hold Align-zero against backpropagation and feedback alignment."""
        del setting
        test = {
            rule: over_seeds(results, "test_error", rule=rule, samples=NUMBER) for rule in STATED
        }
        zero, text = STATED["align-zero"], f"with {NUMBER} samples, percentage points"
        return [
            mean_check(
                f"test error of align-zero minus that of BP {text}",
                test["align-zero"] - test["bp"],
                least=-4.0,
                most=4.0,
                stated=f"ours earlier: {zero} against {STATED['bp']}",
            ),
            mean_check(
                f"test error of FA minus that of align-zero {text}",
                test["fa"] - test["align-zero"],
                least=20.0,
                stated=f"ours earlier: {STATED['fa']} against {zero}",
            ),
        ]

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

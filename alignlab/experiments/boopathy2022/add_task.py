"""A recurrent network learns the Add task by Align rules (A5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
import xarray as xr

from alignlab.experiments._base import Case, Check, Claim, Provenance, Setting, Work
from alignlab.experiments._checking import mean_check
from alignlab.experiments._drawing import dots
from alignlab.experiments._selection import crossed, over_seeds
from alignlab.experiments.boopathy2022._recurrent import Recurrent, additions, summed_error
from alignlab.experiments.boopathy2022._setting import rule_named
from alignlab.schedules import every
from alignlab.training import Moment, Recipe, train

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["AddTask"]

RULES = ("bp", "align-ada", "align-zero", "last")
STATED = {"bp": ".28 to .36", "align-ada": ".31 to .37", "align-zero": ".36 to .44"}


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
        "units": 128,
        "steps": 20,
        "train": 300,
        "test": 100,
        "batch_size": 50,
        "lr": 1e-2,
        "epochs": 100,
        "seeds": 3,
    }
    full: ClassVar[Setting | None] = {
        "units": 1024,
        "steps": 100,
        "train": 300,
        "test": 100,
        "batch_size": 50,
        "lr": 1e-3,
        "epochs": 200,
        "seeds": 3,
    }
    caption: ClassVar[str] = (
        "Least test loss over the epochs, squared error summed over steps, mean over seeds with "
        "95% interval and single runs. ReLU units in the NTK parametrisation, zero first state, "
        "plain gradient descent. Dotted: expected loss of predicting one half; dashed: of the "
        "best constant."
    )

    def cases(self, setting: Setting) -> Sequence[Case]:
        """Return one run a rule and seed."""
        return crossed(rule=RULES, seed=range(setting["seeds"]))

    def measure(self, case: Case, setting: Setting, work: Work) -> xr.Dataset:
        """Train and take the test loss after every epoch."""
        seed, name = int(case["seed"]), str(case["rule"])
        x, y = additions(setting["train"], steps=setting["steps"], seed=100 + seed)
        x_test, y_test = additions(setting["test"], steps=setting["steps"], seed=200 + seed)
        x, y, x_test, y_test = (each.to(work.device) for each in (x, y, x_test, y_test))
        model = Recurrent(setting["units"], seed=seed).to(work.device)

        @torch.no_grad()
        def look(moment: Moment) -> Mapping[str, float]:
            return {"loss": float(summed_error(moment.model(x_test), y_test))}

        body = tuple(n for n, _ in model.named_parameters() if not n.startswith("out."))
        found = train(
            model,
            summed_error,
            x=x,
            y=y,
            rule=rule_named(name, seed=seed),
            recipe=Recipe(
                epochs=setting["epochs"],
                batch_size=setting["batch_size"],
                optimizer="sgd",
                optimizer_options={"lr": setting["lr"]},
                frozen=body if name == "last" else (),
                order_seed=1000 + seed,
            ),
            watch=look,
            when=every(-(-setting["train"] // setting["batch_size"])),
            keep=work.folder / "training.pt",
            progress=work.progress,
        )
        losses = [each["loss"] for each in found.history]
        return xr.Dataset({"least_loss": min(losses), "last_loss": losses[-1]})

    def checks(self, results: xr.Dataset, setting: Setting) -> Sequence[Check]:
        """Hold the rules against the readout, backpropagation and the best constant."""
        loss = {rule: over_seeds(results, "least_loss", rule=rule) for rule in RULES}
        _, constant = expected_losses(setting["steps"])
        text, is_fast = "mean test loss of {} over that of {}", setting["steps"] == 20
        found = []
        for rule, other, bound in (
            ("align-zero", "last", 0.75),
            ("align-ada", "last", 0.75),
            ("align-ada", "bp", 1.25),
        ):
            ratio = float(loss[rule].mean() / loss[other].mean())
            what = text.format(rule, "the readout alone" if other == "last" else "BP")
            stated = f"ours earlier: {STATED[rule]} against {STATED.get(other, '.54 to .75')}"
            passed, runs = ratio <= bound, len(loss[rule])
            stated = stated if is_fast else ""
            found.append(Check(what, ratio, f"<= {bound}", passed, stated, runs=runs))
        return found + [
            mean_check(
                f"test loss of {rule}",
                values,
                most=round(0.8 * constant, 3),
                stated=f"ours earlier: {STATED.get(rule, '.54 to .75')}" if is_fast else "",
                chance=f"best constant {constant:.2f}",
            )
            for rule, values in loss.items()
        ]

    def draw(self, results: xr.Dataset, figure: Figure) -> None:
        """Draw the loss of each rule."""
        axes = figure.subplots()
        labels = ("BPTT", "align-ada", "align-zero", "readout alone")
        loss = [over_seeds(results, "least_loss", rule=rule) for rule in RULES]
        dots(axes, dict(zip(labels, loss, strict=True)))
        axes.set_ylim(bottom=0)
        axes.set_ylabel("least test loss (squared error, summed over steps)")


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

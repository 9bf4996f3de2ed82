"""DFA trains where no unit gets the error of an output that it acts on (N11)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import xarray as xr
from torch import Tensor, nn
from torch.nn.utils import parametrize

from alignlab.experiments._base import Case, Check, Claim, Provenance, Setting, Work
from alignlab.experiments._over_seeds import at_least, over_seeds, points
from alignlab.experiments.noekland2016._setting import error, fit, images, network
from alignlab.feedback import Feedback
from alignlab.rules import DFA
from alignlab.sites import Layer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Disconnected"]

RULES = ("bp", "dfa", "crossed", "last")
LABELS = ("BP", "DFA", "DFA, no shared\noutput", "output layer\nalone")


class _Masked(nn.Module):
    """The entries of a weight that are there."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight with zeros elsewhere."""
        return weight * self.mask


@dataclass(frozen=True)
class _Crossed(DFA):
    """Direct feedback of each half of the units from the outputs that the other half acts on."""

    def draw(
        self, layers: Sequence[Layer], n_errors: int, **options: Any
    ) -> Mapping[str, Feedback]:
        """Draw as always, and leave out what each half would hear of its own outputs."""
        found = super().draw(layers, n_errors, **options)
        return {
            name: one * ~_same_half(*one.shape)
            for name, one in found.items()
            if isinstance(one, Tensor)
        }


class Disconnected(Claim):
    """Two streams without a way between them, each taught by the other's outputs."""

    identity: ClassVar[str] = "N11"
    statement: ClassVar[str] = (
        "The feedback path need not share connections with the forward path: a body trains "
        "although no unit hears of an output that it acts on."
    )
    provenance: ClassVar[Provenance] = "recalled"
    source: ClassVar[str] = "that the error path may be disconnected; the sharpest form is ours"
    fast: ClassVar[Setting] = {
        "data": "digits",
        "in_features": 64,
        "widths": (64, 64, 64),
        "lr": 1e-3,
        "batch_size": 64,
        "epochs": 60,
        "seeds": 3,
    }
    full: ClassVar[Setting | None] = {
        "data": "mnist",
        "in_features": 784,
        "widths": (400, 400, 400),
        "lr": 1e-4,
        "batch_size": 64,
        "epochs": 300,
        "seeds": 3,
    }
    full_data: ClassVar[str] = "mnist"
    caption: ClassVar[str] = (
        "Test error of a tanh network of two streams above the inputs: half of each layer acts on "
        "the classes 0 to 4 alone and the other half on 5 to 9. With no shared output, the "
        "feedback of each half comes from the other half's classes alone. Mean over seeds with "
        "95% interval and single runs; binary cross-entropy, RMSprop; DFA from zero, "
        "backpropagation and the random body from torch's start. Chance: 90%."
    )

    def cases(self, setting: Setting) -> Sequence[Case]:
        """Return one run a rule and seed."""
        seeds = range(setting["seeds"])
        return [{"rule": rule, "seed": seed} for rule in RULES for seed in seeds]

    def measure(self, case: Case, setting: Setting, work: Work) -> xr.Dataset:
        """Train the two streams and take the errors."""
        seen, seed = images(setting["data"], device=work.device), int(case["seed"])
        is_direct = case["rule"] in {"dfa", "crossed"}
        model = network(case, setting, start="zero" if is_direct else "default")
        for name, layer in model.named_children():
            if isinstance(layer, nn.Linear) and name != "fc1":
                mask = _same_half(*layer.weight.shape).to(layer.weight)
                parametrize.register_parametrization(layer, "weight", _Masked(mask))
        options = {"distribution": "uniform", "normalisation": "fan-out", "seed": seed}
        rule = _Crossed(**options) if case["rule"] == "crossed" else None
        fit(model, case, setting, work, rule=rule)
        return xr.Dataset(
            {
                "train_error": error(model, seen.x, seen.y),
                "test_error": error(model, seen.x_test, seen.y_test),
            }
        )

    def checks(self, results: xr.Dataset, setting: Setting) -> Sequence[Check]:
        """Hold crossed feedback against a random body."""
        del setting
        last, crossed = (over_seeds(results, "test_error", rule=r) for r in ("last", "crossed"))
        what = (
            "test error of the output layer alone minus that of DFA without shared outputs, "
            "percentage points"
        )
        return [at_least(what, last - crossed, 5.0, chance="0: nothing but the output learns")]

    def draw(self, results: xr.Dataset, figure: Figure) -> None:
        """Draw the error of each rule."""
        axes = figure.subplots()
        points(axes, LABELS, [over_seeds(results, "test_error", rule=rule) for rule in RULES])
        axes.set_ylim(bottom=0)
        axes.set_ylabel("test error (%)")


def _same_half(rows: int, columns: int) -> Tensor:
    """Return where a row and a column are both in the first half, or both in the second."""
    row, column = torch.arange(rows) < rows // 2, torch.arange(columns) < columns // 2
    return row[:, None] == column

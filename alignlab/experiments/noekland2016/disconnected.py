"""DFA trains where feedback shares no connection with the forward path (N11)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import xarray as xr
from torch import Tensor, nn
from torch.nn.utils import parametrize

from alignlab.experiments._base import Case, Check, Claim, Provenance, Setting, Work
from alignlab.experiments._checking import mean_check
from alignlab.experiments._drawing import dots
from alignlab.experiments._selection import over_seeds
from alignlab.experiments.noekland2016._setting import error, fit, images, network
from alignlab.feedback import Feedback
from alignlab.rules import DFA
from alignlab.sites import Layer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Disconnected"]

RUNS = (
    ("mask", "dfa"),
    ("mask", "apart"),
    ("mask", "last"),
    ("streams", "apart"),
    ("streams", "last"),
)
LABELS = (
    "DFA",
    "DFA,\nno shared\nconnection",
    "output layer\nalone",
    "streams: DFA,\nno shared\noutput",
    "streams:\noutput layer\nalone",
)


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
class _Apart(DFA):
    """Direct feedback that leaves out what runs against a forward connection.

    Attributes:
        network: ``mask``, where the readout alone meets the outputs; or ``streams``.
    """

    network: str = "mask"

    def draw(
        self, layers: Sequence[Layer], n_errors: int, **options: Any
    ) -> Mapping[str, Feedback]:
        """Draw as always, then zero the entries where there is a way forward."""
        found = {
            name: one
            for name, one in super().draw(layers, n_errors, **options).items()
            if isinstance(one, Tensor)
        }
        met = set(found) if self.network == "streams" else {layers[-1].name}
        return {
            name: one * ~_connected(self.network, *one.shape, seed=self.seed)
            if name in met
            else one
            for name, one in found.items()
        }


class Disconnected(Claim):
    """Feedback where there is no connection forward, in one body and in two streams."""

    identity: ClassVar[str] = "N11"
    statement: ClassVar[str] = (
        "The feedback path need not share connections with the forward path: DFA ends 5 points or "
        "more below a random body where no unit hears of an output that it acts on directly, and "
        "where none hears of an output that it reaches at all, in two streams."
    )
    provenance: ClassVar[Provenance] = "recalled"
    source: ClassVar[str] = (
        "that the error path may be disconnected from the forward path; both readings of that, the "
        "random body and the margin are ours"
    )
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
        "stop_loss": 0.005,
        "seeds": 3,
    }
    full_data: ClassVar[tuple[str, ...]] = ("mnist",)
    caption: ClassVar[str] = (
        "Test error of tanh networks, mean over seeds with 95% interval and single runs. First "
        "three: half of the readout's connections are there, and the top layer's feedback uses "
        "all, or the other half. Streams: half of each layer acts on the classes 0 to 4 alone, "
        "the other half on 5 to 9, and hears of the others alone. Binary cross-entropy, RMSprop; "
        "DFA from zero, the random body from torch's start. Chance: 90%."
    )

    def cases(self, setting: Setting) -> Sequence[Case]:
        """Return one run a network, rule and seed."""
        seeds = range(setting["seeds"])
        return [{"network": n, "rule": rule, "seed": seed} for n, rule in RUNS for seed in seeds]

    def measure(self, case: Case, setting: Setting, work: Work) -> xr.Dataset:
        """Leave out connections, train, and take the errors."""
        seen, seed = images(setting["data"], device=work.device), int(case["seed"])
        kind = str(case["network"])
        model = network(case, setting, start="default" if case["rule"] == "last" else "zero")
        layers = [each for each in model.children() if isinstance(each, nn.Linear)]
        for layer in layers[1:] if kind == "streams" else layers[-1:]:
            mask = _connected(kind, *layer.weight.shape, seed=seed)
            parametrize.register_parametrization(layer, "weight", _Masked(mask))
        options: dict[str, Any] = {"distribution": "uniform", "normalisation": "fan-out"}
        rule = _Apart(network=kind, seed=seed, **options) if case["rule"] == "apart" else None
        fit(model, case, setting, work, rule=rule)
        return xr.Dataset(
            {
                "train_error": error(model, seen.x, seen.y),
                "test_error": error(model, seen.x_test, seen.y_test),
            }
        )

    def checks(self, results: xr.Dataset, setting: Setting) -> Sequence[Check]:
        """Hold feedback apart from the forward path against a random body, in both readings."""
        del setting
        gain = {
            kind: over_seeds(results, "test_error", network=kind, rule="last")
            - over_seeds(results, "test_error", network=kind, rule="apart")
            for kind in ("mask", "streams")
        }
        what = "test error of the output layer alone minus that of DFA without shared {}"
        chance = "0: nothing but the output learns"
        return [
            mean_check(
                f"{what.format('connections')}, percentage points",
                gain["mask"],
                least=5.0,
                chance=chance,
            ),
            mean_check(
                f"{what.format('outputs')} in two streams, percentage points",
                gain["streams"],
                least=5.0,
                chance=chance,
            ),
        ]

    def draw(self, results: xr.Dataset, figure: Figure) -> None:
        """Draw the error of each rule."""
        axes = figure.subplots()
        values = [over_seeds(results, "test_error", network=n, rule=r) for n, r in RUNS]
        dots(axes, dict(zip(LABELS, values, strict=True)))
        axes.set_ylim(bottom=0)
        axes.set_ylabel("test error (%)")


def _connected(kind: str, rows: int, columns: int, *, seed: int) -> Tensor:
    """Return which entries of a matrix to the rows are there.

    Args:
        kind: ``mask`` for a random half of each column's; ``streams`` for those from the first
            half of the columns to that of the rows, and from the second to the second.
        rows: Units that are acted on.
        columns: Units that act.
        seed: Of the mask.
    """
    if kind == "streams":
        row, column = torch.arange(rows) < rows // 2, torch.arange(columns) < columns // 2
        return row[:, None] == column
    stream = torch.Generator().manual_seed(4000 + seed)
    order = torch.rand(rows, columns, generator=stream).argsort(0).argsort(0)
    return order < rows // 2

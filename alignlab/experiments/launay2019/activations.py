"""Units without dead or unbounded zones align better: tanh before leaky ReLU and ReLU (L10)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from alignlab.experiments._base import Case, Check, Claim, Provenance, Setting, Work
from alignlab.experiments._checking import mean_check
from alignlab.experiments._selection import chosen, over_seeds
from alignlab.experiments.launay2019._drawing import by_layer
from alignlab.experiments.launay2019._networks import ACTIVATIONS, dense, drawn
from alignlab.experiments.launay2019._setting import CIFAR, DIGITS, earlier, images, rule
from alignlab.experiments.launay2019._training import alignment, errors, trained

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

__all__ = ["Activations"]

_SLOW, _QUICK = "slow", "quick"
_UNBOUNDED = {(_SLOW, "h1"), (_SLOW, "h2")}


class Activations(Claim):
    """Networks of tanh, ReLU and leaky ReLU units at two learning rates."""

    identity: ClassVar[str] = "L10"
    statement: ClassVar[str] = (
        "Activations without dead or saturated zones align best: tanh, or leaky ReLU of a large "
        "slope, rather than ReLU. At the low rate of the work's code that is held of the top "
        "hidden layer alone, as in our earlier measure; at ten times that rate of every layer."
    )
    provenance: ClassVar[Provenance] = "recalled"
    source: ClassVar[str] = (
        "guideline 2; signs of our earlier measurement on the digits; the higher rate is ours"
    )
    fast: ClassVar[Setting] = {**DIGITS, "rates": {_SLOW: 5e-4, _QUICK: 5e-3}, "epochs": 70}
    full: ClassVar[Setting | None] = {**CIFAR, "rates": {_SLOW: 5e-4}}
    full_data: ClassVar[tuple[str, ...]] = ("cifar10",)
    caption: ClassVar[str] = (
        "Cosine of direct feedback with backpropagation at the entries, per sample and averaged "
        "over the first 128 test samples of {data}, of layers of {widths} units trained by DFA "
        "(slow: learning rate .0005; quick, on the digits: .005), one shared matrix of unit norm, "
        "cross-entropy, batch {batch}, plain descent whose hidden layers have the sum over the "
        "batch, {epochs} epochs, evaluation mode, {seeds} seeds with 95% intervals. Grey: 95% of "
        "redrawn feedback."
    )

    def cases(self, setting: Setting) -> Sequence[Case]:
        """Return every activation at both rates with every seed."""
        return [
            {"activation": name, "rate": rate, "seed": seed}
            for rate in setting["rates"]
            for name in ACTIVATIONS
            for seed in range(setting["seeds"])
        ]

    def measure(self, case: Case, setting: Setting, work: Work) -> xr.Dataset:
        """Train a network, and measure cosines by layer and both errors."""
        seed, rate = int(case["seed"]), setting["rates"][case["rate"]]
        data = images(setting["data"], work.device)
        network = drawn(
            lambda: dense(data.inputs, setting["widths"], activation=str(case["activation"])),
            seed=seed,
        ).to(work.device)
        feedback = rule(setting, seed=seed)
        measured = trained(network, feedback, data, setting, work, seed=seed, rate=rate)
        return alignment(network, measured, data).assign(errors(network, data))

    def checks(self, results: xr.Dataset, setting: Setting) -> Sequence[Check]:
        """Return by how much tanh is ahead; bounded where our earlier measurement had it ahead."""
        rows = [
            (_SLOW, "h3", "tanh", "relu", ".42 - .22"),
            (_SLOW, "h3", "tanh", "leaky-0.5", ".42 - .25"),
            (_SLOW, "h3", "leaky-0.5", "relu", ".25 - .22"),
            (_SLOW, "h1", "tanh", "relu", ".44 - .48"),
            (_SLOW, "h2", "tanh", "relu", ".52 - .59"),
            (_SLOW, "h1", "tanh", "leaky-0.5", ".44 - .51"),
            (_SLOW, "h2", "tanh", "leaky-0.5", ".52 - .66"),
            *((_QUICK, layer, "tanh", "relu", gap) for layer, gap in _QUICK_GAPS["relu"].items()),
            *(
                (_QUICK, layer, "tanh", "leaky-0.5", gap)
                for layer, gap in _QUICK_GAPS["leaky-0.5"].items()
            ),
        ]
        return [
            mean_check(
                f"cosine at {layer}, {rate} rate, {better} less {worse}",
                over_seeds(results, "cosine", layer=layer, activation=better, rate=rate)
                - over_seeds(results, "cosine", layer=layer, activation=worse, rate=rate),
                above=None if (rate, layer) in _UNBOUNDED else 0.0,
                stated=earlier(setting, stated),
                chance="0",
            )
            for rate, layer, better, worse, stated in rows
            if rate in setting["rates"]
        ]

    def draw(self, results: xr.Dataset, figure: Figure) -> None:
        """Draw cosines by layer, a panel for each rate."""
        rates = [rate for rate in (_SLOW, _QUICK) if rate in results["rate"].values]
        panels = figure.subplots(1, len(rates), sharey=True, squeeze=False)[0]
        for axes, rate in zip(panels, rates, strict=True):
            runs = chosen(results, rate=rate)
            by_layer(axes, runs, key="activation", values=list(ACTIVATIONS))
            axes.set_title(f"{rate} rate")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)


_QUICK_GAPS = {
    "relu": {"h1": ".49 - .02", "h2": ".59 - .02", "h3": ".63 - .01"},
    "leaky-0.5": {"h1": ".49 - .02", "h2": ".59 - .02", "h3": ".63 - .02"},
}

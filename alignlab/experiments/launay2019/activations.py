"""Units without dead or unbounded zones align best: tanh before leaky ReLU and ReLU (L10)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from alignlab.experiments._base import Case, Check, Claim, Provenance, Setting, Work
from alignlab.experiments._checking import mean_check
from alignlab.experiments._selection import chosen, over_seeds
from alignlab.experiments.launay2019._drawing import by_layer
from alignlab.experiments.launay2019._networks import ACTIVATIONS, dense, drawn
from alignlab.experiments.launay2019._setting import DIGITS, images, rule
from alignlab.experiments.launay2019._training import alignment, errors, trained

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

__all__ = ["Activations"]

_SLOW, _QUICK = "slow", "quick"


class Activations(Claim):
    """Networks of tanh, ReLU and leaky ReLU units at two learning rates."""

    identity: ClassVar[str] = "L10"
    statement: ClassVar[str] = (
        "Activations without dead or saturated zones align best: tanh, or leaky ReLU of a large "
        "slope, rather than ReLU. In our earlier measure only the top hidden layer showed it at a "
        "low rate; at a high one the rectified units grew without bound and lost all alignment."
    )
    provenance: ClassVar[Provenance] = "recalled"
    source: ClassVar[str] = "guideline 2; signs of our earlier measurement"
    fast: ClassVar[Setting] = {**DIGITS, "rates": {_SLOW: 5e-4, _QUICK: 5e-3}, "epochs": 70}
    caption: ClassVar[str] = (
        "Cosine of direct feedback with backpropagation at the entries, per sample and averaged "
        "over the first 128 test samples of the digits, of three layers of 256 units trained by "
        "DFA at two learning rates (slow .0005, quick .005), one shared matrix of unit norm, "
        "cross-entropy, batch 128, plain descent whose hidden layers have the sum over the batch, "
        "70 epochs, evaluation mode, 3 seeds with 95% intervals. Grey: 95% of redrawn feedback."
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
        """Return by how much tanh is ahead, where our earlier measurement had it ahead."""
        del setting
        rows = [
            (_SLOW, "h3", "tanh", "relu", ".42 - .22"),
            (_SLOW, "h3", "tanh", "leaky-0.5", ".42 - .25"),
            (_SLOW, "h3", "leaky-0.5", "relu", ".25 - .22"),
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
                above=0.0,
                stated=f"ours earlier: {stated}",
                chance="0",
            )
            for rate, layer, better, worse, stated in rows
        ]

    def draw(self, results: xr.Dataset, figure: Figure) -> None:
        """Draw cosines by layer, a panel for each rate."""
        panels = figure.subplots(1, 2, sharey=True)
        for axes, rate in zip(panels, (_SLOW, _QUICK), strict=True):
            runs = chosen(results, rate=rate)
            by_layer(axes, runs, key="activation", values=list(ACTIVATIONS))
            axes.set_title(f"{rate} rate")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)


_QUICK_GAPS = {
    "relu": {"h1": ".49 - .02", "h2": ".59 - .02", "h3": ".63 - .01"},
    "leaky-0.5": {"h1": ".49 - .02", "h2": ".59 - .02", "h3": ".63 - .02"},
}

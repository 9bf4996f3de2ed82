"""A reference in training mode lowers the alignments that the code prints (L8)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import xarray as xr

from alignlab.experiments._base import Case, Check, Claim, Provenance, Setting, Work
from alignlab.experiments._checking import mean_check
from alignlab.experiments._selection import chosen, crossed, over_seeds
from alignlab.experiments.launay2019._drawing import by_layer
from alignlab.experiments.launay2019._networks import dense, drawn
from alignlab.experiments.launay2019._setting import CIFAR, DIGITS, earlier, images, rule
from alignlab.experiments.launay2019._training import alignment, errors, mixed_alignment, trained

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["ModeConfound"]

_NETWORKS: Mapping[str, Mapping[str, Any]] = {
    "batch-norm": {"normed": True},
    "dropout": {"dropout": (0.1, 0.5)},
}
_MODES = {"matched": "cosine", "mixed, as published": "mixed"}


class ModeConfound(Claim):
    """The same trained networks, measured with modes that match and as the code has them."""

    identity: ClassVar[str] = "L8"
    statement: ClassVar[str] = (
        "The code measures the network in evaluation mode and its backpropagated reference in "
        "training mode. With batch norm or dropout the two are gradients of different functions: "
        "the published protocol has a cosine at the first layer that lies below that of one "
        "function, with batch norm by more than half."
    )
    provenance: ClassVar[Provenance] = "read in its code"
    source: ClassVar[str] = (
        "measure of alignment; the effect is our derivation, digits and bounds are ours"
    )
    fast: ClassVar[Setting] = DIGITS
    full: ClassVar[Setting | None] = CIFAR
    full_data: ClassVar[tuple[str, ...]] = ("cifar10",)
    caption: ClassVar[str] = (
        "Cosine of direct feedback with backpropagation at the entries, per sample and averaged "
        "over the first 128 test samples: both in evaluation mode (corrected protocol), and with "
        "the reference in training mode (published protocol). Three tanh layers with batch norm "
        "behind each activation, or with dropout of .1 of inputs and .5 of units; DFA with one "
        "shared matrix of unit norm, cross-entropy, batch 128, plain descent whose hidden layers "
        "have the sum over the batch ({data}, widths {widths}, rate {learning_rate}, {epochs} "
        "epochs), {seeds} seeds with 95% intervals. Grey: 95% of redrawn feedback, modes matched."
    )

    def cases(self, setting: Setting) -> Sequence[Case]:
        """Return both networks with every seed."""
        return crossed(network=_NETWORKS, seed=range(setting["seeds"]))

    def measure(self, case: Case, setting: Setting, work: Work) -> xr.Dataset:
        """Train a network, and measure cosines by layer in both protocols."""
        seed, options = int(case["seed"]), _NETWORKS[str(case["network"])]
        data = images(setting["data"], work.device)
        network = drawn(lambda: dense(data.inputs, setting["widths"], **options), seed=seed)
        network = network.to(work.device)
        measured = trained(network, rule(setting, seed=seed), data, setting, work, seed=seed)
        mixed = mixed_alignment(network, measured, data)
        found = alignment(network, measured, data).assign(mixed=("layer", mixed))
        return found.assign(errors(network, data))

    def checks(self, results: xr.Dataset, setting: Setting) -> Sequence[Check]:
        """Return what the mixed modes take from the cosine at the first layer."""
        matched = {
            name: over_seeds(results, "cosine", layer="h1", network=name) for name in _NETWORKS
        }
        swapped = results.assign(cosine=results["mixed"])
        mixed = {
            name: over_seeds(swapped, "cosine", layer="h1", network=name) for name in _NETWORKS
        }
        return [
            mean_check(
                "batch norm: cosine at h1, matched less twice the mixed",
                matched["batch-norm"] - 2 * mixed["batch-norm"],
                least=0,
                stated=earlier(setting, ".125 - 2 x .028 after 100 to 200 epochs"),
            ),
            mean_check(
                "batch norm: cosine at h1, matched",
                matched["batch-norm"],
                above=0.0,
                stated=earlier(setting, ".125"),
                chance="0",
            ),
            mean_check(
                "dropout: cosine at h1, matched less mixed",
                matched["dropout"] - mixed["dropout"],
                above=0.0,
                stated=earlier(setting, ".53 - .45"),
            ),
        ]

    def draw(self, results: xr.Dataset, figure: Figure) -> None:
        """Draw cosines by layer in both protocols, a panel for each network."""
        panels = figure.subplots(1, len(_NETWORKS), sharey=True)
        for axes, name in zip(panels, _NETWORKS, strict=True):
            runs = chosen(results, network=name)
            both = [
                runs.assign(cosine=runs[variable]).assign_coords(
                    mode=("run", [mode] * runs.sizes["run"])
                )
                for mode, variable in _MODES.items()
            ]
            by_layer(axes, xr.concat(both, "run"), key="mode", values=list(_MODES))
            axes.set_title(name)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)

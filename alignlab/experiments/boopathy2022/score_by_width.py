"""The wider the network, the closer its weight changes are to Align-zero's (A3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import xarray as xr

from alignlab.experiments._base import Case, Check, Claim, Provenance, Setting, Work
from alignlab.experiments._checking import mean_check, rises
from alignlab.experiments._drawing import curve
from alignlab.experiments._selection import crossed, over_seeds
from alignlab.experiments.boopathy2022._beside import BesideBackpropagation, changes
from alignlab.experiments.boopathy2022._score import (
    alignment_score,
    plain_cosine,
    score_by_chance,
    shuffled,
)
from alignlab.experiments.boopathy2022._setting import fit, network

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

__all__ = ["ScoreByWidth"]

STATED = {64: (0.91, 0.92, 0.80), 256: (0.98, 0.97, 0.91), 1024: (0.998, 0.996, 0.978)}


class ScoreByWidth(Claim):
    """Alignment score of every layer by width, beside that of shuffled changes."""

    identity: ClassVar[str] = "A3"
    statement: ClassVar[str] = (
        "The weight changes of wide networks trained by backpropagation align, layer by layer, "
        "with input correlations scaled by the errors: their alignment score grows with the width "
        "towards 1, and is above that with the errors of a training on permuted labels."
    )
    provenance: ClassVar[Provenance] = "recalled"
    source: ClassVar[str] = (
        "alignment is in the abstract and the title of the first version, its growth with the "
        "width recalled; "
        "score as in its code but in closed form, and the changes themselves are shuffled where "
        "the code shuffles the trained weight; permuted labels, digits and bounds are ours"
    )
    fast: ClassVar[Setting] = {
        "widths": (64, 256, 1024),
        "depth": 2,
        "lr": 1.0,
        "batch_size": 100,
        "epochs": 30,
        "scaling": "pixel",
        "seeds": 3,
    }
    full: ClassVar[Setting | None] = {
        "widths": (16, 64, 256, 1024, 4096),
        "depth": 2,
        "lr": 1.0,
        "batch_size": 100,
        "epochs": 30,
        "scaling": "pixel",
        "seeds": 5,
    }
    caption: ClassVar[str] = (
        "Alignment score (closed form) of the weight changes of backpropagation with those that "
        "the initial Jacobian makes of the same errors, by width and layer; mean over seeds with "
        "95% interval. Shuffled: score with the latter's entries in random order; chance: that of "
        "independent normal changes; plain cosine: of both changes as vectors; permuted labels: "
        "score with what the initial Jacobian makes of the errors of a second training from the "
        "same start, whose labels are permuted over the samples. Digits, 64-w-w-10 ReLU in the NTK "
        "parametrisation, squared error, plain gradient descent at rate {lr}, batch {batch_size}, "
        "{epochs} epochs, {seeds} seeds."
    )

    def cases(self, setting: Setting) -> Sequence[Case]:
        """Return one training a width and seed."""
        return crossed(width=setting["widths"], seed=range(setting["seeds"]))

    def measure(self, case: Case, setting: Setting, work: Work) -> xr.Dataset:
        """Train and compare both changes of each layer's weight."""
        seed = int(case["seed"])
        pairs = _changes(case, setting, work, labels_seed=None)
        permuted = _changes(case, setting, work, labels_seed=700 + seed)
        others = [(own, other) for (own, _), (_, other) in zip(pairs, permuted, strict=True)]
        mixed = [(one, shuffled(other, seed=500 + seed)) for one, other in pairs]
        layers = np.arange(1, len(pairs) + 1)
        return xr.Dataset(
            {
                "score": ("layer", [float(alignment_score(*pair)) for pair in pairs]),
                "cosine": ("layer", [float(plain_cosine(*pair)) for pair in pairs]),
                "permuted": ("layer", [float(alignment_score(*pair)) for pair in others]),
                "shuffled": ("layer", [float(alignment_score(*pair)) for pair in mixed]),
                "chance": ("layer", [score_by_chance(*one.shape) for one, _ in pairs]),
            },
            {"layer": layers},
        )

    def checks(self, results: xr.Dataset, setting: Setting) -> Sequence[Check]:
        """Hold growth with the width, and width 1024 against 0.95 and against other errors."""
        wide = 1024
        score = {w: over_seeds(results, "score", width=w) for w in setting["widths"]}
        null = over_seeds(results, "chance", width=wide).mean(0)
        other = over_seeds(results, "shuffled", width=wide)
        control = over_seeds(results, "permuted", width=wide)
        found, widths = [], sorted(setting["widths"])
        for place, layer in enumerate(results["layer"].values):
            text, stated = f"layer {layer}", f"ours earlier: {STATED[wide][place]:g} at {wide}"
            found += [
                rises(
                    f"score from width to width, {text}",
                    np.array([score[w][:, place] for w in widths]),
                    chance="0 a step",
                ),
                mean_check(
                    f"alignment score at width {wide}, {text}",
                    score[wide][:, place],
                    least=0.95,
                    stated=stated,
                    chance=f"{control[:, place].mean():.2f} with the errors of permuted labels, "
                    f"{null[place]:.2f} of normal changes",
                ),
                _above(
                    f"score minus that with the errors of permuted labels at width {wide}, {text}",
                    score[wide][:, place] - control[:, place],
                ),
                mean_check(
                    f"score minus that of shuffled changes at width {wide}, {text}",
                    score[wide][:, place] - other[:, place],
                ),
            ]
        return found

    def draw(self, results: xr.Dataset, figure: Figure) -> None:
        """Draw the score of each layer over the width."""
        layers = results["layer"].values
        panels = np.atleast_1d(figure.subplots(1, len(layers), sharey=True))
        widths = sorted({int(width) for width in results["width"].values})
        for place, axes in enumerate(panels):
            for name, label, colour in (
                ("score", "align-zero", "C0"),
                ("permuted", "permuted labels", "C3"),
                ("shuffled", "shuffled", "C1"),
                ("cosine", "plain cosine", "C2"),
                ("chance", "chance", "0.4"),
            ):
                rows = [over_seeds(results, name, width=w)[:, place] for w in widths]
                curve(axes, widths, np.stack(rows, axis=1), label=label, color=colour, marker=".")
            axes.set_xscale("log", base=2)
            axes.set_xticks(widths, [str(width) for width in widths])
            axes.set_ylim(0, 1.03)
            axes.set_title(f"layer {layers[place]}")
            axes.set_xlabel("width (units)")
        panels[0].set_ylabel("alignment score, cosine (1)")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower right", ncols=5)


def _changes(
    case: Case, setting: Setting, work: Work, *, labels_seed: int | None
) -> list[tuple[Tensor, Tensor]]:
    """Train the network of a case and return both changes of each weight."""
    seed, lr = int(case["seed"]), float(setting["lr"])
    model = network(int(case["width"]), depth=setting["depth"], seed=seed)
    rule = BesideBackpropagation()
    training = fit(
        *(model, setting, work), name="bp", seed=seed, lr=lr, rule=rule, labels_seed=labels_seed
    )
    return list(changes(model, training.feedback, lr=lr).values())


def _above(what: str, values: np.ndarray) -> Check:
    """Return the check that the interval of a mean lies above 0."""
    found = mean_check(what, values, chance="0")
    return replace(found, expected="interval above 0", passed=bool(found.low > 0))

"""Deep linear weights are feedback around small matrices (R6)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import xarray as xr

from alignlab.experiments._base import Case, Check, Claim, Provenance, Setting, Work
from alignlab.experiments._checking import worst_check
from alignlab.experiments._drawing import legend_beside, level
from alignlab.experiments.refinetti2021._linear import (
    by_double_sum,
    by_recursion,
    gaussian_feedback,
    linear_task,
    trained_linear,
)
from alignlab.training import Recipe

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["WeakAlignment"]

_EXACT = 1e-12
_FORMS = ("recursion", "double sum")


class WeakAlignment(Claim):
    """Weights of a trained linear network beside what two formulas make of them."""

    identity: ClassVar[str] = "R6"
    statement: ClassVar[str] = (
        "From zero initial weights direct feedback alignment keeps the weights of a deep linear "
        "network in the form F_l A_l F_{l-1}^T, with alignment matrices A_l of the size of the "
        "output that follow from errors and activations alone."
    )
    provenance: ClassVar[Provenance] = "our derivation"
    source: ClassVar[str] = "deep linear theory; that it is the paper's weak alignment is recalled"
    fast: ClassVar[Setting] = {
        "widths": [9, 50, 60, 50, 3],
        "steps": 150,
        "rate": 0.004,
        "seeds": 5,
    }
    caption: ClassVar[str] = (
        "Relative difference of trained weights and F_l A_l F_(l-1)^T, with A_l by the recursion "
        "and as a double sum, by layer and seed. Linear 9-50-60-50-3, zero initial weights, "
        "normal feedback of variance 1/n, a linear teacher, sum of squares, batch 1, 150 steps, "
        "rate 0.004, float64; each seed draws feedback, data and their order."
    )

    def cases(self, setting: Setting) -> Sequence[Case]:
        """Return one case a seed."""
        return [{"seed": seed} for seed in range(setting["seeds"])]

    def measure(self, case: Case, setting: Setting, work: Work) -> xr.Dataset:
        """Return relative differences of both forms, and the ranks of the weights."""
        del work
        seed, widths, rate = int(case["seed"]), setting["widths"], setting["rate"]
        x, y = linear_task(seed, samples=setting["steps"], inputs=widths[0], outputs=widths[-1])
        options = {"lr": rate}
        recipe = Recipe(epochs=1, batch_size=1, optimizer_options=options, order_seed=seed)
        found = trained_linear(widths, x=x, y=y, rule=gaussian_feedback(seed), recipe=recipe)
        own = {"x": found.x, "y": found.y, "rate": rate}
        stepped = by_recursion(found.feedback, **own)
        summed = [stepped[0], *by_double_sum(found.feedback, **own)]
        above = [*found.feedback, np.eye(widths[-1])]
        apart = []
        for matrices in (stepped, summed):
            inner = [f @ a @ b.T for (b, f), a in zip(pairwise(above), matrices[1:], strict=True)]
            pairs = zip([above[0] @ matrices[0], *inner], found.weights, strict=True)
            apart.append([np.linalg.norm(a - w) / np.linalg.norm(w) for a, w in pairs])
        ranks = [np.linalg.matrix_rank(w) for w in found.weights]
        return xr.Dataset(
            {"difference": (("form", "layer"), np.array(apart)), "rank": ("layer", ranks)},
            coords={"form": list(_FORMS), "layer": np.arange(1, len(widths))},
        )

    def checks(self, results: xr.Dataset, setting: Setting) -> Sequence[Check]:
        """Hold both differences, and the rank."""
        # The first matrix is the same in both forms; it is no sum over pairs of steps.
        parts = {"recursion": results, "double sum": results.isel(layer=slice(1, None))}
        rank = results["rank"].values
        outputs = setting["widths"][-1]
        return [
            *(
                worst_check(
                    f"relative difference of weights and F A F^T, A by the {form}",
                    part["difference"].sel(form=form).values,
                    most=_EXACT,
                    stated="ours earlier: 2e-15",
                )
                for form, part in parts.items()
            ),
            Check(
                "largest rank of any layer's weights", float(rank.max()), f"{outputs}",
                bool((rank == outputs).all()), "ours earlier: 3", runs=rank.size,
            ),
        ]  # fmt: skip

    def draw(self, results: xr.Dataset, figure: Figure) -> None:
        """Draw the differences of every layer."""
        axes = figure.subplots()
        for number, form in enumerate(_FORMS):
            values = results["difference"].sel(form=form).transpose("layer", "run").values
            places = results["layer"].values[:, None] + 0.1 * number + 0.0 * values
            axes.semilogy(places.ravel(), values.ravel(), "o", alpha=0.6, label=form)
        level(axes, _EXACT, "allowed")
        axes.set_xticks(results["layer"].values)
        axes.set_xlabel("layer")
        axes.set_ylabel("relative difference")
        legend_beside(axes)

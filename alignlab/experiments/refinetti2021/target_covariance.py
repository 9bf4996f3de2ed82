"""The covariance of the targets conditions the alignment matrix (R9)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
import xarray as xr
from scipy.stats import spearmanr

from alignlab.experiments._base import Case, Check, Claim, Provenance, Setting, Work
from alignlab.experiments._checking import mean_check
from alignlab.experiments._drawing import legend_beside
from alignlab.experiments._selection import over_seeds
from alignlab.experiments._statistics import interval_of_mean
from alignlab.experiments.refinetti2021._linear import (
    alignment_matrices,
    cosine_to_identity,
    trained_linear,
)
from alignlab.rules import DFA
from alignlab.training import Recipe

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["TargetCovariance"]

_NEAR = 0.1
_STATED = {
    (0.2, 0.2): ".717/.720",
    (0.2, 1.0): ".735/.741",
    (1.0, 0.2): ".781/.843",
    (0.6, 0.6): ".862/.879",
    (1.0, 1.0): "1/.923",
}


class TargetCovariance(Claim):
    """Cosines with the identity of the targets' covariance and of the matrix that it makes.

    Eight seeds, as three leave the means uncertain by more than the tolerance. At a covariance of
    the identity whatever fluctuates in A_2 lowers its cosine, which cannot be above that target.
    """

    identity: ClassVar[str] = "R9"
    statement: ClassVar[str] = (
        "The structure of the data changes alignment through the alignment matrices: from zero "
        "initial weights A_2 takes the covariance of the targets."
    )
    provenance: ClassVar[Provenance] = "read in the paper"
    source: ClassVar[str] = (
        "abstract, that data structure acts through conditioning; covariances of its code; that "
        "A_2 takes the covariance is ours"
    )
    fast: ClassVar[Setting] = {
        "widths": [9, 100, 100, 2],
        "points": [[0.2, 0.2], [0.2, 1.0], [1.0, 0.2], [0.6, 0.6], [1.0, 1.0]],
        "samples": 992,
        "batch": 32,
        "epochs": 10,
        "rate": 0.001,
        "seeds": 8,
    }
    caption: ClassVar[str] = (
        "cos(A_2, I) after training against cos(Sigma, I) of the targets' covariance Sigma = "
        "[[1, a(1-b)], [a(1-b), a^2]]: runs, and their mean with its 95% interval; dashed, "
        "equality; dotted, 1/sqrt 2 of a matrix of rank 1. Linear 9-100-100-2, zero initial "
        "weights, targets independent of the inputs, feedback U(-1/sqrt n, 1/sqrt n), sum of "
        "squares, batch 32, 992 samples, 10 epochs, rate 0.001."
    )

    def cases(self, setting: Setting) -> Sequence[Case]:
        """Return every covariance with every seed."""
        return [
            {"alpha": alpha, "beta": beta, "seed": seed}
            for alpha, beta in setting["points"]
            for seed in range(setting["seeds"])
        ]

    def measure(self, case: Case, setting: Setting, work: Work) -> xr.Dataset:
        """Return the cosines with the identity of A_2 and of the covariance."""
        del work
        seed = int(case["seed"])
        covariance = _covariance(float(case["alpha"]), float(case["beta"]))
        source = np.random.default_rng([seed, 1])
        size = setting["samples"]
        x = torch.from_numpy(source.standard_normal((size, setting["widths"][0])))
        root = np.linalg.cholesky(covariance)
        y = torch.from_numpy(source.standard_normal((size, 2)) @ root.T)
        rule = DFA(seed=seed, distribution="uniform", normalisation="fan-out")
        recipe = Recipe(
            epochs=setting["epochs"],
            batch_size=setting["batch"],
            optimizer_options={"lr": setting["rate"]},
            order_seed=seed,
        )
        found = trained_linear(setting["widths"], x=x, y=y, rule=rule, recipe=recipe)
        matrix = alignment_matrices(found.weights, found.feedback)[0]
        return xr.Dataset(
            {"of_matrix": cosine_to_identity(matrix), "of_targets": cosine_to_identity(covariance)}
        )

    def checks(self, results: xr.Dataset, setting: Setting) -> Sequence[Check]:
        """Hold the order of the means, and how near they are."""
        means, checks = [], []
        targets = []
        for alpha, beta in setting["points"]:
            values = over_seeds(results, "of_matrix", alpha=alpha, beta=beta)
            target = float(over_seeds(results, "of_targets", alpha=alpha, beta=beta)[0])
            means.append(values.mean())
            targets.append(target)
            stated = _STATED.get((alpha, beta))
            checks.append(
                mean_check(
                    f"cos(A_2, I), targets with alpha = {alpha:g}, beta = {beta:g}",
                    values,
                    near=(target, _NEAR),
                    stated=f"ours earlier: {stated}" if stated else "",
                    chance="0; of rank 1 0.707",
                )
            )
        order = float(spearmanr(targets, means).statistic)
        what = "rank correlation of cos(Sigma, I) and the mean cos(A_2, I)"
        first = Check(what, order, "1", order > 1.0 - 1e-9, "ours earlier: 1", runs=len(means))
        return [first, *checks]

    def draw(self, results: xr.Dataset, figure: Figure) -> None:
        """Draw one cosine against the other."""
        axes = figure.subplots()
        axes.plot(results["of_targets"], results["of_matrix"], "o", alpha=0.45, label="runs")
        for target in np.unique(results["of_targets"].values):
            here = results["of_targets"].values == target
            mean, low, high = interval_of_mean(results["of_matrix"].values[here])
            error = [[mean - low], [high - mean]] if np.isfinite(low) else None
            axes.errorbar([target + 0.008], [mean], yerr=error, fmt="_", color="black", capsize=4)
        axes.plot([0.7, 1.0], [0.7, 1.0], "--", color="grey", lw=1, label="equal")
        axes.axhline(0.5**0.5, color="grey", ls=":", lw=1, label="rank 1")
        axes.set_xlabel("cos(Sigma, I) of the targets")
        axes.set_ylabel("cos($A_2$, I)")
        legend_beside(axes)


def _covariance(alpha: float, beta: float) -> np.ndarray:
    between = alpha * (1.0 - beta)
    return np.array([[1.0, between], [between, alpha**2]])

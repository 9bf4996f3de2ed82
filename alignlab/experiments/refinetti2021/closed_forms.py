"""The Gaussian averages of erf students have these closed forms (R1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import xarray as xr
from scipy.special import erf

from alignlab.experiments._base import Case, Check, Claim, Provenance, Setting, Work
from alignlab.experiments._checking import worst_check
from alignlab.experiments._drawing import legend_beside, level
from alignlab.experiments._selection import chosen, crossed
from alignlab.experiments.refinetti2021._order_parameters import averages

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["ClosedForms"]

_NAMES = ("I2", "I3", "I4", "J2")
_CHUNK = 500_000


class ClosedForms(Claim):
    """I2, I3, I4 and J2 against samples of random covariances."""

    identity: ClassVar[str] = "R1"
    statement: ClassVar[str] = (
        "The averages I2, I3, I4 and J2 that the equations of motion of a student with error "
        "functions rest on have closed forms."
    )
    provenance: ClassVar[Provenance] = "read in its code"
    source: ClassVar[str] = "functions I2, I3, I4, J2 of the solver of the order parameters"
    fast: ClassVar[Setting] = {"samples": 4_000_000, "seeds": 5}
    caption: ClassVar[str] = (
        "Relative difference of the closed forms and means over normal samples, one dot for "
        "each random 4 by 4 covariance; dotted, the 1% that is allowed. No network, no data."
    )

    def cases(self, setting: Setting) -> Sequence[Case]:
        """Return covariances: of positive entries, where ratios make sense, and of any sign."""
        return crossed(entries=("positive", "any sign"), seed=range(setting["seeds"]))

    def measure(self, case: Case, setting: Setting, work: Work) -> xr.Dataset:
        """Return the four averages in closed form, by samples, and the samples' error."""
        source = np.random.default_rng([int(case["seed"]), case["entries"] == "positive"])
        signed = source.standard_normal((4, 4)) / 2.0
        # Of factors that are bounded from below no average is near zero.
        root = source.uniform(0.2, 1.0, (4, 4)) if case["entries"] == "positive" else signed
        total, squares, left = np.zeros(4), np.zeros(4), int(setting["samples"])
        while left:
            count = min(_CHUNK, left)
            left -= count
            products = _products(source.standard_normal((count, 4)) @ root.T)
            total += products.sum(0)
            squares += (products**2).sum(0)
            work.progress("sampling averages", setting["samples"] - left, setting["samples"])
        mean = total / setting["samples"]
        error = np.sqrt((squares / setting["samples"] - mean**2) / setting["samples"])
        found = averages(root @ root.T, "erf")
        closed = [found.i2[0, 1], found.i3[0, 1, 2], found.i4[0, 1, 2, 3], found.j2[0, 1]]
        return xr.Dataset(
            {
                "closed": ("average", np.array(closed)),
                "sampled": ("average", mean),
                "standard_error": ("average", error),
            },
            coords={"average": list(_NAMES)},
        )

    def checks(self, results: xr.Dataset, setting: Setting) -> Sequence[Check]:
        """Hold relative errors where no average is near 0, and standard errors elsewhere."""
        del setting
        positive, signed = (chosen(results, entries=name) for name in ("positive", "any sign"))
        relative = _relative(positive)
        checks = [
            worst_check(
                f"relative error of {name}, positive covariances",
                relative.sel(average=name).values,
                most=0.01,
                stated="ours earlier: < 0.003",
            )
            for name in _NAMES
        ]
        apart = abs(signed["closed"] - signed["sampled"]) / signed["standard_error"]
        what = "difference in standard errors, covariances of any sign"
        return [*checks, worst_check(what, apart.values, most=4.5)]

    def draw(self, results: xr.Dataset, figure: Figure) -> None:
        """Draw the relative difference of every covariance."""
        axes = figure.subplots()
        relative = _relative(chosen(results, entries="positive"))
        for number, name in enumerate(_NAMES):
            values = relative.sel(average=name).values
            axes.semilogy(np.full(values.size, number), values, "o", color="C0", alpha=0.6)
        level(axes, 0.01, "allowed")
        axes.set_xticks(range(len(_NAMES)), _NAMES)
        axes.set_ylabel("relative difference")
        legend_beside(axes)


def _products(z: np.ndarray) -> np.ndarray:
    g = erf(z * 0.5**0.5)
    slope = (2.0 / np.pi) ** 0.5 * np.exp(-0.5 * z[:, :2] ** 2)
    both = slope[:, 0] * slope[:, 1]
    return np.stack(
        [g[:, 0] * g[:, 1], slope[:, 0] * z[:, 1] * g[:, 2], both * g[:, 2] * g[:, 3], both], axis=1
    )


def _relative(results: xr.Dataset) -> xr.DataArray:
    found: xr.DataArray = abs(results["closed"] - results["sampled"]) / abs(results["sampled"])
    return found

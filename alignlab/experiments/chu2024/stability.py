"""Alignment decides whether an interpolating point is stable under the rule (R16)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import xarray as xr

from alignlab.experiments._base import Case, Check, Claim, Setting, Work
from alignlab.experiments._checking import mean_check, share_check
from alignlab.experiments._drawing import dots, legend_beside, level
from alignlab.experiments._selection import chosen
from alignlab.experiments.chu2024._interpolation import (
    interpolated,
    kernel_spectrum,
    samples,
    squared_error,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Stability"]


class Stability(Claim):
    r"""Is the mixed kernel :math:`K = J\tilde J^\top` positive where each rule arrives?"""

    identity = "R16"
    statement = (
        "Alignment is a stability criterion for the fixed points of feedback alignment: where "
        "the rule itself arrives, all eigenvalues of the mixed kernel have positive real parts, "
        "and points that backpropagation found are unstable under the rule."
    )
    provenance = "our derivation"
    source = (
        "Abstract: alignment as a stability criterion for fixed points (read); the linearisation "
        "at an interpolating point and its test are ours"
    )
    fast: ClassVar[Setting] = {
        "sizes": (10, 40, 40, 2),
        "samples": 12,
        "target": 0.7,
        "lr": 0.004,
        "steps": 12_000,
        "stop_loss": 1e-21,
        "seeds_dfa": 6,
        "seeds_bp": 16,
    }
    full: ClassVar[Setting | None] = {**fast, "seeds_dfa": 32, "seeds_bp": 32}
    caption = (
        "Smallest real part of the eigenvalues of K = J Jt' on all 12 training samples where "
        "training by either rule arrived; tanh 10-40-40-2 without biases, float64, full-batch "
        "gradient descent on the summed squared error (lr .004, at most 12,000 steps, ended at "
        "1e-21), targets +-.7 at random, feedback N(0, 1/40). Dots: seeds of weights, data and "
        "feedback; bars: mean with 95% interval. Below zero the point is unstable under the rule. "
        "The fast setting has 6 seeds of DFA and 16 of backpropagation, where 8 were "
        "measured earlier."
    )

    def cases(self, setting: Setting) -> Sequence[Case]:
        """Return both rules for every seed."""
        rules = ("dfa", "bp")
        return [{"rule": r, "seed": s} for r in rules for s in range(setting[f"seeds_{r}"])]

    def measure(self, case: Case, setting: Setting, work: Work) -> xr.Dataset:
        """Train, then look at the kernel of direct feedback there."""
        del work
        model, measured, training = interpolated(str(case["rule"]), setting, seed=int(case["seed"]))
        x, y = samples(setting, int(case["seed"]))
        smallest, symmetric = kernel_spectrum(model, measured, x, y)
        return xr.Dataset(
            {
                "loss": float(squared_error(model(x), y).detach()),
                "steps": float(len(training.losses)),
                "smallest": smallest,
                "symmetric": symmetric,
            }
        )

    def checks(self, results: xr.Dataset, setting: Setting) -> Sequence[Check]:
        """Hold the signs of the spectra against the criterion."""
        del setting
        own, other = chosen(results, rule="dfa"), chosen(results, rule="bp")
        smallest = "smallest real part of the eigenvalues of K"
        return [
            mean_check(
                "largest final summed squared error", [results["loss"].values.max()], most=1e-20
            ),
            share_check(
                f"{smallest} > 0 where DFA arrived",
                own["smallest"].values > 0,
                least=7 / 8,
                stated="ours earlier: 8/8, smallest .24",
            ),
            share_check(
                f"{smallest} < 0 where BP arrived",
                other["smallest"].values < 0,
                least=7 / 8,
                stated="ours earlier: 8/8, closest to zero -.06",
            ),
            mean_check(f"{smallest} where DFA arrived, mean", own["smallest"].values, least=0.0),
            mean_check(f"{smallest} where BP arrived, mean", other["smallest"].values, most=0.0),
        ]

    def draw(self, results: xr.Dataset, figure: Figure) -> None:
        """Draw the smallest real part, and the smallest of the symmetric part beside it."""
        names = {
            "smallest": "smallest real part of the eigenvalues of K",
            "symmetric": "smallest eigenvalue of the symmetric part",
        }
        for axes, (name, label) in zip(figure.subplots(1, 2), names.items(), strict=True):
            groups = {
                f"where {rule.upper()}\narrived": chosen(results, rule=rule)[name].values
                for rule in ("dfa", "bp")
            }
            dots(axes, groups)
            level(axes, 0.0, "stable above")
            axes.set_ylabel(label)
        legend_beside(axes)

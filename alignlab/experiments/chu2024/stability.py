"""Where DFA arrived its mixed kernel is stable, where backpropagation did mostly not (R16)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import xarray as xr

from alignlab.experiments._base import Case, Check, Claim, Setting, Work
from alignlab.experiments._checking import mean_check, share_check, worst_check
from alignlab.experiments._drawing import dots, legend_beside, level
from alignlab.experiments._selection import chosen
from alignlab.experiments.chu2024._interpolation import (
    interpolated,
    kernel_spectrum,
    samples,
    squared_error,
)
from alignlab.experiments.chu2024._mixed_kernel import (
    jacobian_cosine,
    mixed_kernel,
    redrawn,
    smallest_real_part,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Stability"]


class Stability(Claim):
    r"""Is the mixed kernel :math:`K = J\tilde J^\top` positive where each rule arrives?"""

    identity = "R16"
    statement = (
        "Where direct feedback itself arrives, all eigenvalues of the mixed kernel K = J Jt' have "
        "positive real parts, so that the point is stable under the rule; most points that "
        "backpropagation found are unstable under it. Of a stable and an unstable point the "
        "stable one is nearly always the better aligned: its J and Jt have the larger cosine."
    )
    provenance = "our derivation"
    source = (
        "Abstract: alignment as a stability criterion for fixed points (read); the linearisation "
        "at an interpolating point, the cosine of J and Jt and their tests are ours"
    )
    fast: ClassVar[Setting] = {
        "sizes": (10, 40, 40, 2),
        "samples": 12,
        "target": 0.7,
        "lr": 0.004,
        "steps": 12_000,
        "stop_loss": 1e-21,
        "redraws": 20,
        "seeds_dfa": 6,
        "seeds_bp": 16,
    }
    full: ClassVar[Setting | None] = {**fast, "seeds_dfa": 32, "seeds_bp": 32}
    caption = (
        "K = J Jt' on all {samples} training samples where training by either rule arrived; tanh "
        "10-40-40-2 without biases, float64, full-batch gradient descent on the summed squared "
        "error (lr {lr}, at most {steps} steps, ended at {stop_loss}), targets +-{target} at "
        "random, feedback N(0, 1/40). Left: smallest real part of its eigenvalues; below zero the "
        "point is unstable under the rule. Redrawn: the points of DFA under {redraws} draws of "
        "feedback that no training met, mean of each point. Right: the same against the cosine of "
        "J and Jt in Frobenius's norm, output layer included. Dots: {seeds_dfa} seeds of DFA and "
        "{seeds_bp} of backpropagation, of weights, data and feedback; bars: mean with 95% "
        "interval."
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
        fresh = redrawn(setting, model, x, y, seed=int(case["seed"]))
        return xr.Dataset(
            {
                "loss": float(squared_error(model(x), y).detach()),
                "steps": float(len(training.losses)),
                "smallest": smallest,
                "symmetric": symmetric,
                "cosine": jacobian_cosine(model, measured, x),
                "fresh": ("draw", [smallest_real_part(mixed_kernel(model, r, x)) for r in fresh]),
                "fresh_cosine": ("draw", [jacobian_cosine(model, r, x) for r in fresh]),
            }
        )

    def checks(self, results: xr.Dataset, setting: Setting) -> Sequence[Check]:
        """Hold the signs of the spectra, and what goes with them, against the criterion."""
        del setting
        own, other = chosen(results, rule="dfa"), chosen(results, rule="bp")
        smallest = "smallest real part of the eigenvalues of K"
        by_chance = float((own["fresh"] > 0).mean())
        unmet = float(own["fresh_cosine"].mean())
        return [
            worst_check("largest final summed squared error", results["loss"].values, most=1e-20),
            share_check(
                f"{smallest} > 0 where DFA arrived",
                own["smallest"].values > 0,
                least=7 / 8,
                stated="ours earlier: 8/8, smallest .24",
                chance=f"{by_chance:.2f}, under redrawn feedback at the same points",
            ),
            share_check(
                f"{smallest} < 0 where BP arrived",
                other["smallest"].values < 0,
                least=7 / 8,
                stated="ours earlier: 8/8, closest to zero -.06",
            ),
            mean_check(
                "of a stable and an unstable point the stable one has the larger cosine of J and "
                "Jt, share of such pairs",
                [_separation(results["cosine"].values, results["smallest"].values > 0)],
                least=0.9,
                chance=".5",
            ),
            mean_check(
                "the same share among points where BP arrived alone",
                [_separation(other["cosine"].values, other["smallest"].values > 0)],
                chance=".5",
            ),
            mean_check(f"{smallest} where DFA arrived, mean", own["smallest"].values),
            mean_check(f"{smallest} where BP arrived, mean", other["smallest"].values),
            mean_check(
                "cosine of J and Jt where DFA arrived",
                own["cosine"].values,
                chance=f"{unmet:.3f}, under redrawn feedback at the same points",
            ),
            mean_check(
                "cosine of J and Jt where BP arrived",
                other["cosine"].values,
                chance=f"{float(other['fresh_cosine'].mean()):.3f}, under redrawn feedback",
            ),
            share_check(
                "symmetric part of K positive where DFA arrived: every error falls at once",
                own["symmetric"].values > 0,
                least=0.0,
            ),
        ]

    def draw(self, results: xr.Dataset, figure: Figure) -> None:
        """Draw the smallest real part, and beside it how it goes with alignment."""
        left, right = figure.subplots(1, 2, sharey=True)
        own, other = chosen(results, rule="dfa"), chosen(results, rule="bp")
        dots(
            left,
            {
                "DFA\narrived": own["smallest"].values,
                "the same,\nredrawn": own["fresh"].mean("draw").values,
                "BP\narrived": other["smallest"].values,
            },
        )
        for runs, label, color in ((own, "DFA arrived", "C0"), (other, "BP arrived", "C3")):
            right.plot(
                *(runs["cosine"].values, runs["smallest"].values, "o"),
                **{"color": color, "alpha": 0.6, "mew": 0, "label": label},
            )
        for axes in (left, right):
            axes.set_yscale("symlog", linthresh=0.1)
            level(axes, 0.0, "stable above")
        left.set_ylabel("smallest real part of the eigenvalues of K")
        right.set_xlabel("cosine of J and Jt")
        legend_beside(right)


def _separation(cosines: np.ndarray, stable: np.ndarray) -> float:
    """Return the share of pairs in which the stable point has the larger cosine."""
    pairs = cosines[stable][:, None] > cosines[~stable][None, :]
    return float(pairs.mean()) if pairs.size else float("nan")

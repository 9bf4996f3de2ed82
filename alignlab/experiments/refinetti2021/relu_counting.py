"""A relu student learns if enough feedback has the teacher's sign (R5)."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import comb
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import xarray as xr

from alignlab.experiments._base import Case, Check, Claim, Provenance, Setting, Work
from alignlab.experiments._checking import share_check
from alignlab.experiments._drawing import legend_beside
from alignlab.experiments._selection import chosen
from alignlab.experiments.refinetti2021._teacher_student import (
    Runs,
    recorded_times,
    simulated,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["ReluCounting"]

_LEARNED = 1e-3


class ReluCounting(Claim):
    """Success by the number of positive feedback entries."""

    identity: ClassVar[str] = "R5"
    statement: ClassVar[str] = (
        "A relu unit cannot flip its sign, so that a student of a teacher of M positive units "
        "learns under direct feedback alignment only if at least M of its K feedback entries are "
        "positive. With random signs that has probability 2^-K sum_{k<=K-M} C(K, k)."
    )
    provenance: ClassVar[Provenance] = "recalled"
    source: ClassVar[str] = "shallow relu students; restated by third parties"
    fast: ClassVar[Setting] = {
        "n_inputs": 100,
        "rate": 0.2,
        "students": [2, 3, 4],
        "teachers": 2,
        "last": 600.0,
        "inits": 5,
    }
    caption: ClassVar[str] = (
        "Generalisation error at the end of every run, by number of student units and of "
        "positive feedback entries (+-1); dotted, the error below which a run has learned. Relu, "
        "2 teacher units with A = 1, N = 100, time 600, batch 1, a seed of its own for each run."
    )

    def cases(self, setting: Setting) -> Sequence[Case]:
        """Return every number of positive entries, and backpropagation for K = M."""
        found: list[Case] = [
            {"rule": "dfa", "students": k, "positive": count}
            for k in setting["students"]
            for count in range(k + 1)
        ]
        return [*found, {"rule": "bp", "students": setting["teachers"], "positive": -1}]

    def measure(self, case: Case, setting: Setting, work: Work) -> xr.Dataset:
        """Return the error over time."""
        k, count, n = int(case["students"]), setting["inits"], setting["n_inputs"]
        first = count * self.cases(setting).index(dict(case))
        seeds = range(first, first + count)
        feedback = None
        if case["rule"] == "dfa":
            signs = np.where(np.arange(k) < int(case["positive"]), 1.0, -1.0)
            feedback = np.tile(signs, (len(seeds), 1))
        teacher = np.ones(setting["teachers"])
        runs = Runs(seeds, teacher, feedback, k, n, setting["rate"], activation="relu")
        times = recorded_times(setting["last"], 40, n)
        found = simulated(runs, times, progress=work.progress)
        return xr.Dataset(
            {"error": (("time", "init"), found.error)},
            coords={"time": times, "init": np.arange(count)},
        )

    def checks(self, results: xr.Dataset, setting: Setting) -> Sequence[Check]:
        """Hold success against the count; show the probability, which follows from it."""
        dfa, least = chosen(results, rule="dfa"), setting["teachers"]
        last = dfa["error"].isel(time=-1).transpose("run", "init")
        learned = last.values < _LEARNED
        should = (dfa["positive"].values >= least)[:, None]
        checks = [
            share_check(
                "runs that learn if and only if at least M entries are positive",
                (learned == should).ravel(),
                stated="ours earlier: 60 of 60",
            )
        ]
        for k in setting["students"]:
            rows = learned[dfa["students"].values == k]
            weights = np.array([comb(k, count) for count in range(k + 1)]) / 2.0**k
            share = float(weights @ rows.mean(1))
            exact = Fraction(sum(comb(k, j) for j in range(k - least + 1)), 2**k)
            what = f"probability to learn under random signs, {k} student units"
            checks.append(
                Check(what, share, "no bound", True, f"recalled: {exact}", runs=rows.size)
            )
        own = chosen(results, rule="bp")["error"].isel(time=-1).values.ravel()
        what = "runs that learn by backpropagation, K = M (a control)"
        before = "ours earlier: 2 of 5 learn, 3 stick"
        return [*checks, share_check(what, own < _LEARNED, least=0.0, stated=before)]

    def draw(self, results: xr.Dataset, figure: Figure) -> None:
        """Draw the errors at the end."""
        axes = figure.subplots()
        labels = []
        for place in range(results.sizes["run"]):
            one = results.isel(run=place, time=-1)
            is_bp, k = one["rule"].item() == "bp", int(one["students"])
            labels.append(f"{k}, BP" if is_bp else f"{k}, {int(one['positive'])}+")
            color = "black" if is_bp else f"C{k - 2}"
            axes.semilogy(np.full(one.sizes["init"], place), one["error"], "o", color=color)
        axes.axhline(_LEARNED, color="grey", ls=":", lw=1, label="learned below")
        axes.set_xticks(range(len(labels)), labels, rotation=60)
        axes.set_xlabel("student units, positive feedback entries")
        axes.set_ylabel("generalisation error at the end")
        legend_beside(axes)

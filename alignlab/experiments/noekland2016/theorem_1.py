"""Constant update directions pull the alignment of two layers above zero (N3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import xarray as xr

from alignlab.experiments._base import Case, Check, Claim, Setting, Work
from alignlab.experiments._statistics import interval_of_share

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Theorem1"]

STATED = "ours earlier: no violation in 200 trials"
PROBE = 1e-3
"""How far the lower layer is moved to see whether the upper layer's criterion falls."""


class Theorem1(Claim):
    """Two tanh layers under update directions that never change, and their alignment."""

    identity = "N3"
    statement = (
        "Two consecutive layers that follow non-zero update directions of constant direction "
        "minimise K, the inner product of activations with these directions, and so come to a "
        "positive alignment L of the directions with those of backpropagation; where it is "
        "positive, the lower layer's direction is one of descent for the upper layer's K."
    )
    provenance = "recalled"
    source = "Theorem 1; its proof was not read again"
    fast: ClassVar[Setting] = {
        "blocks": 4,
        "trials": 50,
        "steps": 200,
        "rate": 0.05,
        "inputs": 20,
        "lower": 30,
        "upper": 25,
    }
    caption = (
        "Left: L of the lower layer over steps, every trial and the median; zero is what chance "
        "gives. Right: K of both layers. {blocks} x {trials} random pairs of tanh layers, normal "
        "weights of variance 1 / fan-in, one normal input each, normal directions, gradient steps "
        "of {rate} on weights and biases, no feedback and no data beside it. L is pulled above "
        "zero, not raised without end: as units saturate it becomes small, and ends below its "
        "first value in about half of the trials. As a late unit changes its sign, L can fall "
        "below zero for a moment: one of 6,000 trials was there at the end of 1,000 steps, and "
        "passes it in steps a hundred times smaller, too."
    )

    def cases(self, setting: Setting) -> Sequence[Case]:
        """Return blocks of trials."""
        return [{"seed": seed} for seed in range(setting["blocks"])]

    def measure(self, case: Case, setting: Setting, work: Work) -> xr.Dataset:
        """Let every pair of a block follow its directions."""
        n_inputs, n_lower, n_upper = (setting[name] for name in ("inputs", "lower", "upper"))
        generator = np.random.default_rng(int(case["seed"]))

        def drawn(*shape: int) -> np.ndarray:
            return generator.normal(size=(setting["trials"], *shape))

        lower = drawn(n_lower, n_inputs) / np.sqrt(n_inputs), np.zeros((setting["trials"], n_lower))
        upper = drawn(n_upper, n_lower) / np.sqrt(n_lower), np.zeros((setting["trials"], n_upper))
        x, to_lower, to_upper = drawn(n_inputs), drawn(n_lower), drawn(n_upper)
        rows = []
        for _ in range(setting["steps"] + 1):
            h = _layer(lower, x)
            h_upper = _layer(upper, h)
            moved = _layer(upper, h - PROBE * to_lower)
            signal = to_upper * (1.0 - h_upper**2)
            lower_alignment = _along(to_lower, np.einsum("tij,ti->tj", upper[0], signal))
            image = np.einsum("tij,tj->ti", upper[0], to_lower) * (1.0 - h_upper**2)
            rows.append(
                (
                    *(lower_alignment, _along(to_upper, image)),
                    *(_along(to_lower, h), _along(to_upper, h_upper)),
                    _along(to_upper, moved) - _along(to_upper, h_upper),
                )
            )
            lower = _stepped(lower, to_lower * (1.0 - h**2), x, setting["rate"])
            upper = _stepped(upper, signal, h, setting["rate"])
        names = ("l_lower", "l_upper", "k_lower", "k_upper", "k_upper_change")
        numbers = np.array(rows).transpose(1, 2, 0)
        return xr.Dataset({n: (("trial", "step"), v) for n, v in zip(names, numbers, strict=True)})

    def checks(self, results: xr.Dataset, setting: Setting) -> Sequence[Check]:
        """Return in how many trials each part of the statement is violated; NaN violates it."""
        end = results.isel(step=-1)
        fell = results["k_lower"] + results["k_upper"]
        rose = ~(fell.isel(step=-1) < fell.isel(step=0)).values
        chance = f"{(results['l_lower'].isel(step=0) <= 0).values.mean():.2f} at the start"
        return [
            _none("trials in which K does not fall", rose),
            _none(
                "trials with L of the lower layer <= 0 at the end", ~(end["l_lower"] > 0), chance
            ),
            _none(
                "trials with L of the upper layer <= 0 at the end", ~(end["l_upper"] > 0), chance
            ),
            _none(
                "trials in which the lower layer's direction does not lower the upper K",
                ~(end["k_upper_change"] < 0),
                f"{(results['k_upper_change'].isel(step=0) >= 0).values.mean():.2f} at the start",
            ),
        ]

    def draw(self, results: xr.Dataset, figure: Figure) -> None:
        """Draw alignment and criterion over steps."""
        left, right = figure.subplots(1, 2)
        steps = np.arange(results.sizes["step"])
        alignment = results["l_lower"].values.reshape(-1, len(steps))
        left.plot(steps, alignment.T, color="#999999", linewidth=0.3, alpha=0.4)
        left.plot(steps, np.median(alignment, axis=0), color="#0072b2", label="median")
        left.axhline(0.0, color="#222222", linestyle="--", linewidth=0.8, label="chance")
        left.set(xlabel="step", ylabel="L, lower layer")
        left.set_yscale("symlog", linthresh=0.1)
        for name, colour in (("lower", "#0072b2"), ("upper", "#d55e00")):
            values = results[f"k_{name}"].values.reshape(-1, len(steps))
            right.plot(steps, np.median(values, axis=0), color=colour, label=f"{name} layer")
            low, high = np.quantile(values, [0.025, 0.975], axis=0)
            right.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
        right.set(xlabel="step", ylabel="K, median and 95% of trials")
        for axes in (left, right):
            axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)


def _layer(layer: tuple[np.ndarray, np.ndarray], x: np.ndarray) -> np.ndarray:
    """Return the activations of a layer of every trial."""
    weights, biases = layer
    activations: np.ndarray = np.tanh(np.einsum("tij,tj->ti", weights, x) + biases)
    return activations


def _stepped(
    layer: tuple[np.ndarray, np.ndarray], signal: np.ndarray, x: np.ndarray, rate: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return weights and biases after a step against a signal at the pre-activations."""
    return layer[0] - rate * signal[:, :, None] * x[:, None, :], layer[1] - rate * signal


def _along(direction: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """Return the component of vectors along directions, one of each trial."""
    component: np.ndarray = (direction * vector).sum(-1) / np.linalg.norm(direction, axis=-1)
    return component


def _none(what: str, violated: xr.DataArray | np.ndarray, chance: str = "") -> Check:
    """Return the check that a thing happens in no trial."""
    flat = np.asarray(violated).ravel()
    count = int(flat.sum())
    _, low, high = interval_of_share(count, flat.size)
    return Check(
        what=f"share of {what}",
        measured=count / flat.size,
        expected="= 0",
        passed=count == 0,
        stated=STATED,
        low=low,
        high=high,
        chance=chance,
        runs=flat.size,
    )

"""Strongly aligned weights align the gradient unless a layer is narrower than the error (R20)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from alignlab.experiments._base import Case, Check, Claim, Provenance, Setting, Work, chosen
from alignlab.experiments._drawing import legend_beside, level
from alignlab.experiments._statistics import interval_of_mean
from alignlab.experiments.refinetti2021._linear import squared_error
from alignlab.experiments.refinetti2021._students import worst_check
from alignlab.probe import Probe
from alignlab.rules import DFA
from alignlab.snapshot import MeasuredRule

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Bottleneck"]

_EXACT = 1e-10
_MOST_BELOW = 0.7
_NEAR = 0.1
_STATED = {5: ("ours earlier: .41", "ours earlier: .66, held below 0.7 on one draw")}
"""Of the first and the second hidden layer, by width."""


class Bottleneck(Claim):
    """Gradient alignment at strong weight alignment, by width.

    With n units and C errors, n < C, the products F^T F are projectors of rank n on independent
    spaces. Each that lies between a layer and the top hidden one takes a factor of about
    sqrt(n/C) from its cosine (our derivation), 0.71 for the second of three layers at n = C/2.
    """

    identity: ClassVar[str] = "R20"
    statement: ClassVar[str] = (
        "Where weights are W_l = F_l F_{l-1}^T and feedback has orthonormal columns, the gradient "
        "is aligned exactly. A layer of fewer units than errors cannot have such feedback, and "
        "its alignment is lost: the bottleneck effect in the language of alignment matrices."
    )
    provenance: ClassVar[Provenance] = "our derivation"
    source: ClassVar[str] = "deep linear theory; strong weight alignment is recalled"
    fast: ClassVar[Setting] = {
        "widths": [2, 5, 10, 20],
        "inputs": 30,
        "errors": 10,
        "samples": 200,
        "seeds": 10,
    }
    caption: ClassVar[str] = (
        "Gradient alignment (pre-activation, mean of the cosines of 200 samples) of the first and "
        "second of three equal hidden layers against their width: runs, and their mean with its "
        "95% interval. Linear, 10 outputs, W_l = F_l F_{l-1}^T, orthonormal feedback, normal "
        "inputs and targets, sum of squares; dashed, 10 units; dotted, chance. Nothing is trained."
    )

    def cases(self, setting: Setting) -> Sequence[Case]:
        """Return every width with every seed."""
        return [
            {"width": width, "seed": seed}
            for width in setting["widths"]
            for seed in range(setting["seeds"])
        ]

    def measure(self, case: Case, setting: Setting, work: Work) -> xr.Dataset:
        """Return the alignment of the first two hidden layers, measured by a probe."""
        del work
        n, seed, errors = int(case["width"]), int(case["seed"]), setting["errors"]
        source = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=source, dtype=torch.float64)

        feedback = [_orthonormal(normal(n, errors)) for _ in range(3)]
        first = normal(n, setting["inputs"]) / setting["inputs"] ** 0.5
        weights = [first, *(f @ b.T for b, f in pairwise(feedback))]
        weights.append(feedback[-1].T)
        model = nn.Sequential(*(_linear(weight) for weight in weights))
        x = normal(setting["samples"], setting["inputs"])
        y = normal(setting["samples"], errors)
        state = {str(number): each.T.contiguous() for number, each in enumerate(feedback)}
        rules, names = [MeasuredRule(DFA(), state, "checkpoint")], ["error-signal"]
        with Probe(model, squared_error, rules=rules, diagnostics=names, draws=32) as probe:
            found = probe.measure(x, y).isel(step=0, rule=0)
        cosine = found["cosine_error_signal"].sel(site="preactivation").values
        return xr.Dataset({"alignment": ("hidden", cosine[:2])}, coords={"hidden": [1, 2]})

    def checks(self, results: xr.Dataset, setting: Setting) -> Sequence[Check]:
        """Hold exactness above, the loss below, and the order of the widths."""
        errors, checks, means = setting["errors"], [], []
        for width in sorted(setting["widths"]):
            values = chosen(results, width=width)["alignment"].transpose("run", "hidden").values
            means.append(values.mean(0))
            if width >= errors:
                checks.append(
                    worst_check(
                        f"distance of gradient alignment from 1, {width} units", 1.0 - values,
                        most=_EXACT, stated="ours earlier: exactly 1",
                    )
                )  # fmt: skip
                continue
            checks += _below(values, width, errors)
        rise = float(np.diff(np.array(means), axis=0).min())
        what = "smallest rise of the mean alignment from one width to the next"
        return [*checks, Check(what, rise, f">= -{_EXACT:g}", rise >= -_EXACT)]

    def draw(self, results: xr.Dataset, figure: Figure) -> None:
        """Draw alignment against width."""
        axes = figure.subplots()
        widths = np.unique(results["width"].values)
        for number, hidden in enumerate(results["hidden"].values):
            here, color = results.sel(hidden=hidden), f"C{number}"
            axes.plot(here["width"], here["alignment"], "o", color=color, alpha=0.4)
            found = [interval_of_mean(chosen(here, width=w)["alignment"].values) for w in widths]
            mean, low, high = np.array(found).T
            sides = np.nan_to_num(np.stack([mean - low, high - mean])).clip(min=0.0)
            label = f"hidden layer {hidden}"
            axes.errorbar(widths, mean, yerr=sides, color=color, capsize=4, label=label)
        axes.axvline(self.fast["errors"], color="grey", ls="--", lw=1, label="errors")
        level(axes, 0.0, "chance")
        axes.set_xscale("log")
        axes.minorticks_off()
        axes.set_xticks(widths, [str(each) for each in widths])
        axes.set_xlabel("width of the hidden layers")
        axes.set_ylabel("gradient alignment")
        legend_beside(axes)


def _below(values: np.ndarray, width: int, errors: int) -> list[Check]:
    """Return the checks of a width below that of the error, whose runs are the rows."""
    checks = []
    for number, column in enumerate(values.T):
        mean, low, high = interval_of_mean(column)
        derived = (width / errors) ** (0.5 * (2 - number))
        expected, passed = f"{derived:.3f} without a bound", True
        if 2 * width == errors and number == 0:
            expected, passed = f"< {_MOST_BELOW:g}", mean < _MOST_BELOW
        elif 2 * width == errors:
            expected, passed = f"{derived:.3f} within {_NEAR:g}", abs(mean - derived) <= _NEAR
        what = f"gradient alignment of hidden layer {number + 1}, {width} units"
        stated = _STATED.get(width, ("", ""))[number]
        checks.append(Check(what, mean, expected, passed, stated, low, high, "0", column.size))
    return checks


def _orthonormal(matrix: Tensor) -> Tensor:
    """Return orthonormal columns, or rows where there are fewer of them."""
    tall = matrix if len(matrix) >= matrix.shape[1] else matrix.T
    q: Tensor = torch.linalg.qr(tall)[0]
    return q if tall is matrix else q.T


def _linear(weight: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(weight)
    return layer

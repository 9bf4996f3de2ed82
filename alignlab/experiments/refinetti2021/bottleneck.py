"""Strongly aligned weights align the gradient unless a layer is narrower than the error (R20)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from alignlab.experiments._base import Case, Check, Claim, Provenance, Setting, Work
from alignlab.experiments._checking import mean_check, worst_check
from alignlab.experiments._drawing import legend_beside, level, whiskers
from alignlab.experiments._selection import crossed, over_seeds
from alignlab.experiments.refinetti2021._linear import squared_error
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
        return crossed(width=setting["widths"], seed=range(setting["seeds"]))

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
            values = over_seeds(results, "alignment", width=width)
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
            values = [over_seeds(results, "alignment", width=w, hidden=hidden) for w in widths]
            label = f"hidden layer {hidden}"
            whiskers(axes, widths, np.stack(values, axis=1), label, color=f"C{number}")
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
        derived = (width / errors) ** (0.5 * (2 - number))
        bounds: dict[str, Any] = {}
        if 2 * width == errors:
            bounds = {"near": (derived, _NEAR)} if number else {"below": _MOST_BELOW}
        checks.append(
            mean_check(
                f"gradient alignment of hidden layer {number + 1}, {width} units "
                f"(derived: {derived:.3f})",
                column,
                stated=_STATED.get(width, ("", ""))[number],
                chance="0",
                **bounds,
            )
        )
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

"""Strongly aligned weights align the gradient, but not below a layer that is too narrow (R20)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
import xarray as xr
from scipy.special import gammaln
from torch import Tensor, nn

from alignlab.experiments._alignment import feedback_products, gradient_alignment
from alignlab.experiments._base import Case, Check, Claim, Provenance, Setting, Work
from alignlab.experiments._checking import mean_check, worst_check
from alignlab.experiments._drawing import legend_beside, level, whiskers
from alignlab.experiments._selection import over_seeds
from alignlab.experiments.refinetti2021._linear import squared_error
from alignlab.rules import DFA
from alignlab.snapshot import MeasuredRule

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Bottleneck"]

_EXACT = 1e-10
_MOST_BELOW = 0.7
_NEAR = 0.02
_ERRORS = {"independent": "errors independent of the weights", "own": "errors of the network"}
_STATED = {"5-5-5": (".41", ".66")}
"""Of the first and the second hidden layer, one draw, of which errors is not known."""


class Bottleneck(Claim):
    """Gradient alignment at strong weight alignment, by the widths of three hidden layers.

    With n units and C errors, n < C, the product F^T F is a projector P of rank n. Below a single
    narrow layer the cosine is therefore |Pe|/|e|, of which the mean over isotropic errors e is
    that of the root of a beta variable, Gamma((n+1)/2) Gamma(C/2) / (Gamma(n/2) Gamma((C+1)/2))
    (our derivation). The network's own errors hold its outputs, which lie in the image of P.
    """

    identity: ClassVar[str] = "R20"
    statement: ClassVar[str] = (
        "Where weights are W_l = F_l F_{l-1}^T and feedback has orthonormal columns, the gradient "
        "is aligned exactly. A hidden layer of fewer units than errors cannot have such feedback: "
        "it keeps its own alignment, and the layers below it lose theirs."
    )
    provenance: ClassVar[Provenance] = "our derivation"
    source: ClassVar[str] = (
        "deep linear theory; strong weight alignment is recalled; the bound of 0.7 was set by us "
        "for three equal layers of half as many units as errors"
    )
    fast: ClassVar[Setting] = {
        "widths": ["2-2-2", "5-5-5", "10-10-10", "20-20-20", "5-20-20", "20-5-20", "20-20-5"],
        "inputs": 30,
        "errors": 10,
        "samples": 200,
        "draws": 200,
    }
    caption: ClassVar[str] = (
        "Gradient alignment (pre-activation, mean of the cosines of {samples} samples) of three "
        "hidden layers by their widths, from the bottom: {draws} draws of the network, and their "
        "mean with its 95% interval. Linear, {errors} outputs, W_l = F_l F_(l-1)^T, orthonormal "
        "feedback, normal inputs and targets. Errors are normal and independent of the weights, or "
        "those of the network under the sum of squares. Dotted: chance. Nothing is trained."
    )

    def cases(self, setting: Setting) -> Sequence[Case]:
        """Return every list of widths."""
        return [{"widths": widths} for widths in setting["widths"]]

    def measure(self, case: Case, setting: Setting, work: Work) -> xr.Dataset:
        """Return the alignment of all hidden layers, and what is derived below a narrow layer."""
        widths = [int(each) for each in str(case["widths"]).split("-")]
        place, draws = setting["widths"].index(case["widths"]), setting["draws"]
        found = []
        for draw in range(draws):
            found.append(_drawn(widths, setting, seed=draws * place + draw))
            work.progress(str(case["widths"]), draw + 1, draws)
        alignment, derived = zip(*found, strict=True)
        return xr.Dataset(
            {
                "alignment": (("draw", "errors", "hidden"), np.array(alignment)),
                "derived": (("draw", "errors"), np.array(derived)),
            },
            coords={"errors": list(_ERRORS), "hidden": np.arange(1, len(widths) + 1)},
        )

    def checks(self, results: xr.Dataset, setting: Setting) -> Sequence[Check]:
        """Hold exactness, the loss below narrow layers, and the order of equal widths."""
        found, count = [], setting["errors"]
        for kind, words in _ERRORS.items():
            means = {}
            for name in setting["widths"]:
                (run,) = over_seeds(results.sel(errors=kind), "alignment", widths=name)
                (derived,) = over_seeds(results.sel(errors=kind), "derived", widths=name)
                widths = [int(each) for each in name.split("-")]
                if len(set(widths)) == 1:
                    means[widths[0]] = run.mean(0)[:-1]
                found += _of_widths(f"{name}, {words}", widths, count, run)
                narrow = [at for at, width in enumerate(widths) if width < count]
                if len(narrow) == 1 and narrow[0]:
                    found += _below_one(f"{name}, {words}", run[:, : narrow[0]], derived)
                    if kind == "independent":
                        found.append(_closed(name, run[:, 0], widths[narrow[0]], count))
            if len(means) > 1:
                ordered = np.array([means[width] for width in sorted(means)])
                rise = float(np.diff(ordered, axis=0).min())
                what = f"{words}: smallest rise of the mean from one equal width to the next"
                found.append(Check(what, rise, f">= -{_EXACT:g}", rise >= -_EXACT))
        return found

    def draw(self, results: xr.Dataset, figure: Figure) -> None:
        """Draw alignment against the widths, an axes for either kind of errors."""
        panels = figure.subplots(1, len(_ERRORS), sharey=True)
        names = results["widths"].values.tolist()
        for axes, (kind, words) in zip(panels, _ERRORS.items(), strict=True):
            for number, hidden in enumerate(results["hidden"].values):
                here = results["alignment"].sel(errors=kind, hidden=hidden)
                places = np.arange(len(names)) + 0.22 * (number - 1)
                values = here.transpose("draw", "run").values
                whiskers(
                    *(axes, places, values, f"hidden layer {hidden}"),
                    color=f"C{number}", linestyle="",
                )  # fmt: skip
            level(axes, 0.0, "chance")
            axes.set_xticks(range(len(names)), names, rotation=45)
            axes.set_xlabel("widths, from the bottom")
            axes.set_title(words, fontsize="medium")
        panels[0].set_ylabel("gradient alignment")
        legend_beside(panels[-1])


def _of_widths(where: str, widths: Sequence[int], count: int, run: np.ndarray) -> list[Check]:
    """Return the checks of layers with none narrow above, and of those of equal narrow widths."""
    exact = [at for at in range(len(widths) - 1) if min(widths[at + 1 :]) >= count]
    found = []
    if exact:
        layers = " and ".join(str(at + 1) for at in exact)
        what = f"{where}: distance of the alignment of hidden layer {layers} from 1"
        found.append(worst_check(what, 1.0 - run[:, exact], most=_EXACT, stated="ours: exactly 1"))
    if len(set(widths)) == 1 and widths[0] < count:
        known = _STATED.get("-".join(map(str, widths)), ())
        stated = [f"ours earlier, one draw: {each}" for each in known] or [""] * len(widths)
        below = _MOST_BELOW if 2 * widths[0] == count else None
        for at, column in enumerate(run.T[:-1]):
            what = f"{where}: alignment of hidden layer {at + 1}"
            found.append(mean_check(what, column, below=below, stated=stated[at], chance="0"))
    return found


def _below_one(where: str, below: np.ndarray, derived: np.ndarray) -> list[Check]:
    """Return the checks of the layers below a single narrow one."""
    return [
        mean_check(f"{where}: alignment below the narrow layer", below.mean(1), below=1.0),
        worst_check(
            f"{where}: difference of it and |Pe|/|e|", abs(below - derived[:, None]), most=_EXACT
        ),
    ]


def _closed(name: str, column: np.ndarray, width: int, count: int) -> Check:
    """Return the check of the closed form for isotropic errors."""
    one, other = gammaln([(width + 1) / 2, width / 2]), gammaln([(count + 1) / 2, count / 2])
    expected = float(np.exp(one[0] - one[1] - other[0] + other[1]))
    what = f"{name}: alignment below the narrow layer beside its closed form, isotropic errors"
    return mean_check(what, column, near=(expected, _NEAR))


def _drawn(widths: Sequence[int], setting: Setting, *, seed: int) -> tuple[np.ndarray, list[float]]:
    """Return, for both kinds of errors, the alignments and the mean of |Pe|/|e|."""
    source, count = torch.Generator().manual_seed(seed), setting["errors"]

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=source, dtype=torch.float64)

    feedback = [_orthonormal(normal(n, count)) for n in widths]
    first = normal(widths[0], setting["inputs"]) / setting["inputs"] ** 0.5
    model = nn.Sequential(*(_linear(each) for each in (first, *feedback_products(feedback))))
    x, y = normal(setting["samples"], setting["inputs"]), normal(setting["samples"], count)
    state = {str(number): each.T.contiguous() for number, each in enumerate(feedback)}
    rule = MeasuredRule(DFA(), state, "checkpoint")
    losses = {"independent": _product, "own": squared_error}
    found = [gradient_alignment(model, losses[kind], x, y, rule)[0].layers for kind in _ERRORS]
    with torch.no_grad():
        errors = {"independent": y, "own": model(x) - y}
    narrowest = min(feedback, key=len)
    derived = [
        float((errors[kind] @ narrowest.T).norm(dim=1).div(errors[kind].norm(dim=1)).mean())
        for kind in _ERRORS
    ]
    return np.stack(found), derived


def _product(output: Tensor, target: Tensor) -> Tensor:
    """Return the inner product, whose error is the target whatever the output is."""
    return (output * target).sum()


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

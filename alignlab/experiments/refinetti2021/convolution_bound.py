"""How far convolution weights can align follows from their free parameters (R14)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
import xarray as xr
from torch import nn

from alignlab.engine.capture import Capture
from alignlab.experiments._base import Case, Check, Claim, Provenance, Setting, Work
from alignlab.experiments._checking import mean_check
from alignlab.experiments._digits import digits
from alignlab.experiments._drawing import dots, legend_beside
from alignlab.experiments._statistics import interval_of_mean
from alignlab.feedback import as_tensor
from alignlab.kernels.convolution import structured_share
from alignlab.kernels.unrolled import unrolled
from alignlab.rules import DFA

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["ConvolutionBound"]

_LAYERS = ("convolution", "locally connected", "fully connected")
_STATED = {
    "convolution": "ours earlier: .121 to .128 attainable, .125 predicted",
    "locally connected": "ours earlier: .490 to .504 attainable, .5 predicted",
    "fully connected": "ours earlier: 1",
}


class ConvolutionBound(Claim):
    """Largest cosine that a layer's weights can have with the feedback, by kind of the layer."""

    identity: ClassVar[str] = "R14"
    statement: ClassVar[str] = (
        "A convolution, as the matrix that it is, is sparse and has few free parameters, so that "
        "it cannot align with dense feedback: the largest weight alignment is the root of its "
        "free parameters over the entries of that matrix."
    )
    provenance: ClassVar[Provenance] = "our derivation"
    source: ClassVar[str] = "testable form of the abstract's suggestion why convolutions fail"
    fast: ClassVar[Setting] = {"channels": [1, 8, 8], "kernel": 3, "seeds": 10}
    caption: ClassVar[str] = (
        "Largest attainable weight alignment of the second layer: runs, their mean with its 95% "
        "interval, and the prediction as a dash. Convolutions of 3 by 3 with 8 channels on 8 by 8 "
        "digits, no padding; locally connected, the same without sharing; normal feedback, one "
        "draw for each seed. Nothing is trained."
    )

    def cases(self, setting: Setting) -> Sequence[Case]:
        """Return one case a draw of the feedback."""
        return [{"seed": seed} for seed in range(setting["seeds"])]

    def measure(self, case: Case, setting: Setting, work: Work) -> xr.Dataset:
        """Return attainable and predicted alignment of the three kinds of layers."""
        del work
        model = _network(setting, seed=int(case["seed"]))
        sample = digits()
        x, y = sample.x[:8].reshape(-1, 1, 8, 8), sample.y[:8]
        capture = Capture(model, nn.functional.cross_entropy, x, y)
        state = DFA(seed=int(case["seed"])).start(capture, seed=int(case["seed"]))
        capture.close()
        below, above = (as_tensor(state[name]).double() for name in ("0", "2"))
        layer = model[2]
        assert isinstance(layer, nn.Conv2d)
        target = above.flatten(1).T @ below.flatten(1)
        connected = unrolled(layer, torch.ones_like(layer.weight), below.shape[1:]) != 0
        inside = (target * connected).norm() / target.norm()
        size = target.numel()
        free = {
            "convolution": layer.weight.numel(),
            "locally connected": int(connected.sum()),
            "fully connected": size,
        }
        attainable = [float(structured_share(layer, below, above)), float(inside), 1.0]
        predicted = [(free[name] / size) ** 0.5 for name in _LAYERS]
        return xr.Dataset(
            {"attainable": ("kind", np.array(attainable)), "predicted": ("kind", predicted)},
            coords={"kind": list(_LAYERS)},
        )

    def checks(self, results: xr.Dataset, setting: Setting) -> Sequence[Check]:
        """Hold the ratio of both in every run; that of a full matrix is 1 whatever is drawn."""
        del setting
        found = []
        for kind in _LAYERS:
            here = results.sel(kind=kind)
            ratio = (here["attainable"] / here["predicted"]).values
            within = bool(((ratio >= 0.9) & (ratio <= 1.1)).all())
            mean, low, high = interval_of_mean(ratio)
            if kind == "fully connected":
                what = f"the same, {kind}"
                found.append(mean_check(what, ratio, stated=_STATED[kind]))
                continue
            attained = float(here["attainable"].mean())
            what = f"attainable over predicted weight alignment, {kind} ({attained:.3f})"
            wanted, runs = "between 0.9 and 1.1 in every run", ratio.size
            own = _STATED[kind]
            found.append(Check(what, mean, wanted, within, own, low, high, runs=runs))
        return found

    def draw(self, results: xr.Dataset, figure: Figure) -> None:
        """Draw attainable alignments beside the predicted ones."""
        axes = figure.subplots()
        dots(axes, {kind: results.sel(kind=kind)["attainable"].values for kind in _LAYERS})
        for place, kind in enumerate(_LAYERS):
            own = float(results.sel(kind=kind)["predicted"].mean())
            axes.hlines(own, place - 0.3, place + 0.3, color="C1", ls="--")
        axes.plot([], [], "--", color="C1", label="predicted")
        axes.set_ylim(0.0, 1.05)
        axes.set_ylabel("largest attainable weight alignment")
        legend_beside(axes)


def _network(setting: Setting, *, seed: int) -> nn.Sequential:
    """Return two convolutions and a readout; the weights play no part in what is measured."""
    first, second, third = setting["channels"]
    size, kernel = 8, setting["kernel"]
    side = size - 2 * (kernel - 1)
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(first, second, kernel),
        nn.Tanh(),
        nn.Conv2d(second, third, kernel),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(third * side * side, 10),
    )
    torch.random.set_rng_state(state)
    return model

"""What the gradient alignment is taken of, and of how many samples, changes it (R22)."""

from __future__ import annotations

from collections.abc import Sequence
from math import factorial
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
import xarray as xr
from torch import nn
from torch.nn import functional

from alignlab.engine.capture import Capture
from alignlab.experiments._base import Case, Check, Claim, Provenance, Setting, Work
from alignlab.experiments._checking import mean_check, rises, share_check, worst_check
from alignlab.experiments._digits import digits
from alignlab.experiments._drawing import legend_beside, level
from alignlab.kernels.cosines import cosine, flat
from alignlab.learner import Learner
from alignlab.models.mlp import MLP
from alignlab.rules import DFA
from alignlab.rules._task import Task
from alignlab.snapshot import MeasuredRule
from alignlab.training import Moment, Recipe, train

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Conventions"]

_SAME = 1e-6
_OF = ("error signal", "weight gradient")


class Conventions(Claim):
    """Alignment of error signals and of weight gradients by batch size, and of fresh feedback."""

    identity: ClassVar[str] = "R22"
    statement: ClassVar[str] = (
        "Gradient alignment of error signals, averaged over samples, and that of weight gradients "
        "are the same for one sample; the second grows with the batch, the first does not depend "
        "on it. Feedback that is drawn again is aligned by chance."
    )
    provenance: ClassVar[Provenance] = "our derivation"
    source: ClassVar[str] = (
        "definition of its code (error signals at the pre-activation); growth with the batch was "
        "measured by us, in a relu network"
    )
    fast: ClassVar[Setting] = {
        "width": 64,
        "hidden": 3,
        "batches": [1, 8, 32, 288],
        "samples": 288,
        "redraws": 20,
        "epochs": 10,
        "rate": 0.003,
        "batch_size": 32,
        "seeds": 6,
    }
    caption: ClassVar[str] = (
        "Bottom layer of a trained network: cosine of weight gradients and mean cosine of error "
        "signals against the samples of the batch, mean over the batches into which the same "
        "{samples} samples are cut; lines are {seeds} seeds, the band is two standard deviations "
        "of {redraws} redraws of the feedback for each. Digits, tanh 64-64-64-64-10, default "
        "weights, DFA with normal feedback, cross-entropy summed, batch 32, rate 0.003, {epochs} "
        "epochs; seeds draw weights, feedback and order."
    )

    def cases(self, setting: Setting) -> Sequence[Case]:
        """Return one case a seed."""
        return [{"seed": seed} for seed in range(setting["seeds"])]

    def measure(self, case: Case, setting: Setting, work: Work) -> xr.Dataset:
        """Return both alignments by batch size, and those of fresh feedback, by layer."""
        data = digits(samples=1500, scaling="global")
        x, y = data.x.double(), data.y
        model, learner = _trained(int(case["seed"]), setting, work)
        held, both, samples = learner.measured(), [], setting["samples"]
        for batch in setting["batches"]:
            chosen = [slice(at, at + batch) for at in range(0, samples, batch)]
            found = np.array([_both(held, model, x[part], y[part]) for part in chosen])
            if batch == 1:
                apart = abs(found[:, 0] - found[:, 1])
            both.append(np.nanmean(found, axis=0))
        redrawn = []
        for number in range(setting["redraws"]):
            other = _drawn_again(
                held, model, x[:2], y[:2], seed=1000 * (1 + int(case["seed"])) + number
            )
            redrawn.append(_both(other, model, x[:100], y[:100])[0])
        return xr.Dataset(
            {
                "cosine": (("batch", "of", "hidden"), np.array(both)),
                "apart": (("single", "hidden"), apart),
                "redrawn": (("draw", "hidden"), np.array(redrawn)),
            },
            coords={
                "batch": setting["batches"],
                "of": list(_OF),
                "hidden": np.arange(1, setting["hidden"] + 1),
            },
        )

    def checks(self, results: xr.Dataset, setting: Setting) -> Sequence[Check]:
        """Hold equality for one sample, growth with the batch, and chance."""
        bottom = results["cosine"].isel(hidden=0)
        signals, weights = (bottom.sel(of=name).transpose("batch", "run").values for name in _OF)
        apart = results["apart"].values
        found = [
            worst_check(
                "difference of both alignments, one sample",
                np.nanmax(apart, axis=-1), most=_SAME, stated="ours: equal",
            ),
            worst_check(
                "bottom layer: range over batches of that of error signals",
                np.ptp(signals, axis=0), most=_SAME,
            ),
        ]  # fmt: skip
        for batch, values in zip(setting["batches"], weights, strict=True):
            what = f"bottom layer: alignment of weight gradients, batches of {batch}"
            found.append(mean_check(what, values, chance="0"))
        what = "bottom layer: that of weight gradients rises with the batch"
        held = np.all(np.diff(weights, axis=0) > 0.0, axis=0).tolist()
        orders = f"1/{factorial(len(weights))}"
        found += [rises(what, weights), share_check(f"{what}, every step", held, chance=orders)]
        above = weights[-1] - signals[-1]
        what = f"bottom layer: weight gradients of {setting['batches'][-1]} above error signals"
        found.append(mean_check(what, above, least=0.0, chance="0"))
        for number, hidden in enumerate(results["hidden"].values):
            values = results["redrawn"].isel(hidden=number).values.ravel()
            spread = float(values.std(ddof=1))
            what = f"alignment of redrawn feedback, hidden layer {hidden}"
            near, chance = (
                (0.0, 3.0 * spread / len(values) ** 0.5),
                f"0; of one draw +-{spread:.3f}",
            )
            found.append(mean_check(what, values, near=near, chance=chance))
        return found

    def draw(self, results: xr.Dataset, figure: Figure) -> None:
        """Draw the bottom layer's alignments against the batch."""
        axes = figure.subplots()
        here = results["cosine"].isel(hidden=0)
        for name, style, color in zip(_OF, ("s--", "o-"), ("C1", "C0"), strict=True):
            lines = here.sel(of=name).transpose("batch", "run")
            axes.semilogx(here["batch"], lines, style, color=color, alpha=0.7)
            axes.plot([], [], style, color=color, label=name)
        bound = 2.0 * float(results["redrawn"].isel(hidden=0).std(ddof=1))
        axes.axhspan(-bound, bound, color="grey", alpha=0.2, lw=0, label="chance")
        level(axes, 0.0, "zero")
        axes.set_xlabel("samples of the batch")
        axes.set_ylabel("cosine, bottom layer")
        legend_beside(axes)


def _loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(output, target, reduction="sum")


def _both(rule: MeasuredRule, model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> np.ndarray:
    """Return the alignments of error signals and of weight gradients, by hidden layer."""
    capture = Capture(model, _loss, x, y)
    try:
        true = capture.reference(parameters=True)
        found = rule.updates(Task(capture, true))
        hidden = [layer.name for layer in capture.layers if not layer.is_output]
    finally:
        capture.close()
    signals = [cosine(flat(true.preactivation[n]), flat(found.preactivation[n])) for n in hidden]
    names = [f"{name}.weight" for name in hidden]
    weights = [cosine(true.parameters[n].flatten(), found.parameters[n].flatten()) for n in names]
    return np.array([[float(each.nanmean()) for each in of] for of in (signals, weights)])


def _drawn_again(
    rule: MeasuredRule, model: nn.Module, x: torch.Tensor, y: torch.Tensor, *, seed: int
) -> MeasuredRule:
    """Return the rule with fresh feedback, to be measured as if a training had held it."""
    capture = Capture(model, _loss, x, y)
    state = rule.rule.start(capture, seed=seed)
    capture.close()
    return MeasuredRule(rule.rule, state, "checkpoint")


def _trained(seed: int, setting: Setting, work: Work) -> tuple[nn.Module, Learner]:
    """Train a network on digits, and return it with what its rule holds."""
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    widths = [setting["width"]] * setting["hidden"]
    model = MLP(in_features=64, widths=widths, activation="tanh", bias=False).double()
    torch.random.set_rng_state(state)
    learners: list[Learner] = []

    def watch(moment: Moment) -> dict[str, float]:
        learners.append(moment.learner)
        return {}

    data = digits(samples=1500, scaling="global")
    recipe = Recipe(
        epochs=setting["epochs"],
        batch_size=setting["batch_size"],
        optimizer_options={"lr": setting["rate"]},
        order_seed=seed,
    )
    rule = DFA(seed=seed, normalisation="fan-out", scale=3.0**0.5)
    train(
        *(model, _loss), x=data.x.double(), y=data.y, rule=rule, recipe=recipe, watch=watch,
        progress=work.progress,
    )  # fmt: skip
    return model.eval(), learners[-1]

"""A perturbed network returns under the rule that found it, and leaves what BP found (R17)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from alignlab.experiments._alignment import gradient_alignment, plain_sgd
from alignlab.experiments._base import Case, Check, Claim, Setting, Work
from alignlab.experiments._checking import mean_check, share_check
from alignlab.experiments._drawing import legend_beside, level
from alignlab.experiments._selection import chosen
from alignlab.experiments.chu2024._interpolation import (
    feedback_rule,
    interpolated,
    kernel_spectrum,
    samples,
    squared_error,
)
from alignlab.experiments.chu2024._mixed_kernel import redrawn
from alignlab.schedules import log_spaced
from alignlab.snapshot import MeasuredRule
from alignlab.training import Moment, train

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Perturbation"]


class Perturbation(Claim):
    """What becomes of small deviations from an interpolating point under feedback."""

    identity = "R17"
    statement = (
        "Small deviations from the point at which the rule arrived vanish under the rule, along "
        "directions that are aligned with the gradient; from a point that backpropagation found "
        "the rule escapes, or stalls beside it."
    )
    provenance = "our derivation"
    source = (
        "Abstract: alignment as a stability criterion for fixed points (read); this test of it "
        "by perturbation is ours"
    )
    fast: ClassVar[Setting] = {
        "sizes": (10, 40, 40, 2),
        "samples": 12,
        "target": 0.7,
        "lr": 0.004,
        "steps": 12_000,
        "stop_loss": 1e-21,
        "perturbation": 1e-3,
        "lr_after": 0.002,
        "steps_after": 3000,
        "redraws": 20,
        "seeds_dfa": 2,
        "seeds_bp": 6,
    }
    full: ClassVar[Setting | None] = {**fast, "seeds_dfa": 16, "seeds_bp": 16}
    caption = (
        "Summed squared error after every weight was moved by N(0, {perturbation}^2), over the "
        "{steps_after} steps of full-batch DFA (lr {lr_after}) that follow, and the cosine of its "
        "whole update (all weights, output layer included) with the gradient; tanh 10-40-40-2 "
        "without biases, float64, {samples} samples, targets +-{target}, feedback N(0, 1/40). "
        "Solid: from where the same DFA had arrived ({seeds_dfa} seeds of weights, data and "
        "feedback, a line each); dotted: from where backpropagation had ({seeds_bp}). Grey: mean "
        "cosine at the same weights under {redraws} draws of feedback that no training met; the "
        "output layer, which is exact, keeps it above zero."
    )

    def cases(self, setting: Setting) -> Sequence[Case]:
        """Return both rules for every seed."""
        rules = ("dfa", "bp")
        return [{"rule": r, "seed": s} for r in rules for s in range(setting[f"seeds_{r}"])]

    def measure(self, case: Case, setting: Setting, work: Work) -> xr.Dataset:
        """Train by the case's rule, perturb, and go on by direct feedback."""
        del work
        seed = int(case["seed"])
        model, measured, _ = interpolated(str(case["rule"]), setting, seed=seed)
        x, y = samples(setting, seed)
        smallest, _ = kernel_spectrum(model, measured, x, y)
        fresh = redrawn(setting, model, x, y, seed=seed)
        _perturb(model, setting["perturbation"], seed)
        found = train(
            *(model, squared_error),
            x=x,
            y=y,
            rule=feedback_rule(setting, seed),
            recipe=plain_sgd(setting["lr_after"], epochs=setting["steps_after"], batch_size=len(x)),
            watch=lambda moment: _seen(moment, x, y, measured, *fresh),
            when=log_spaced(10),
        )
        values = {
            name: ("step", np.array([float(each[name]) for each in found.history]))
            for name in ("loss", "cosine", "fresh")
        }
        steps = {"step": [each["step"] for each in found.history]}
        return xr.Dataset({**values, "smallest": smallest}, steps)

    def checks(self, results: xr.Dataset, setting: Setting) -> Sequence[Check]:
        """Hold losses after the perturbation against the one right after it."""
        own, other = chosen(results, rule="dfa")["loss"], chosen(results, rule="bp")["loss"]
        ratio = (own[:, -1] / own[:, 0]).values
        left = (other[:, -1] / other[:, 0]).values
        rises = (other.max("step") > other[:, 0]).values
        cosine = results["cosine"].mean("step")
        by_dfa, by_bp = (cosine[results["rule"].values == rule].values for rule in ("dfa", "bp"))
        stays = results["loss"][:, -1] < results["loss"][:, 0] / 50
        stays &= ~(results["loss"].max("step") > results["loss"][:, 0])
        agrees = (stays == (results["smallest"] > 0)).values
        after = setting["steps_after"]
        by_chance = {
            rule: f"{float(chosen(results, rule=rule)['fresh'].mean()):.3f}, under redrawn "
            "feedback on the same way"
            for rule in ("dfa", "bp")
        }
        stable = float((results["smallest"] > 0).mean())
        remains = float(stays.mean())
        at_random = stable * remains + (1 - stable) * (1 - remains)
        return [
            share_check(
                f"loss falls by 10^4 or more in {after} steps from where DFA arrived",
                ratio <= 1e-4,
                stated="ours earlier: all",
            ),
            mean_check(
                "least of the means over log-spaced steps of the cosine of update and gradient "
                "there",
                [by_dfa.min()],
                least=0.4,
                stated="ours earlier: .59 to .69",
                chance=by_chance["dfa"],
            ),
            share_check(
                "from where BP arrived the loss ends above 1/50 of its start or rises above it",
                (left >= 1 / 50) | rises,
                stated="ours earlier: 8/8, rises in 6/8",
            ),
            mean_check(
                "mean over log-spaced steps of the cosine there, below that where DFA arrived",
                by_bp,
                most=float(by_dfa.mean()),
                stated="ours earlier: .07 to .23",
                chance=by_chance["bp"],
            ),
            share_check(
                "the sign of the smallest real part of K tells which of the two it is",
                agrees,
                least=7 / 8,
                chance=f"{at_random:.2f}, were the two independent",
            ),
        ]

    def draw(self, results: xr.Dataset, figure: Figure) -> None:
        """Draw loss and cosine over the steps."""
        left, right = figure.subplots(1, 2)
        steps = results["step"].values + 1
        for rule, line, color in (("dfa", "-", "C0"), ("bp", ":", "C3")):
            runs = chosen(results, rule=rule)
            for number in range(runs.sizes["run"]):
                label = f"from where {rule.upper()} arrived" if number == 0 else None
                style = {"ls": line, "color": color, "alpha": 0.8}
                left.loglog(steps, runs["loss"].values[number], **style)
                right.semilogx(steps, runs["cosine"].values[number], label=label, **style)
            unmet = runs["fresh"].mean("run").values
            right.semilogx(steps, unmet, ls=line, color="grey", label=f"{rule.upper()}, redrawn")
        left.set(xlabel="1 + step after the perturbation", ylabel="summed squared error")
        right.set(xlabel="1 + step after the perturbation", ylabel="cosine of update and gradient")
        level(right, 0.0, "at a right angle")
        legend_beside(right)


def _perturb(model: nn.Module, size: float, seed: int) -> None:
    stream = torch.Generator().manual_seed(30_000 + seed)
    with torch.no_grad():
        for weight in model.parameters():
            noise = torch.randn(weight.shape, generator=stream, dtype=weight.dtype)
            weight.add_(size * noise)


def _seen(moment: Moment, x: Tensor, y: Tensor, *rules: MeasuredRule) -> dict[str, float]:
    """Return loss and cosine under the first rule, and the mean cosine under all others."""
    found, *fresh = gradient_alignment(moment.model, squared_error, x, y, *rules)
    with torch.no_grad():
        loss = float(squared_error(moment.model(x), y))
    unmet = float(np.mean([each.gradient for each in fresh]))
    return {"loss": loss, "cosine": found.gradient, "fresh": unmet}

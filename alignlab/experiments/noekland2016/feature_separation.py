"""Classes separate with depth under DFA as under backpropagation (N6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import xarray as xr
from sklearn.manifold import TSNE
from torch import Tensor, nn

from alignlab.experiments._base import Case, Check, Claim, Provenance, Setting, Work
from alignlab.experiments._checking import mean_check, rises
from alignlab.experiments._drawing import curve
from alignlab.experiments._selection import chosen, crossed, over_seeds
from alignlab.experiments.noekland2016._setting import COLOURS, fit, images, network

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FeatureSeparation"]

RULES = ("bp", "dfa", "last")
SHOWN = 360


def separation(features: Tensor, y: Tensor) -> float:
    """Return the scatter between classes over that within them, traces of both.

    Example:
        >>> separation(torch.tensor([[0.0], [2.0], [9.0], [11.0]]), torch.tensor([0, 0, 1, 1]))
        20.25
    """
    rows = features.double()
    means = torch.stack([rows[y == c].mean(0) for c in y.unique()])
    own = means[torch.searchsorted(y.unique(), y)]
    return float((own - rows.mean(0)).square().sum() / (rows - own).square().sum())


@torch.no_grad()
def features_of(model: nn.Module, x: Tensor) -> list[Tensor]:
    """Return the inputs and what each activation of a network returns."""
    found, h = [x], x
    for step in model.children():
        h = step(h)
        if not isinstance(step, nn.Linear):
            found.append(h)
    return found


class FeatureSeparation(Claim):
    """Between- over within-class scatter of test samples in every layer, and their map."""

    identity: ClassVar[str] = "N6"
    statement: ClassVar[str] = (
        "Under DFA the classes separate further from layer to layer, as they do under "
        "backpropagation, to three times the separation of the inputs or more; in a random body "
        "the top layer has at most 1.3 times that of the inputs."
    )
    provenance: ClassVar[Provenance] = "recalled"
    source: ClassVar[str] = (
        "t-SNE figure of inputs and three hidden layers under backpropagation and DFA; ours: the "
        "measure of separation, its bounds and the random body"
    )
    fast: ClassVar[Setting] = {
        "data": "digits",
        "in_features": 64,
        "widths": (100, 100, 100),
        "lr": 1e-3,
        "batch_size": 64,
        "epochs": 60,
        "seeds": 3,
    }
    full: ClassVar[Setting | None] = {
        "data": "mnist",
        "in_features": 784,
        "widths": (400, 400, 400),
        "lr": 1e-4,
        "batch_size": 64,
        "epochs": 300,
        "stop_loss": 0.005,
        "seeds": 3,
    }
    full_data: ClassVar[tuple[str, ...]] = ("mnist",)
    caption: ClassVar[str] = (
        "Top: separation, scatter between classes over scatter within them, on test samples, "
        "input (0) and hidden layers, mean over seeds with 95% interval. Below: t-SNE maps of 360 "
        "test samples in the same layers, first seed, colours are classes. Tanh, binary "
        "cross-entropy, RMSprop; DFA from zero with uniform feedback, the others from torch's "
        "start."
    )

    def cases(self, setting: Setting) -> Sequence[Case]:
        """Return one run a rule and seed."""
        return crossed(rule=RULES, seed=range(setting["seeds"]))

    def measure(self, case: Case, setting: Setting, work: Work) -> xr.Dataset:
        """Train and take the scatter of the test samples; a map of them for the first seed."""
        seen = images(setting["data"], device=work.device)
        model = network(case, setting)
        fit(model, case, setting, work)
        features = features_of(model.cpu().eval(), seen.x_test.cpu())
        y = seen.y_test.cpu()
        maps = np.full((len(features), SHOWN, 2), np.nan, dtype=np.float32)
        if case["seed"] == 0 and case["rule"] != "last":
            for place, each in enumerate(features):
                maps[place] = _mapped(each[:SHOWN].numpy())
        return xr.Dataset(
            {
                "separation": ("layer", [separation(each, y) for each in features]),
                "map": (("layer", "sample", "axis"), maps),
                "label": ("sample", y[:SHOWN].numpy()),
            },
            {"layer": np.arange(len(features))},
        )

    def checks(self, results: xr.Dataset, setting: Setting) -> Sequence[Check]:
        """Hold growth with depth under BP and DFA, and none to speak of in a random body."""
        is_fast = setting["data"] == "digits"
        found = {rule: over_seeds(results, "separation", rule=rule) for rule in RULES}
        over_inputs = {rule: values[:, -1] / values[:, 0] for rule, values in found.items()}
        earlier = {"dfa": "0.72, 1.7, 2.6, 4.2", "bp": "0.72, 1.9, 3.6, 7.6"}
        checks = []
        for rule in ("dfa", "bp"):
            name, stated = rule.upper(), f"ours earlier: {earlier[rule]}" if is_fast else ""
            checks += [
                rises(
                    f"class separation from layer to layer under {name}",
                    found[rule].T,
                    stated=stated,
                    chance="0: as in the layer below",
                ),
                mean_check(
                    f"separation at the top layer over that of the inputs under {name}",
                    over_inputs[rule],
                    least=3.0,
                    stated=stated,
                    chance=f"{over_inputs['last'].mean():.2f} (random body)",
                ),
            ]
        return [
            *checks,
            mean_check(
                "separation at the top layer over that of the inputs in a random body",
                over_inputs["last"],
                most=1.3,
                stated="ours earlier: 0.80 over 0.72" if is_fast else "",
            ),
        ]

    def draw(self, results: xr.Dataset, figure: Figure) -> None:
        """Draw the scatter by layer above the maps."""
        layers = results["layer"].values
        rows: list[Any] = [[f"{rule} {k}" for k in layers] for rule in ("bp", "dfa")]
        panels = figure.subplot_mosaic([["curve"] * len(layers), *rows], height_ratios=(1.3, 1, 1))
        above = panels["curve"]
        for rule in RULES:
            values = over_seeds(results, "separation", rule=rule)
            curve(above, layers, values, label=rule, color=COLOURS[rule], marker=".")
        above.set_xticks(layers)
        above.set_xlabel("layer (0: input)")
        above.set_ylabel("separation\nof classes (1)")
        for rule in ("bp", "dfa"):
            one = chosen(results, rule=rule, seed=0).isel(run=0)
            for k in layers:
                axes = panels[f"{rule} {k}"]
                place = one["map"].sel(layer=k).values
                axes.scatter(place[:, 0], place[:, 1], c=one["label"].values, cmap="tab10", s=3)
                axes.set_xticks([])
                axes.set_yticks([])
                axes.set_title(f"{rule}, layer {k}", fontsize="small")
        figure.legend(loc="outside right upper")


def _mapped(features: np.ndarray) -> np.ndarray:
    """Return a t-SNE map, from the principal components and a fixed seed."""
    found: np.ndarray = TSNE(random_state=0, max_iter=500).fit_transform(features)
    return found

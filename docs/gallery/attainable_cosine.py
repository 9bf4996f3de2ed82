"""Measure what cosines convolutions can attain, and write the page that shows it.

Run from the root of the repository: ``python docs/gallery/attainable_cosine.py``; a minute.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib import pyplot as plt
from torch import nn
from torch.nn import functional

from alignlab import Probe
from alignlab.rules import DFA

DOCS = Path(__file__).parents[1]
SAMPLES = 300
CHANNELS = (4, 8, 16, 32, 64)
SETTINGS = ((3, 16, 4), (3, 16, 10), (5, 16, 10), (3, 64, 10), (5, 64, 10), (9, 64, 10))
"""Taps, positions and classes."""


@dataclass(frozen=True)
class Network:
    """Two convolutions in one dimension and a readout of all their positions."""

    channels: int
    taps: int
    positions: int
    classes: int
    activation: str

    def build(self) -> nn.Sequential:
        """Return it with the usual random weights."""

        def convolution(below: int) -> nn.Module:
            return nn.Conv1d(below, self.channels, self.taps, padding=self.taps // 2)

        between = [nn.ReLU()] if self.activation == "ReLU" else []
        readout = nn.Linear(self.channels * self.positions, self.classes)
        body = [convolution(4), *between, convolution(self.channels), *between]
        return nn.Sequential(*body, nn.Flatten(), readout)


def measured(network: Network, *, seed: int) -> dict[str, float]:
    """Return ceilings of the lower convolution, and the cap of the weights above it."""
    torch.manual_seed(seed)
    model = network.build()
    x = torch.randn(SAMPLES, 4, network.positions)
    y = torch.arange(SAMPLES) % network.classes
    names = ["attainable-cosine", "convolution-cap"]
    rule = DFA(seed=seed)
    with Probe(model, functional.cross_entropy, rules=[rule], diagnostics=names, draws=32) as probe:
        found = probe.measure(x, y).isel(step=0)
    lower, upper = found["layer"].values[:2]
    attainable = found["attainable_cosine"].isel(rule=0).sel(layer=lower, site="entry")
    return {
        "gradient": float(attainable),
        "weight": float(found["convolution_weight_cap"].sel(layer=upper)),
    }


def table() -> pd.DataFrame:
    """Return every network's numbers, the mean over three seeds."""
    rows = []
    for activation, channels, (taps, positions, classes) in product(
        ("none", "ReLU"), CHANNELS, SETTINGS
    ):
        network = Network(channels, taps, positions, classes, activation)
        found = [measured(network, seed=seed) for seed in range(3)]
        ratio = channels * taps / ((classes - 1) * positions)
        mean = {name: float(np.mean([each[name] for each in found])) for name in found[0]}
        shape = {"channels": channels, "taps": taps, "positions": positions, "classes": classes}
        rows.append({"activation": activation, **shape, "ratio": ratio, **mean})
    return pd.DataFrame(rows)


def figure(found: pd.DataFrame) -> plt.Figure:
    """Draw ceilings of gradients and caps of weights against free over wanted numbers."""
    sns.set_theme(style="ticks", font_scale=0.9)
    drawn, axes = plt.subplots(figsize=(6.4, 4.0), layout="constrained")
    line = np.geomspace(0.015, 5.0, 200)
    label = r"$\sqrt{\mathrm{free}/\mathrm{wanted}}$"
    axes.plot(line, np.minimum(1.0, np.sqrt(line)), color="0.3", lw=1.2, label=label)
    shades = dict(zip(sorted(set(zip(found.positions, found.classes, strict=True))),
                      sns.color_palette("viridis", 3), strict=True))  # fmt: skip
    for (positions, classes, activation), rows in found.groupby(
        ["positions", "classes", "activation"]
    ):
        color = shades[positions, classes]
        is_linear = activation == "none"
        axes.plot(
            rows.ratio, rows.gradient, "o" if is_linear else "^", color=color, ms=5,
            mfc=color if is_linear else "none",
            label=f"gradients, {'linear' if is_linear else 'ReLU'}, "
                  f"{positions} positions, {classes} classes",
        )  # fmt: skip
    axes.plot(found.ratio, found.weight, "x", color="0.6", ms=4, label="weights (cap)")
    axes.set(
        xscale="log", ylim=(0.0, 1.05), xlim=(0.015, 5.0), ylabel="largest cosine",
        xlabel="channels × taps / ((classes − 1) × positions)",
    )  # fmt: skip
    axes.legend(fontsize=7, frameon=False, loc="upper left")
    sns.despine(drawn)
    return drawn


PAGE = """# What convolutions can attain

Unrolled, the weights of a convolution are sparse and shared, so that they cannot turn far towards
dense random feedback: the cosine is capped (`convolution_weight_cap`, crosses below). That bounds
the weights alone. For the gradient below, the question is another one: given the true signal above,
is there a kernel through which backpropagation would bring what the feedback brings
(`attainable_cosine`)?

![Largest cosines of gradients and weights](_static/attainable-cosine.svg)

Two convolutions of equal channels in one dimension and a readout of all positions, random weights
and inputs, cross-entropy, dense DFA; the lower convolution at its entry, {samples} samples, mean of
three seeds. For every channel below, a kernel has *channels × taps* free numbers, and feedback
wants *(classes − 1) × positions* of them, for the errors of a softmax sum to zero. In linear
networks the attainable cosine is close to the root of the one over the other, and 1 from there on
(our derivation, by counting dimensions; dots and line, {linear:.2f} apart at most). With ReLU gates
it is lower (triangles): the gates above differ from sample to sample, of which fixed feedback knows
nothing. The cap of the weights, {low:.3f} to {high:.3f}, foretells neither.

Dense feedback is thus out of reach of *gradients* where positions and classes are many and channels
and taps few. Pooling, wider layers, or feedback that is the same at all positions
(`structure=channel`) change that.

| network | channels | taps | positions | classes | free / wanted | gradients | weights |
|---|---|---|---|---|---|---|---|
{rows}

Written by `docs/gallery/attainable_cosine.py`.
"""


def page(found: pd.DataFrame) -> str:
    """Return the page with the numbers in it."""
    linear = found[found.activation == "none"]
    expected = np.minimum(1.0, np.sqrt(linear.ratio))
    rows = [
        f"| {'linear' if row.activation == 'none' else 'ReLU'} | {row.channels} | {row.taps} "
        f"| {row.positions} | {row.classes} | {row.ratio:.3f} | {row.gradient:.3f} "
        f"| {row.weight:.3f} |"
        for row in found.itertuples()
    ]
    return PAGE.format(
        samples=SAMPLES,
        linear=float((linear.gradient - expected).abs().max()),
        low=found.weight.min(),
        high=found.weight.max(),
        rows="\n".join(rows),
    )


def main() -> None:
    """Measure, draw and write."""
    mpl.use("svg")
    found = table()
    (DOCS / "_static").mkdir(exist_ok=True)
    with mpl.rc_context({"svg.hashsalt": "alignlab"}):
        drawn = figure(found)
        drawn.savefig(DOCS / "_static" / "attainable-cosine.svg", metadata={"Date": None})
    (DOCS / "attainable-cosine.md").write_text(page(found), encoding="utf-8")


if __name__ == "__main__":
    main()

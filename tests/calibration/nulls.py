"""Small networks, and the chance bands that recordings of them state."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

from alignlab.probe import Probe
from alignlab.rules._base import Rule
from alignlab.snapshot import MeasuredRule
from tests.cases import Batch

__all__ = ["NETWORKS", "Band", "Network", "bands", "cnn", "mlp", "recorded"]


@dataclass(frozen=True)
class Network:
    """A small network on handwritten digits, trained for some steps or none."""

    build: Callable[[int], nn.Module]
    n_classes: int
    n_samples: int = 96
    steps: int = 0

    def make(self, seed: int) -> Batch:
        """Return the network of a seed, with its loss and a batch of digits."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = self.build(self.n_classes)
            images, labels = load_digits(n_class=self.n_classes, return_X_y=True)
            order = torch.randperm(len(labels))
            x = torch.as_tensor(images, dtype=torch.float32)[order] / 8.0 - 0.6
            y = torch.as_tensor(labels)[order]
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            for step in range(self.steps):
                part = slice(self.n_samples + 32 * step, self.n_samples + 32 * (step + 1))
                optimizer.zero_grad()
                functional.cross_entropy(model(x[part]), y[part]).backward()
                optimizer.step()
        optimizer.zero_grad()
        n = self.n_samples
        return Batch(model, functional.cross_entropy, x[:n], y[:n])


def mlp(*widths: int) -> Callable[[int], nn.Module]:
    def build(n_classes: int) -> nn.Module:
        modules: list[nn.Module] = []
        for below, above in zip((64, *widths), widths, strict=False):
            modules += [nn.Linear(below, above), nn.ReLU()]
        return nn.Sequential(*modules, nn.Linear(widths[-1], n_classes))

    return build


def cnn(*channels: int, pool: bool = False, norm: bool = False) -> Callable[[int], nn.Module]:
    def build(n_classes: int) -> nn.Module:
        modules: list[nn.Module] = [nn.Unflatten(1, (1, 8, 8))]
        for below, above in zip((1, *channels), channels, strict=False):
            modules.append(nn.Conv2d(below, above, 3, padding=1, bias=not norm))
            modules += [nn.BatchNorm2d(above)] if norm else []
            modules += [nn.ReLU(), nn.MaxPool2d(2)] if pool else [nn.ReLU()]
        size = 8 // 2 ** (len(channels) if pool else 0)
        return nn.Sequential(
            *modules, nn.Flatten(), nn.Linear(channels[-1] * size * size, n_classes)
        )

    return build


NETWORKS: dict[str, Network] = {
    "8": Network(mlp(8), 3),
    "8-8": Network(mlp(8, 8), 10, steps=20),
    "16": Network(mlp(16), 10),
    "16-16-16": Network(mlp(16, 16, 16), 10, steps=30),
    "24-12": Network(mlp(24, 12), 5),
    "32-32": Network(mlp(32, 32), 10),
    "32-32, trained": Network(mlp(32, 32), 10, steps=40),
    "64": Network(mlp(64), 10, n_samples=200),
    "64-64-64": Network(mlp(64, 64, 64), 10),
    "64-64-64, trained": Network(mlp(64, 64, 64), 10, steps=40),
    "64-16-64": Network(mlp(64, 16, 64), 10, steps=20),
    "128-64": Network(mlp(128, 64), 10, steps=20),
    "128-128": Network(mlp(128, 128), 2),
    "256": Network(mlp(256), 10),
    "256-128-64": Network(mlp(256, 128, 64), 10, steps=10),
    "256-8-256": Network(mlp(256, 8, 256), 10),
    "conv 4": Network(cnn(4), 10, n_samples=48),
    "conv 4-8": Network(cnn(4, 8), 10, n_samples=48, steps=20),
    "conv 8-8, pooled": Network(cnn(8, 8, pool=True), 10, n_samples=48),
    "conv 8-16, pooled, trained": Network(cnn(8, 16, pool=True), 10, n_samples=48, steps=40),
    "conv 16, pooled": Network(cnn(16, pool=True), 3, n_samples=48, steps=10),
    "conv 2-4": Network(cnn(2, 4), 5, n_samples=48),
    "conv 8-8-8, pooled": Network(cnn(8, 8, 8, pool=True), 10, n_samples=64),
    "conv 8-16, norm": Network(cnn(8, 16, pool=True, norm=True), 10, n_samples=64, steps=20),
    "1": Network(mlp(1), 10),
    "4-4": Network(mlp(4, 4), 10),
    "16-16, two classes": Network(mlp(16, 16), 2),
    "conv 1-1": Network(cnn(1, 1), 10, n_samples=48),
}


@dataclass(frozen=True)
class Band:
    """A central 95% band as recorded.

    Attributes:
        variable: Name of the alignment.
        site: Site, "" for gradients and weights.
        layer: Layer; "" for the whole network.
        low: Lower edge.
        high: Upper edge.
        sd: Standard deviation by chance.
        kind: What was random.
        method: ``closed form`` or ``redraws``.
        concentration: As recorded.
    """

    variable: str
    site: str
    layer: str
    low: float
    high: float
    sd: float
    kind: str
    method: str
    concentration: float

    def holds(self, values: np.ndarray) -> np.ndarray:
        """Return which of some values lie in the band."""
        return np.asarray((values >= self.low) & (values <= self.high))


_STATED = ("low", "high", "sd", "kind", "method", "concentration")


def bands(recording: xr.Dataset) -> Iterator[Band]:
    """Yield the bands of all alignments of one step and one rule that have one."""
    for name, variable in recording.data_vars.items():
        if not variable.attrs.get("alignment"):
            continue
        stated = {key: recording[f"{name}_null_{key}"] for key in _STATED}
        dims = [dim for dim in ("site", "layer") if dim in variable.dims]
        for place in np.ndindex(*(variable.sizes[dim] for dim in dims)):
            at = dict(zip(dims, place, strict=True))
            found = {key: each.isel(at).item() for key, each in stated.items()}
            if np.isfinite(found["low"]):
                named = {dim: str(recording[dim].values[k]) for dim, k in at.items()}
                yield Band(str(name), named.get("site", ""), named.get("layer", ""), **found)


def recorded(
    batch: Batch,
    *rules: Rule | MeasuredRule,
    diagnostics: Sequence[str] = ("error-signal", "weight-gradient"),
    draws: int = 200,
    seed: int = 0,
) -> xr.Dataset:
    """Return the one step of a recording of some rules."""
    with Probe(
        batch.model, batch.loss, rules=rules, diagnostics=diagnostics, draws=draws, seed=seed
    ) as probe:
        return probe.measure(batch.x, batch.y).isel(step=0)

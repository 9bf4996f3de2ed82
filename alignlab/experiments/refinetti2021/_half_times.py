"""Trainings with label noise, watched, and the half-times of the alignment of their layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from alignlab.analyses.half_times import half_times
from alignlab.experiments._base import Check, Setting
from alignlab.experiments._checking import mean_check, share_check
from alignlab.experiments._deep_digits import (
    data_of,
    feedback_rule,
    log_epochs,
    started,
    taught,
    watching,
)
from alignlab.experiments._drawing import curve, level
from alignlab.experiments.refinetti2021._images import image_network, image_training, images
from alignlab.training import Recipe

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["along_epochs", "draw_layers", "noisy_images", "noisy_training", "order_checks"]


def noisy_training(setting: Setting, *, activation: str, noise: float, seed: int) -> xr.Dataset:
    """Train by direct feedback on labels of which a share is drawn anew, and watch alignment.

    Alignment is measured on a fixed part of the training samples with the labels of the
    training, those of noise included.

    Args:
        setting: Sizes, samples, lr, batch, epochs, probed, probes.
        activation: Name.
        noise: Share of the labels.
        seed: Of weights, feedback, order and noise, each in a stream of its own.

    Returns:
        ``gradient`` along epoch and layer, ``weight`` along epoch and upper layer, their totals,
        and ``half_time`` of the first, in epochs.
    """
    model, measured = started(setting, activation=activation, seed=seed, feedback_seed=1000 + seed)
    data = data_of(setting)
    options: dict[str, Any] = {"label_noise": noise, "noise_seed": 50_000 + seed}
    x = data.x[: setting["probed"]]
    y = Recipe(epochs=0, **options).targets(data.y)[: setting["probed"]]
    found = taught(
        *(model, feedback_rule(1000 + seed), setting),
        seed=seed,
        watch=watching(x, y, measured),
        when=log_epochs(setting, setting["probes"]),
        **options,
    )
    return _with_half_times(_dataset(found.history, len(setting["sizes"]) - 1))


def noisy_images(data: str, setting: Setting, *, noise: float, seed: int) -> xr.Dataset:
    """Do the same on images, with the epochs as ``epochs_seen`` along probe.

    Data sets of other sizes have other epochs; what there is none of is NaN.

    Args:
        data: Name of a data set.
        setting: Widths, activation, samples, lr, batch, epochs, probed, probes.
        noise: Share of the labels.
        seed: As above.
    """
    model, measured = image_network(data, setting, seed=seed, feedback_seed=1000 + seed)
    x, y, _, _ = images(data, setting["samples"])
    options: dict[str, Any] = {"label_noise": noise, "noise_seed": 50_000 + seed}
    probed = slice(0, setting["probed"])
    targets = Recipe(epochs=0, **options).targets(y)[probed]
    training = image_training(
        *(model, "dfa", data, setting),
        seed=seed,
        feedback_seed=1000 + seed,
        watch=watching(x[probed], targets, measured),
        when=log_epochs({**setting, "samples": len(x)}, setting["probes"]),
        **options,
    )
    found = _with_half_times(_dataset(training.history, len(setting["widths"]) + 1))
    epochs = found["epoch"].values
    found = found.drop_vars("epoch").rename_dims(epoch="probe")
    found["epochs_seen"] = ("probe", epochs)
    return found.pad(probe=(0, setting["probes"] + 2 - found.sizes["probe"]))


def order_checks(
    where: str, runs: xr.Dataset, *, stated: str = "", stated_order: str = ""
) -> list[Check]:
    """Return the half-times of all hidden layers, and that the first is before the last."""
    times = runs["half_time_gradient"].values
    what = f"{where}: epochs to half of the alignment of hidden layer"
    shown = [
        mean_check(f"{what} {number + 1}", column, stated=stated)
        for number, column in enumerate(times.T)
    ]
    order = share_check(
        f"{where}: the first hidden layer is before the last",
        times[:, 0] < times[:, -1],
        stated=stated_order,
        chance="1/2",
    )
    return [*shown, order]


def draw_layers(axes: Axes, runs: xr.Dataset, epochs: np.ndarray, title: str) -> None:
    """Draw the gradient alignment of all hidden layers over epochs, with their half-times."""
    for number in range(runs.sizes["layer"]):
        color, label = f"C{number}", f"hidden layer {number + 1}"
        curve(axes, epochs, runs["gradient"].values[:, :, number], label, color=color)
        axes.axvline(float(runs["half_time_gradient"][:, number].mean()), ls=":", color=color)
    along_epochs(axes)
    axes.set_title(title)


def along_epochs(axes: Axes) -> None:
    """Make the axis one of epochs, from 0 on and logarithmic above a tenth."""
    axes.set_xscale("symlog", linthresh=0.1)
    axes.set_xlim(left=0)
    axes.set_xlabel("epoch")
    level(axes, 0.0, "chance")


def _dataset(seen: Sequence[Mapping[str, Any]], depth: int) -> xr.Dataset:
    """Return what was watched, along epoch."""
    dims = {
        "gradient": ("epoch", "layer"),
        "gradient_total": ("epoch",),
        "step": ("epoch",),
        "weight": ("epoch", "upper"),
        "weight_total": ("epoch",),
        "undefined": ("epoch",),
    }
    values = {n: (d, np.array([each[n] for each in seen])) for n, d in dims.items()}
    coordinates = {
        "epoch": [each["epoch"] for each in seen],
        "layer": np.arange(1, depth),
        "upper": np.arange(2, depth + 1),
    }
    return xr.Dataset(values, coordinates)


def _with_half_times(found: xr.Dataset) -> xr.Dataset:
    """Return the dataset with the half-times of both alignments, in epochs."""
    steps = found["step"].values
    per_epoch = steps[-1] / float(found["epoch"][-1])
    for name, axis in (("gradient", "layer"), ("weight", "upper")):
        recording = xr.Dataset(
            {"alignment": (("step", "rule", "layer"), found[name].values[:, None])},
            {"step": steps, "layer": [str(each) for each in found[axis].values], "rule": ["dfa"]},
        )
        times = half_times(recording, alignment="alignment")["half_time"].values[0]
        found[f"half_time_{name}"] = (axis, times / per_epoch)
    return found

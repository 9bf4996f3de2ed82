"""Trainings with label noise, watched, and the half-times of the alignment of their layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from alignlab.analyses.half_times import half_times
from alignlab.experiments._base import Setting
from alignlab.experiments._deep_digits import (
    data_of,
    feedback_rule,
    log_epochs,
    started,
    taught,
    watching,
)
from alignlab.experiments.refinetti2021._images import image_network, image_training, images
from alignlab.training import Recipe

__all__ = ["noisy_images", "noisy_training"]


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

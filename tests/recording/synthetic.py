"""A recording that nobody measured: every variable of the schema with plausible numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from scipy.stats import norm

from alignlab.recording import Variable, assemble
from alignlab.recording.schema import COMPANIONS
from tests.recording.variables import VARIABLES

CONV_LAYERS = ("features.0", "features.3", "classifier.0", "classifier.2", "classifier.4")
DENSE_LAYERS = ("fc1", "fc2", "fc3", "fc4", "head")
N_SAMPLES, N_CLASSES, N_FREQUENCIES = 360, 10, 5
PER_SAMPLE = ("cosine_error_signal", "descent_rate")
UNDECIDABLE_SD = 0.25
WHOLE_NUMBERS = (
    *("error_rank", "signal_rank", "alignment_matrix_rank", "narrowest_width_above"),
    "width_that_lifts",
)
USEFUL_COSINE = 0.1**0.5


def make_recording(
    seed: int = 0,
    *,
    layers: tuple[str, ...] | None = None,
    rules: tuple[str, ...] = ("dfa", "fa"),
    drawn: bool = False,
    conv: bool = True,
) -> xr.Dataset:
    """Return a recording as ``analyze checkpoint`` writes it, with invented numbers.

    The last layer is the output layer, where every alignment is exact. The last hidden layer but
    one is dead: its signals are zero and everything about them is undefined. With ``conv`` the
    first two layers are convolutions.

    Args:
        seed: Of the numbers.
        layers: At least two names; the last is the output layer.
        rules: Labels of the rules.
        drawn: Whether the feedback was drawn, so that no alignment was observed.
        conv: Whether the first two layers are convolutions.
    """
    names = layers or (CONV_LAYERS if conv else DENSE_LAYERS)
    invention = _Invention(
        random=np.random.default_rng(seed),
        layers=names,
        rules=rules,
        is_conv=np.arange(len(names)) < (min(2, len(names) - 1) if conv else 0),
        dead=len(names) - 3 if len(names) > 3 else None,
        drawn=drawn,
    )
    values: dict[str, tuple[tuple[str, ...], Any]] = {}
    for variable in VARIABLES:
        values |= invention.values(variable)
    _order_bands(values)
    return assemble(values, VARIABLES, coords=invention.coords(), attrs=_attrs(seed, drawn))


def make_small_recording(seed: int = 0) -> xr.Dataset:
    """Return the few variables that tests of files need: written in a tenth of the time."""
    ds = make_recording(seed)
    kept = ("cosine_weight_gradient", "loss", "spatial_power_true", "feedback_origin")
    return ds[[name for name in ds.data_vars if _belongs(str(name), kept)]]


def _belongs(name: str, kept: tuple[str, ...]) -> bool:
    return name in kept or name.removeprefix(f"{kept[0]}_") in COMPANIONS


def _order_bands(values: dict[str, tuple[tuple[str, ...], Any]]) -> None:
    """Let every value lie between its _low and its _high."""
    for name in [name for name in values if f"{name}_low" in values]:
        keys = (f"{name}_low", name, f"{name}_high")
        if name == "width_bound" and np.isnan(values[keys[0]][1]).all():
            continue
        rows = np.sort(np.stack([values[key][1] for key in keys]), axis=0)
        for key, row in zip(keys, rows, strict=True):
            values[key] = (values[key][0], row)


@dataclass(frozen=True)
class _Invention:
    random: np.random.Generator
    layers: tuple[str, ...]
    rules: tuple[str, ...]
    is_conv: np.ndarray
    dead: int | None
    drawn: bool

    def coords(self) -> dict[str, Any]:
        n = len(self.layers)
        output = self._is_output()
        width = np.where(self.is_conv, 512, np.where(output, N_CLASSES, 64))
        fan_in = np.where(self.is_conv, 27, 64)
        channels = np.where(self.is_conv, 8, width)
        return {
            "step": [0],
            "rule": list(self.rules),
            "layer": list(self.layers),
            "site": ["entry", "preactivation"],
            "singular_value": np.arange(1, N_CLASSES),
            "frequency": np.linspace(0.0, 0.5, N_FREQUENCIES),
            "layer_kind": ["Conv2d" if conv else "Linear" for conv in self.is_conv],
            "depth": np.arange(1, n + 1),
            "width": width,
            "entry_width": np.where(self.is_conv, 128, width),
            "channels": channels,
            "positions": np.where(self.is_conv, 64, 1),
            "fan_in": fan_in,
            "n_parameters": channels * (fan_in + 1),
            "is_output": output,
            "consumer": [*self.layers[1:], ""],
        }

    def values(self, variable: Variable) -> dict[str, tuple[tuple[str, ...], Any]]:
        if variable.dtype == "string":
            return {variable.name: (variable.dims, self._words(variable))}
        if variable.alignment:
            return self._alignment(variable)
        array = self._numbers(variable)
        array[self._inapplicable(variable) | self._dead(variable)] = np.nan
        return {variable.name: (variable.dims, array)}

    def _shape(self, variable: Variable) -> tuple[int, ...]:
        sizes = {"rule": len(self.rules), "layer": len(self.layers), "site": 2}
        sizes |= {"singular_value": N_CLASSES - 1, "frequency": N_FREQUENCIES}
        return tuple(sizes[dim] for dim in variable.dims)

    def _along_layers(self, variable: Variable, choice: np.ndarray) -> np.ndarray:
        """Spread a choice of layers over all dimensions of the variable."""
        shape = [len(self.layers) if dim == "layer" else 1 for dim in variable.dims]
        return np.broadcast_to(choice.reshape(shape), self._shape(variable))

    def _dead(self, variable: Variable) -> np.ndarray:
        """Where a variable is undefined because the layer's signals are zero."""
        if self.dead is None or "layer" not in variable.dims or "feedback" in variable.name:
            return np.zeros(self._shape(variable), dtype=bool)
        return self._along_layers(variable, np.arange(len(self.layers)) == self.dead)

    def _inapplicable(self, variable: Variable) -> np.ndarray:
        """Where a variable has no meaning: no convolution, the output layer, drawn feedback."""
        absent = np.zeros(self._shape(variable), dtype=bool)
        if "layer" not in variable.dims:
            return absent
        only_conv = ("convolution", "attainable", "coherence", "spatial")
        if variable.name.startswith(only_conv) or variable.name.endswith("unshared"):
            absent |= self._along_layers(variable, ~self.is_conv)
        hidden_only = ("alignment_matrix", "width_", "narrowest", "cosine_feedback_path")
        if variable.name.startswith(hidden_only):
            absent |= self._along_layers(variable, self._is_output())
        needs_trained = ("angle_", "norm_ratio_weight_feedback", "attainable_share")
        observed = variable.name.startswith(needs_trained)
        banded = variable.name.startswith("width_bound_")
        return absent | (self.drawn and observed) | (not self.drawn and banded)

    def _is_output(self) -> np.ndarray:
        return np.arange(len(self.layers)) == len(self.layers) - 1

    def _numbers(self, variable: Variable) -> np.ndarray:
        """Draw numbers within the valid range; spectra fall, bands enclose their value."""
        shape = self._shape(variable)
        low, high = variable.valid
        spread = self.random.beta(2.0, 5.0, shape)
        if variable.name in WHOLE_NUMBERS:
            return np.asarray(np.floor(1.0 + 12.0 * spread))
        if variable.units == "degree":
            return np.asarray(95.0 - 60.0 * spread)
        if variable.name.startswith(("alignment_matrix_singular_value", "spatial_power")):
            falling = -np.sort(-self.random.random(shape), axis=-1)
            if variable.name.startswith("spatial_power"):
                return np.asarray(falling / falling.sum(axis=-1, keepdims=True))
            return np.asarray(falling / falling[..., :1])
        if high is not None:
            return np.asarray(spread * high)
        return np.asarray((low or 0.0) + 10.0 * spread)

    def _words(self, variable: Variable) -> np.ndarray:
        words = np.full(self._shape(variable), "", dtype=object)
        if variable.name == "feedback_origin":
            words[:] = "drawn" if self.drawn else "checkpoint"
        elif variable.name == "narrowest_layer_above":
            words[:-1] = self.layers[min(len(self.layers) - 1, 2)]
        else:
            words[...] = {"reference_check": "agrees", "measurement_status": "valid"}[variable.name]
        return words

    def _alignment(self, variable: Variable) -> dict[str, tuple[tuple[str, ...], Any]]:
        """Draw an alignment with its chance level; its words follow from its numbers."""
        shape = self._shape(variable)
        inapplicable = self._inapplicable(variable)
        undefined = self._dead(variable) & ~inapplicable
        absent = inapplicable | undefined
        of_weights = variable.name == "cosine_weight_feedback"
        exact = self._along_layers(variable, self._is_output()) & ~absent & (not of_weights)
        sd = np.where(self._along_layers(variable, self.is_conv), 0.3, 0.05)
        sd = sd * self.random.uniform(0.8, 1.2, shape)
        value = variable.null_mean + (1 - variable.null_mean) * self.random.beta(2.0, 4.0, shape)
        value = np.where(exact, 1.0, value)
        z = (value - variable.null_mean) / sd
        status = np.select(
            [undefined, absent, exact, np.full(shape, self.drawn), sd > UNDECIDABLE_SD],
            ["undefined", "", "exact", "null draw", "undecidable"],
            np.select([z < 3, value < USEFUL_COSINE], ["at chance", "detectable"], "useful"),
        ).astype(object)
        unobserved = absent | (status == "null draw")
        per_sample = variable.name in PER_SAMPLE
        kind = "output_rotation" if of_weights else "feedback_draw"
        companions = {
            "": np.where(unobserved, np.nan, value),
            "_null_sd": np.where(absent | exact, np.nan, sd),
            "_null_low": np.where(absent | exact, np.nan, variable.null_mean - 1.96 * sd),
            "_null_high": np.where(absent | exact, np.nan, variable.null_mean + 1.96 * sd),
            "_null_kind": np.where(absent, "", np.where(exact, "none", kind)).astype(object),
            "_null_method": np.where(
                absent | exact, "", np.where(sd > UNDECIDABLE_SD, "redraws", "closed form")
            ).astype(object),
            "_null_concentration": np.where(absent | exact, np.nan, sd),
            "_z": np.where(unobserved | exact, np.nan, z),
            "_z_attainable": np.where(absent | exact, np.nan, 1 / sd),
            "_p": np.where(unobserved | exact, np.nan, norm.sf(z)),
            "_status": status,
            "_n_undefined": np.where(
                *(undefined, N_SAMPLES if per_sample else 1, np.where(absent, np.nan, 0.0))
            ),
        }
        return {
            f"{variable.name}{suffix}": (variable.dims, array)
            for suffix, array in companions.items()
        }


def _attrs(seed: int, drawn: bool) -> dict[str, Any]:
    return {
        "alignlab_version": "0.1.0",
        "torch_version": "2.13.0",
        "numpy_version": np.__version__,
        "python_version": "3.11.7",
        "device": "cpu",
        "dtype": "float32",
        "model": "Sequential",
        "model_spec": "alignlab:cnn",
        "parameter_hash": "9f" * 32,
        "checkpoint": "cnn-dfa.pt",
        "checkpoint_sha256": "0a" * 32,
        "data": f"digits[test n={N_SAMPLES}]",
        "data_hash": "5c" * 32,
        "loss": "cross-entropy",
        "reduction": "mean",
        "mode": "eval",
        "n_samples": N_SAMPLES,
        "n_classes": N_CLASSES,
        "seed": seed,
        "draws": 200,
        "command": "alignlab analyze checkpoint cnn-dfa.pt --model alignlab:cnn --data digits",
        "created": "2026-01-02T03:04:05+00:00",
        "feedback_note": "drawn with seed 0" if drawn else "found in the checkpoint",
        "useful_step_efficiency": 0.1,
        "recording_kind": "checkpoint",
    }

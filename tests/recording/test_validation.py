from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import xarray as xr

from alignlab.errors import RecordingError
from alignlab.recording import Variable, validate
from tests.recording.synthetic import make_recording

Break = Callable[[xr.Dataset], xr.Dataset]


def at_first_layer(name: str, value: object) -> Break:
    """Return a function that overwrites the first rule's first layer in one variable."""

    def change(ds: xr.Dataset) -> xr.Dataset:
        changed = ds[name].copy(deep=True)
        changed.values[0, 0, 0] = value
        return ds.assign({name: changed})

    return change


def with_attr(name: str, **attrs: object) -> Break:
    def change(ds: xr.Dataset) -> xr.Dataset:
        changed = ds[name].copy()
        changed.attrs = {k: v for k, v in (changed.attrs | attrs).items() if v is not None}
        return ds.assign({name: changed})

    return change


BROKEN: dict[str, tuple[Break, str]] = {
    "a cosine above one": (
        at_first_layer("cosine_weight_gradient", 1.001),
        "1.001 at step=0, rule=dfa, layer=features.0; valid_max is 1",
    ),
    "a negative standard deviation": (
        at_first_layer("cosine_weight_gradient_null_sd", -0.1),
        "valid_min is 0",
    ),
    "a lost companion": (
        lambda ds: ds.drop_vars("cosine_weight_gradient_p"),
        "lacks cosine_weight_gradient_p",
    ),
    "a companion of other dimensions": (
        lambda ds: ds.assign(cosine_weight_gradient_p=ds["cosine_weight_gradient_p"].mean("rule")),
        "other dimensions",
    ),
    "an invented status": (
        at_first_layer("cosine_weight_gradient_status", "significant"),
        "'significant', not one of 'undecidable'",
    ),
    "an invented kind of chance": (
        at_first_layer("cosine_weight_gradient_null_kind", "naive"),
        "'naive'",
    ),
    "an invented method": (
        at_first_layer("cosine_weight_gradient_null_method", "guess"),
        "'guess'",
    ),
    "an observation of what was drawn": (
        at_first_layer("cosine_weight_gradient_status", "null draw"),
        "has a value .* 'null draw'",
    ),
    "a verdict without a value": (
        lambda ds: at_first_layer("cosine_error_signal_flat_status", "detectable")(
            at_first_layer("cosine_error_signal_flat", np.nan)(ds)
        ),
        "has no value .* 'detectable'",
    ),
    "a verdict without a p": (
        lambda ds: at_first_layer("cosine_weight_gradient_p", np.nan)(
            at_first_layer("cosine_weight_gradient_status", "useful")(ds)
        ),
        "no p",
    ),
    "an upside-down band": (
        at_first_layer("cosine_weight_gradient_null_low", 5.0),
        "upside down",
    ),
    "an origin from nowhere": (
        lambda ds: ds.assign(feedback_origin=ds["feedback_origin"].copy(data=["guess", "drawn"])),
        "'guess'",
    ),
    "a site of its own": (
        lambda ds: ds.assign_coords(site=["entry", "exit"]),
        "'exit'",
    ),
    "an unknown dimension": (lambda ds: ds.rename(singular_value="sv"), "'sv' is no dimension"),
    "two layers of one name": (
        lambda ds: ds.assign_coords(layer=["fc"] * ds.sizes["layer"]),
        "not unique",
    ),
    "unlabelled layers": (lambda ds: ds.drop_vars("layer"), "'layer' has no labels"),
    "layers without depth": (lambda ds: ds.drop_vars("depth"), "layers lack depth"),
    "depth in words": (
        lambda ds: ds.assign_coords(depth=("layer", ["x"] * ds.sizes["layer"])),
        "'depth' holds",
    ),
    "no step": (
        lambda ds: ds.isel(step=0, drop=True),
        "no dimension 'step'",
    ),
    "step behind": (
        lambda ds: ds.assign(width_bound=ds["width_bound"].transpose("rule", "step", "layer")),
        "it leads",
    ),
    "no units": (with_attr("width_bound", units=None), "lacks the attributes units"),
    "an odd direction": (with_attr("width_bound", better="more"), "better='more'"),
    "a structure as attribute": (with_attr("width_bound", options={"a": 1}), "json"),
    "no seed": (
        lambda ds: ds.drop_attrs(deep=False).assign_attrs(without(ds, "seed")),
        "lacks the attributes seed",
    ),
    "an unknown kind": (lambda ds: ds.assign_attrs(recording_kind="dream"), "'dream'"),
    "a date in words": (lambda ds: ds.assign_attrs(created="yesterday"), "'yesterday'"),
    "no samples": (lambda ds: ds.assign_attrs(n_samples=0), "n_samples is 0"),
    "too many undefined": (
        at_first_layer("cosine_weight_gradient_n_undefined", 361.0),
        "more than the 360 samples",
    ),
    "too many samples": (
        lambda ds: ds.assign_coords(sample=np.arange(361)),
        "361 samples",
    ),
    "an older-looking nothing": (
        lambda ds: ds.assign_attrs(alignlab_schema="one"),
        "no recording of alignlab",
    ),
}


def without(ds: xr.Dataset, name: str) -> dict[str, object]:
    return {str(key): value for key, value in ds.attrs.items() if key != name}


@pytest.mark.parametrize("drawn", [False, True])
@pytest.mark.parametrize("conv", [False, True])
@pytest.mark.parametrize("layers", [None, ("a/b", "c@2"), ("", "features.0:x", "é")])
def test_invented_recordings_are_valid(
    drawn: bool, conv: bool, layers: tuple[str, ...] | None
) -> None:
    validate(make_recording(5, layers=layers, drawn=drawn, conv=conv))


@pytest.mark.parametrize("name", BROKEN)
def test_what_breaks_the_schema_is_named(name: str) -> None:
    change, phrase = BROKEN[name]
    with pytest.raises(RecordingError, match=phrase) as refusal:
        validate(change(make_recording()))
    assert "\n" not in str(refusal.value)


def test_rounding_is_no_violation() -> None:
    validate(at_first_layer("cosine_weight_gradient", 1.0 + 5e-7)(make_recording()))


def test_only_the_first_few_violations_are_listed() -> None:
    ds = make_recording()
    for name in list(ds.data_vars)[:40]:
        ds = with_attr(str(name), units=None)(ds)
    with pytest.raises(RecordingError, match="; and more") as refusal:
        validate(ds)
    assert len(str(refusal.value)) < 1000


def test_a_new_alignment_needs_no_word_about_it_here() -> None:
    ds = make_recording()
    attrs = Variable("cosine_new", ("rule", "layer"), "New", alignment=True).attrs
    lonely = xr.DataArray(np.zeros((1, 2, 5)), dims=("step", "rule", "layer"), attrs=attrs)
    with pytest.raises(RecordingError, match="'cosine_new' lacks cosine_new_null_sd"):
        validate(ds.assign(cosine_new=lonely))


def test_a_recording_of_weights_needs_no_data() -> None:
    ds = make_recording()
    of_data = {"data", "data_hash", "loss", "reduction", "mode", "n_samples", "draws"}
    ds.attrs = {key: value for key, value in ds.attrs.items() if key not in of_data}
    ds.attrs["recording_kind"] = "weights"
    validate(ds.drop_vars("is_output"))
    ds.attrs["recording_kind"] = "checkpoint"
    with pytest.raises(RecordingError, match=r"mode, n_samples, draws, data, data_hash.*is_output"):
        validate(ds.drop_vars("is_output"))


def test_recordings_are_read_without_torch() -> None:
    code = (
        "import sys; from alignlab.recording import load, save, validate, assemble;"
        "import alignlab.report;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from alignlab.recording import Variable, assemble, load, load_tensors, save
from tests.recording.synthetic import make_recording, make_small_recording

FORMATS = (".nc", ".zarr")
AWKWARD_NAMES = ("a/b", "c.d", "e@2", "f:g", "", "..", "zarr.json", "__h", "é 漢", "100%", "A", "a")

text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
numbers = st.floats(allow_nan=True, allow_infinity=True, width=64)
int64 = st.integers(-(2**63), 2**63 - 1)
rows = st.one_of(
    hnp.arrays(np.float64, st.integers(2, 5), elements=numbers),
    hnp.arrays(np.int64, st.integers(2, 5), elements=int64),
)
attributes = st.one_of(text, int64, numbers, rows)
keys = st.text("abcdefghijklmnop_é", min_size=1, max_size=6).map("own_{}".format)


@st.composite
def recordings(draw: st.DrawFn) -> xr.Dataset:
    """Draw a valid recording of any words and numbers that the schema allows."""
    layers = draw(st.lists(text, min_size=1, max_size=4, unique=True))
    rules = draw(st.lists(text, min_size=1, max_size=3, unique=True))
    shape = (1, len(rules), len(layers))
    of_layers = ("step", "rule", "layer")
    words = Variable("own_words", ("rule", "layer"), "Words", "", dtype="string")
    drawn_numbers = Variable("own_numbers", ("rule", "layer"), "Numbers")
    counts = Variable("own_counts", (), "Counts", "count", dtype="int")
    kinds = draw(st.lists(text, min_size=len(layers), max_size=len(layers)))
    base = make_small_recording()
    ds = assemble(
        {
            "own_words": (of_layers, draw(hnp.arrays(object, shape, elements=text))),
            "own_numbers": (of_layers, draw(hnp.arrays(np.float64, shape, elements=numbers))),
            "own_counts": ((), draw(int64)),
        },
        [words, drawn_numbers, counts],
        coords={
            "rule": rules,
            "layer": layers,
            "layer_kind": kinds,
            "depth": draw(hnp.arrays(np.int64, len(layers), elements=int64)),
            "is_output": draw(hnp.arrays(np.bool_, len(layers))),
        },
        attrs=base.attrs | draw(st.dictionaries(keys, attributes, max_size=4)),
    )
    for name in ("own_numbers", "depth", "layer"):
        ds[name].attrs |= draw(st.dictionaries(keys, attributes, max_size=2))
    return ds


def assert_same(loaded: xr.Dataset, ds: xr.Dataset) -> None:
    """Assert equality to the bit, of kinds too, which ``identical`` does not see."""
    assert loaded.identical(ds)
    assert list(loaded.data_vars) == list(ds.data_vars)
    assert list(loaded.coords) == list(ds.coords)
    for name, variable in ds.variables.items():
        other = loaded.variables[name]
        assert other.dtype == variable.dtype
        assert other.dims == variable.dims
        if variable.dtype == object:
            assert all(type(word) is str for word in other.values.flat)
            assert other.values.tolist() == variable.values.tolist()
        else:
            assert np.array_equal(other.values, variable.values, equal_nan=True)
            assert other.values.tobytes() == variable.values.tobytes()
    owners = [(ds, loaded), *((ds[name], loaded[name]) for name in ds.variables)]
    for written, read in owners:
        for key, value in written.attrs.items():
            assert type(read.attrs[key]) is type(value), key
            if isinstance(value, np.ndarray):
                assert read.attrs[key].dtype == value.dtype


@pytest.mark.parametrize("suffix", FORMATS)
@settings(max_examples=15, deadline=None)
@given(ds=recordings())
def test_any_recording_comes_back_to_the_bit(suffix: str, ds: xr.Dataset) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = save(ds, Path(folder) / f"run{suffix}")
        assert_same(load(path), ds)
        assert [each.name for each in Path(folder).iterdir()] == [f"run{suffix}"]


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_full_recording_comes_back_to_the_bit(tmp_path: Path, suffix: str) -> None:
    ds = make_recording(2, layers=AWKWARD_NAMES)
    assert_same(load(save(ds, tmp_path / f"run{suffix}")), ds)


@pytest.mark.parametrize("suffix", FORMATS)
def test_what_was_loaded_is_saved_the_same(tmp_path: Path, suffix: str) -> None:
    ds = make_small_recording()
    loaded = load(save(ds, tmp_path / f"run{suffix}"))
    assert_same(load(save(loaded, tmp_path / f"again{suffix}")), ds)


@pytest.mark.parametrize("suffix", FORMATS)
def test_the_sign_of_zero_and_every_kind_of_number_survive(tmp_path: Path, suffix: str) -> None:
    ds = make_small_recording()
    kinds = [*(np.float32, np.int8, np.int16, np.int32, np.uint8, np.uint16, np.uint32), np.uint64]
    attrs = ds["loss"].attrs
    for kind in kinds:
        array = np.array([np.iinfo(kind).max if np.issubdtype(kind, np.integer) else -0.0], kind)
        ds[f"own_{np.dtype(kind).name}"] = (("step",), array, attrs | {"valid_min": -1.0})
    ds["own_zeros"] = (("step", "rule"), -np.zeros((1, 2)), attrs)
    assert_same(load(save(ds, tmp_path / f"run{suffix}")), ds)


@pytest.mark.parametrize("suffix", FORMATS)
def test_fixed_width_and_string_typed_words_come_back_as_objects(
    tmp_path: Path, suffix: str
) -> None:
    ds = make_small_recording()
    fixed = ds.assign_coords(layer=ds["layer"].values.astype("<U20"))
    fixed["layer"].attrs = ds["layer"].attrs
    assert fixed["layer"].dtype.kind == "U"
    loaded = load(save(fixed, tmp_path / f"run{suffix}"))
    assert loaded["layer"].dtype == object
    assert loaded.identical(ds)


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_row_of_one_number_is_that_number(tmp_path: Path, suffix: str) -> None:
    ds = make_small_recording().assign_attrs(betas=np.array([0.9]), steps=[1])
    loaded = load(save(ds, tmp_path / f"run{suffix}"))
    assert loaded.attrs["betas"] == 0.9
    assert loaded.attrs["steps"] == 1


@pytest.mark.parametrize("suffix", FORMATS)
def test_an_empty_dimension_survives_with_its_kinds(tmp_path: Path, suffix: str) -> None:
    ds = make_small_recording().isel(frequency=slice(0, 0), rule=slice(0, 0))
    assert_same(load(save(ds, tmp_path / f"run{suffix}")), ds)


@pytest.mark.parametrize("suffix", FORMATS)
def test_the_file_is_closed_and_the_recording_in_memory(tmp_path: Path, suffix: str) -> None:
    path = save(make_small_recording(), tmp_path / f"run{suffix}")
    ds = load(path)
    save(make_small_recording(1), path, overwrite=True)
    assert ds.identical(make_small_recording())
    assert ds.nbytes > 0
    assert not ds.encoding


@pytest.mark.parametrize("suffix", FORMATS)
def test_other_programs_read_the_same_numbers(tmp_path: Path, suffix: str) -> None:
    ds = make_small_recording()
    path = save(ds, tmp_path / f"run{suffix}")
    options = {"consolidated": False} if suffix == ".zarr" else {"engine": "h5netcdf"}
    with xr.open_dataset(path, **options) as opened:
        xr.testing.assert_equal(opened.load(), ds)


def test_a_netcdf_file_states_its_format(tmp_path: Path) -> None:
    path = save(make_small_recording(), tmp_path / "run.nc")
    with h5py.File(path) as file:
        assert "_NCProperties" in file.attrs


def make_tensors() -> dict[str, xr.Dataset]:
    random = np.random.default_rng(0)
    return {
        name: xr.Dataset(
            {
                "true_signal": (
                    ("sample", "unit"),
                    random.normal(size=(4, size + 1)).astype(np.float32),
                ),
                "signal": (
                    ("rule", "sample", "unit"),
                    random.normal(size=(2, 4, size + 1)).astype(np.float32),
                ),
            },
            coords={"rule": np.array(["dfa(distribution=uniform)", "fa"], dtype=object)},
            attrs={"note": "raw"},
        )
        for size, name in enumerate(AWKWARD_NAMES)
    }


@pytest.mark.parametrize("suffix", FORMATS)
def test_raw_tensors_come_back_under_the_names_of_their_layers(tmp_path: Path, suffix: str) -> None:
    tensors = make_tensors()
    path = save(make_small_recording(), tmp_path / f"run{suffix}", tensors=tensors)
    loaded = load_tensors(path)
    assert set(loaded) == set(tensors)
    for name, tensor in tensors.items():
        assert_same(loaded[name], tensor)
    assert_same(load(path), make_small_recording())


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_recording_without_tensors_has_none(tmp_path: Path, suffix: str) -> None:
    assert load_tensors(save(make_small_recording(), tmp_path / f"run{suffix}")) == {}


@pytest.mark.parametrize("suffix", FORMATS)
def test_files_that_we_make_have_names_that_every_system_takes(tmp_path: Path, suffix: str) -> None:
    path = save(make_small_recording(), tmp_path / f"run{suffix}", tensors=make_tensors())
    names = [each.name for each in path.rglob("*")]
    assert not [name for name in names if set(name) & set('<>:"/\\|?*@')]


@pytest.mark.parametrize("suffix", FORMATS)
def test_nothing_warns(tmp_path: Path, suffix: str) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        path = save(make_small_recording(), tmp_path / f"run{suffix}", tensors=make_tensors())
        load(path)
        load_tensors(path)
    assert [str(each.message) for each in caught] == []

from __future__ import annotations

import importlib
import pkgutil

import numpy as np
import pytest
import xarray as xr

from alignlab.errors import RecordingError
from alignlab.recording import SCHEMA_VERSION, Variable, assemble, companions, migrate
from alignlab.recording.schema import COMPANIONS, DIMS
from tests.recording.synthetic import make_recording
from tests.recording.variables import VARIABLES

COSINE = Variable(
    *("cosine_toy", ("rule", "layer"), "Toy cosine", "1", "nobody 2026, eq. 1"),
    better="higher",
    valid=(-1.0, 1.0),
    alignment=True,
)
COORDS = {"rule": ("dfa", "fa"), "layer": ["fc1", "fc2", "head"]}


def small(
    values: dict[str, tuple[tuple[str, ...], object]], *variables: Variable, **coords: object
) -> xr.Dataset:
    return assemble(values, variables or (COSINE,), coords=COORDS | coords, attrs={"seed": 3})


def test_an_alignment_has_every_companion_along_its_own_dimensions() -> None:
    made = companions(COSINE)
    assert [each.name for each in made] == [f"cosine_toy_{suffix}" for suffix in COMPANIONS]
    assert {each.dims for each in made} == {COSINE.dims}
    assert all("Toy cosine" in each.long_name for each in made)
    assert not any(each.alignment for each in made)


def test_a_plain_variable_has_no_companions() -> None:
    assert companions(Variable("width_bound", ("rule", "layer"), "Width bound")) == ()


def test_a_value_without_step_gets_the_only_step_in_front() -> None:
    ds = small({"cosine_toy": (("rule", "layer"), np.zeros((2, 3)))})
    assert ds["cosine_toy"].dims == ("step", "rule", "layer")
    assert ds["step"].values.tolist() == [0]


def test_two_steps_want_their_values_named() -> None:
    values = {"cosine_toy": (("rule", "layer"), np.zeros((2, 3)))}
    with pytest.raises(RecordingError, match=r"declared over \('step', 'rule', 'layer'\)"):
        small(values, step=[0, 10])
    ds = small({"cosine_toy": (("step", "rule", "layer"), np.zeros((2, 2, 3)))}, step=[0, 10])
    assert ds["step"].values.tolist() == [0, 10]


def test_every_variable_says_what_it_is() -> None:
    ds = small({"cosine_toy": (("rule", "layer"), np.zeros((2, 3)))})
    assert ds["cosine_toy"].attrs == {
        "long_name": "Toy cosine",
        "units": "1",
        "source": "nobody 2026, eq. 1",
        "better": "higher",
        "valid_min": -1.0,
        "valid_max": 1.0,
        "alignment": 1,
        "null_mean": 0.0,
    }
    assert ds["layer"].attrs["long_name"]
    assert ds.attrs == {"alignlab_schema": SCHEMA_VERSION, "seed": 3}


def test_text_becomes_objects_and_numbers_become_float64() -> None:
    words = Variable("measurement_status", (), "Whether it stands", "", dtype="string")
    ds = small({"measurement_status": ((), "valid")}, words, layer_kind=["Linear", "", "Linear"])
    assert ds["measurement_status"].dtype == object
    assert ds["measurement_status"].item() == "valid"
    assert ds["layer_kind"].dtype == object
    assert ds["layer"].dtype == object
    narrow = Variable("width_used", ("layer",), "Units in use")
    ds = small({"width_used": (("layer",), np.ones(3, np.float32))}, narrow)
    assert ds["width_used"].dtype == np.float64


def test_a_variable_may_have_no_step() -> None:
    origin = Variable("feedback_origin", ("rule",), "Origin", "", dtype="string", per_step=False)
    ds = small({"feedback_origin": (("rule",), ["drawn", "checkpoint"])}, origin)
    assert ds["feedback_origin"].dims == ("rule",)


def test_two_labels_in_a_tuple_are_labels() -> None:
    ds = small({"cosine_toy": (("rule", "layer"), np.zeros((2, 3)))})
    assert ds["rule"].values.tolist() == ["dfa", "fa"]


def test_dimensions_without_labels_are_counted() -> None:
    spectrum = Variable("spectrum", ("singular_value", "draw"), "Spectrum")
    ds = small({"spectrum": (("singular_value", "draw"), np.ones((2, 3)))}, spectrum)
    assert ds["singular_value"].values.tolist() == [1, 2]
    assert ds["draw"].values.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("values", "phrase"),
    [
        ({"cosine_toy": (("rule", "layer"), np.zeros((2, 4)))}, "4 along 'layer'"),
        ({"cosine_toy": (("layer", "rule"), np.zeros((3, 2)))}, "declared over"),
        ({"cosine_toy": (("rule", "layer"), np.zeros(2))}, r"shape \(1, 2\)"),
        ({"cosine_toy": (("rule", "layer"), np.zeros((2, 3), complex))}, "float is declared"),
        ({"cosine_toy": (("rule", "layer"), np.full((2, 3), "x"))}, "float is declared"),
        ({"cosine_toy_status": (("rule", "layer"), np.zeros((2, 3)))}, "not text"),
        ({"cosine_tpo": (("rule", "layer"), np.zeros((2, 3)))}, "No variable is declared"),
    ],
)
def test_values_that_do_not_fit_their_declaration_are_refused(
    values: dict[str, tuple[tuple[str, ...], object]], phrase: str
) -> None:
    with pytest.raises(RecordingError, match=phrase):
        small(values)


def test_one_name_with_two_meanings_is_refused() -> None:
    other = Variable("cosine_toy", ("layer",), "Something else")
    with pytest.raises(RecordingError, match="declared twice"):
        small({}, COSINE, other)
    small({}, COSINE, COSINE)


def test_attributes_that_files_cannot_hold_are_refused_with_the_way_out() -> None:
    with pytest.raises(RecordingError, match=r"NoneType.*json\.dumps"):
        assemble({}, (), coords={}, attrs={"n_classes": None})
    with pytest.raises(RecordingError, match=r"json\.dumps"):
        assemble({}, (), coords={}, attrs={"options": {"a": 1}})
    with pytest.raises(RecordingError, match="boolean"):
        assemble({}, (), coords={}, attrs={"augmented": True})


def test_todays_recording_is_not_migrated() -> None:
    ds = make_recording()
    assert migrate(ds) is ds


def test_a_newer_schema_is_refused_by_name() -> None:
    ds = make_recording().assign_attrs(alignlab_schema=SCHEMA_VERSION + 1, alignlab_version="9.9")
    with pytest.raises(RecordingError, match=rf"schema {SCHEMA_VERSION + 1}.*9\.9.*pip install"):
        migrate(ds)


@pytest.mark.parametrize("version", ["1", 0, 1.0, True])
def test_a_schema_that_is_no_version_is_refused(version: object) -> None:
    with pytest.raises(RecordingError, match="no recording of alignlab"):
        migrate(make_recording().assign_attrs(alignlab_schema=version))


def test_the_invented_recording_holds_every_declared_variable() -> None:
    ds = make_recording()
    for variable in VARIABLES:
        for each in (variable, *companions(variable)):
            assert ds[each.name].dims == each.stored_dims
    assert set(ds.dims) <= set(DIMS)


def test_the_invented_recording_agrees_with_what_the_diagnostics_declare() -> None:
    from alignlab import diagnostics

    invented = {variable.name: variable for variable in VARIABLES}
    declared = [
        variable
        for module in pkgutil.iter_modules(diagnostics.__path__, f"{diagnostics.__name__}.")
        for held in vars(importlib.import_module(module.name)).values()
        for variable in declarations(held)
        if variable.name in invented
    ]
    assert len(declared) > len(invented) / 2
    for variable in declared:
        ours = invented[variable.name]
        assert (variable.dims, variable.dtype) == (ours.dims, ours.dtype), variable.name
        assert (variable.alignment, variable.better) == (ours.alignment, ours.better), variable.name


def declarations(held: object) -> list[Variable]:
    """Return the variables that a name of a module stands for: itself, or its own tuple of them."""
    if isinstance(held, Variable):
        return [held]
    listed = getattr(held, "variables", None)
    return (
        [each for each in listed if isinstance(each, Variable)] if isinstance(listed, tuple) else []
    )

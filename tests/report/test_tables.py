from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from alignlab.errors import InputError
from alignlab.recording import Variable, load, save
from alignlab.report import alignment_frame, export, layer_frame, tables
from alignlab.report.latex import escape
from tests.recording.synthetic import make_recording
from tests.recording.variables import VARIABLES

NAMES = [
    *("alignment.csv", "layers.csv", "rules.csv", "measurement.csv", "spectra.csv"),
    *("provenance.json", "alignment.tex"),
]
AWKWARD = ("block_1/conv", "50%{a}", "c@2", "head~^\\")


def test_every_table_is_written(tmp_path: Path) -> None:
    paths = export(make_recording(), tmp_path / "deep" / "tables")
    assert [path.name for path in paths] == NAMES
    assert sorted(each.name for each in (tmp_path / "deep" / "tables").iterdir()) == sorted(NAMES)


def test_tables_of_a_file_are_those_of_the_recording(tmp_path: Path) -> None:
    ds = make_recording()
    first = export(ds, tmp_path / "a")
    second = export(load(save(ds, tmp_path / "run.zarr")), tmp_path / "b")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_alignment_rows_hold_the_numbers_of_the_recording_exactly(tmp_path: Path) -> None:
    ds = make_recording(3)
    export(ds, tmp_path)
    frame = pd.read_csv(tmp_path / "alignment.csv", keep_default_na=False, dtype=str)
    assert list(frame.columns) == [
        *("step", "rule", "layer", "layer_kind", "site", "variable", "value"),
        *("null_sd", "null_low", "null_high", "null_kind", "null_method", "null_concentration"),
        *("z", "z_attainable", "p", "status", "n_undefined"),
    ]
    for _, row in frame.iterrows():
        place = {"step": 0, "rule": row["rule"], "layer": row["layer"]}
        place |= {"site": row["site"]} if row["site"] else {}
        for column, suffix in (("value", ""), ("null_sd", "_null_sd"), ("p", "_p")):
            expected = float(ds[row["variable"] + suffix].sel(place))
            assert row[column] == ("" if np.isnan(expected) else repr(expected))
        assert row["status"] == ds[row["variable"] + "_status"].sel(place).item()
        assert row["layer_kind"] == ds["layer_kind"].sel(layer=row["layer"]).item()


def test_alignment_has_one_row_for_each_place_that_was_measured() -> None:
    ds = make_recording()
    frame = alignment_frame(ds)
    expected = sum(
        int((ds[f"{variable.name}_status"] != "").sum())
        for variable in VARIABLES
        if variable.alignment
    )
    assert len(frame) == expected
    unshared = frame[frame["variable"] == "cosine_weight_gradient_unshared"]
    assert set(unshared["layer"]) == {"features.0", "features.3"}


def test_a_dead_layer_stays_in_the_table_without_a_number() -> None:
    frame = alignment_frame(make_recording())
    dead = frame[(frame["layer"] == "classifier.0") & (frame["variable"] == "cosine_error_signal")]
    assert set(dead["status"]) == {"undefined"}
    assert dead["value"].isna().all()
    assert (dead["n_undefined"] == 360).all()


def test_drawn_feedback_shows_its_null_and_no_observation() -> None:
    frame = alignment_frame(make_recording(drawn=True))
    drawn = frame[frame["status"] == "null draw"]
    assert len(drawn)
    assert drawn["value"].isna().all()
    assert drawn["null_sd"].notna().all()


def test_an_alignment_of_another_diagnostic_appears_by_itself() -> None:
    ds = make_recording()
    new = {
        str(name).replace("cosine_bias_gradient", "cosine_new"): variable
        for name, variable in ds.data_vars.items()
        if str(name).startswith("cosine_bias_gradient")
    }
    assert "cosine_new" in set(alignment_frame(ds.assign(new))["variable"])


def test_layers_have_one_row_for_each_rule_and_a_column_for_each_site() -> None:
    ds = make_recording()
    frame = layer_frame(ds)
    assert len(frame) == ds.sizes["rule"] * ds.sizes["layer"]
    row = frame[(frame["rule"] == "fa") & (frame["layer"] == "classifier.2")].iloc[0]
    place = {"step": 0, "rule": "fa", "layer": "classifier.2"}
    expected = ds["norm_ratio_error_signal"].sel(place | {"site": "entry"}).item()
    assert row["norm_ratio_error_signal_entry"] == expected
    assert row["reference_norm"] == ds["reference_norm"].sel(step=0, layer="classifier.2").item()
    assert row["width"] == 64
    assert not row["is_output"]


def test_each_variable_is_in_exactly_one_table() -> None:
    ds = make_recording()
    wide = [tables.layer_frame(ds), tables.rule_frame(ds), tables.measurement_frame(ds)]
    long = [alignment_frame(ds), tables.spectrum_frame(ds)]
    for variable in VARIABLES:
        names = {variable.name, *(f"{variable.name}_{site}" for site in ds["site"].values)}
        held = [bool(names & set(frame.columns)) for frame in wide]
        held += [variable.name in set(frame["variable"]) for frame in long]
        assert sum(held) == 1, variable.name


def test_spectra_are_long_and_counted_from_one() -> None:
    frame = tables.spectrum_frame(make_recording())
    values = frame[frame["variable"] == "alignment_matrix_singular_value"]
    assert values["position"].min() == 1
    assert set(values["axis"]) == {"singular_value"}
    assert frame["value"].notna().all()


def test_provenance_is_json_that_any_reader_takes(tmp_path: Path) -> None:
    ds = make_recording().assign_attrs(floor=float("nan"), betas=np.array([0.9, np.inf]))
    export(ds, tmp_path)

    def refuse(word: str) -> object:
        pytest.fail(f"{word} is no JSON")

    text = (tmp_path / "provenance.json").read_text(encoding="utf-8")
    provenance = json.loads(text, parse_constant=refuse)
    assert provenance["recording"]["betas"] == [0.9, None]
    assert provenance["recording"]["command"] == ds.attrs["command"]
    assert provenance["variables"]["loss"]["long_name"] == "Loss"


def test_latex_escapes_what_latex_would_read() -> None:
    assert escape("a_b & 5% {#} $x$") == r"a\_b \& 5\% \{\#\} \$x\$"
    assert escape("\\~^\n") == r"\textbackslash{}\textasciitilde{}\textasciicircum{} "


def test_the_printed_table_has_a_row_for_each_rule_and_layer(tmp_path: Path) -> None:
    ds = make_recording(layers=AWKWARD)
    export(ds, tmp_path)
    lines = (tmp_path / "alignment.tex").read_text(encoding="utf-8").splitlines()
    body = lines[lines.index(r"\midrule") + 1 : lines.index(r"\bottomrule")]
    assert len(body) == ds.sizes["rule"] * ds.sizes["layer"]
    ampersands = {line.count(" & ") for line in [*body, lines[3]]}
    assert ampersands == {5}
    assert body[0].startswith(r"dfa & block\_1/conv & $")
    assert r"head\textasciitilde{}\textasciicircum{}\textbackslash{} & $1.000$" in "\n".join(body)
    assert "feedback draw (dfa, fa)" in "\n".join(lines)


def test_undecided_and_undefined_cells_are_marked(tmp_path: Path) -> None:
    export(make_recording(), tmp_path)
    body = (tmp_path / "alignment.tex").read_text(encoding="utf-8")
    assert r"dfa & classifier.0 & --$^{\circ}$" in body
    export(make_recording(drawn=True), tmp_path, overwrite=True)
    assert r"$^{\ast}$ &" in (tmp_path / "alignment.tex").read_text(encoding="utf-8")


def test_two_steps_keep_their_step() -> None:
    first = make_recording(0)
    second = make_recording(1).assign_coords(step=[100])
    ds = first.merge(second, join="outer", combine_attrs="override", compat="no_conflicts")
    for name in ds.data_vars:
        if ds[name].dtype == object:
            ds[name] = ds[name].fillna("")
    frame = alignment_frame(ds)
    assert set(frame["step"]) == {0, 100}
    assert tables.alignment_table(frame).count("\n100 & dfa") == 5


def test_a_recording_without_rules_has_its_tables(tmp_path: Path) -> None:
    ds = make_recording()
    bare = ds.drop_dims(["rule", "site", "singular_value", "frequency"])
    export(bare, tmp_path)
    assert len(pd.read_csv(tmp_path / "layers.csv")) == ds.sizes["layer"]
    assert (tmp_path / "alignment.csv").read_text(encoding="utf-8").startswith("step,rule,layer")


def test_existing_tables_are_kept_unless_told(tmp_path: Path) -> None:
    (tmp_path / "rules.csv").write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match=r"rules\.csv.*--force"):
        export(make_recording(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["rules.csv"]
    export(make_recording(), tmp_path, overwrite=True)
    assert (tmp_path / "rules.csv").read_text(encoding="utf-8") != "mine"


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("", encoding="utf-8")
    with pytest.raises(InputError, match="Cannot write tables"):
        export(make_recording(), tmp_path / "out")


def test_words_of_variables_survive_in_csv(tmp_path: Path) -> None:
    origin = Variable("feedback_origin", ("rule",), "Origin", "", dtype="string", per_step=False)
    export(make_recording(), tmp_path)
    frame = pd.read_csv(tmp_path / "rules.csv")
    assert set(frame[origin.name]) == {"checkpoint"}

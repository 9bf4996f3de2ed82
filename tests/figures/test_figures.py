from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from matplotlib.figure import Figure as Drawing

from alignlab import figures
from alignlab.errors import InputError, MissingError
from alignlab.figures import Figure
from tests.recording.synthetic import make_recording

R20 = (
    "conv1",
    *(f"layer{stage}.{block}.conv{k}" for stage in (1, 2, 3) for block in range(3) for k in (1, 2)),
    "a.very.long.name.of.a.projection.shortcut",
    "linear",
)
RULES = ("dfa", "fa", "usf", "dfa(distribution='uniform', scale=0.1)", "brsf")
VARIANTS = {
    "convolutions": make_recording(),
    "drawn": make_recording(drawn=True),
    "dense": make_recording(conv=False),
    "one hidden layer": make_recording(layers=("fc", "head"), conv=False, rules=("dfa",)),
    "deep, many rules": make_recording(layers=R20, rules=RULES),
    "markup in names": make_recording(layers=("<b>&", r"$\frac", "_x", "a$b$", "head")),
}
VARIANTS["several steps"] = xr.concat(
    [make_recording(seed=step).assign_coords(step=[step]) for step in (0, 1, 10, 100)],
    dim="step",
    data_vars="minimal",
    coords="minimal",
    compat="override",
)
EVERY = figures.names()


def drawn_text(drawing: Drawing) -> str:
    return figures.as_svg(drawing)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_figure_draws_what_it_can_and_says_why_not(name: str, variant: str) -> None:
    ds, figure = VARIANTS[variant], figures.load(name)
    reason = figure.unmet(ds)
    if reason is not None:
        with pytest.raises(MissingError, match=name):
            figure.draw(ds)
        return
    svg = drawn_text(figure.draw(ds))
    assert svg.count("<text") > 3
    assert not figure.table(ds).empty


def test_what_stays_undrawn_is_only_what_cannot_be_known() -> None:
    undrawn = {
        variant: {name for name in EVERY if figures.load(name).unmet(ds)}
        for variant, ds in VARIANTS.items()
    }
    convolutional = {"convolution-panel", "spatial-spectrum"}
    steps = {"cosine-along-steps"}
    assert undrawn == {
        "convolutions": steps,
        "drawn": steps | {"loss-change"},
        "dense": steps | convolutional,
        "one hidden layer": steps | convolutional,
        "deep, many rules": steps,
        "markup in names": steps,
        "several steps": set(),
    }


@pytest.mark.parametrize("name", EVERY)
def test_a_figure_is_named_after_its_file_and_says_how_to_read_it(name: str) -> None:
    figure = figures.load(name)
    assert isinstance(figure, Figure)
    assert figure.name == name
    assert figure.title
    assert figure.caption.endswith(".")


def points(drawing: Drawing) -> np.ndarray:
    """Return the horizontal positions of all markers."""
    found = [
        np.asarray(collection.get_offsets())[:, 0]
        for axis in drawing.axes
        for collection in axis.collections
        if len(collection.get_offsets())
    ]
    return np.concatenate([np.empty(0), *found])


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("cosine-by-layer", ["cosine_error_signal"]),
        ("weight-gradient-cosine", ["cosine_weight_gradient", "cosine_weight_gradient_debiased"]),
        ("width-and-reach", ["width_bound", "reach_cosine_in_sample"]),
        ("bottleneck-atlas", ["width_bound", "cosine_error_signal_flat", "width_that_lifts"]),
        ("convolution-panel", ["cosine_error_signal_flat", "attainable_cosine", "coherence"]),
        ("effective-rank", ["participation_ratio_signal"]),
        ("loss-change", ["loss_change_first_order", "loss_change_actual"]),
    ],
)
def test_the_markers_are_the_numbers_of_the_table(name: str, columns: list[str]) -> None:
    figure, ds = figures.load(name), VARIANTS["convolutions"]
    marked, table = points(figure.draw(ds)), figure.table(ds)
    expected = table[columns].to_numpy(float).ravel()
    for value in expected[~np.isnan(expected)]:
        assert np.isclose(marked, value, rtol=1e-12).any()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("alignment-matrix-spectrum", "alignment_matrix_singular_value"),
        ("spatial-spectrum", "spatial_power"),
        ("spatial-spectrum", "spatial_power_true"),
    ],
)
def test_the_lines_are_the_numbers_of_the_table(name: str, value: str) -> None:
    figure, ds = figures.load(name), VARIANTS["convolutions"]
    lines = [line for axis in figure.draw(ds).axes for line in axis.lines]
    drawn = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in lines])
    assert set(figure.table(ds)[value].dropna()) <= set(drawn)


def test_cosines_along_steps_are_those_of_every_step_and_hidden_layer() -> None:
    figure, ds = figures.load("cosine-along-steps"), VARIANTS["several steps"]
    table = figure.table(ds)
    assert sorted(table["step"].unique()) == [0, 1, 10, 100]
    hidden = [str(layer) for layer in ds["layer"].values[~ds["is_output"].values]]
    known = ds["cosine_error_signal"].sel(site="entry").notnull().any(["step", "rule"])
    alive = [layer for layer in hidden if known.sel(layer=layer)]
    assert list(table["layer"].unique()) == alive
    for _, row in table.iterrows():
        place = {name: row[name] for name in ("step", "layer", "rule")}
        assert row["cosine_error_signal"] == ds["cosine_error_signal"].sel(**place, site="entry")
    drawn = [line.get_ydata() for axis in figure.draw(ds).axes for line in axis.lines]
    values = np.concatenate([np.asarray(line, dtype=float) for line in drawn])
    assert set(table["cosine_error_signal"]) <= set(values)


def test_the_table_holds_the_numbers_of_the_recording() -> None:
    ds = VARIANTS["convolutions"]
    for _, row in figures.load("cosine-by-layer").table(ds).iterrows():
        place = {dim: row[dim] for dim in ("rule", "layer", "site")}
        recorded = ds["cosine_error_signal"].isel(step=0).sel(place).item()
        np.testing.assert_equal(row["cosine_error_signal"], recorded)


def test_exported_csv_equals_what_is_plotted(tmp_path: Path) -> None:
    ds = VARIANTS["several steps"]
    for name, paths in figures.export(ds, tmp_path):
        assert not isinstance(paths, str)
        assert [path.name for path in paths] == [f"{name}.svg", f"{name}.csv"]
        table = figures.load(name).table(ds)
        stored = pd.read_csv(paths[-1], keep_default_na=False, na_values=[""])
        assert list(stored) == list(table)
        for column in table:
            numeric = pd.api.types.is_numeric_dtype(table[column])
            if numeric:
                np.testing.assert_allclose(stored[column], table[column], rtol=1e-15)


def test_export_lists_the_others_with_the_reason(tmp_path: Path) -> None:
    written = dict(figures.export(VARIANTS["dense"], tmp_path, formats=("svg",)))
    assert written["convolution-panel"] == "it has no values; only hidden convolutions have them"
    assert len(written["cosine-by-layer"]) == 2
    assert list(written) == EVERY
    assert not list(tmp_path.glob("convolution-panel*"))
    assert not list(tmp_path.glob(".*"))


def test_a_missing_variable_is_named() -> None:
    ds = VARIANTS["dense"].drop_vars("width_bound_low").drop_vars("reach_in_sample")
    assert figures.load("width-and-reach").unmet(ds) == "the recording has no reach_in_sample"
    with pytest.raises(MissingError, match="reach_in_sample"):
        figures.load("width-and-reach").draw(ds)


def test_nothing_is_overwritten_unasked_and_nothing_else_is_written(tmp_path: Path) -> None:
    (tmp_path / "loss-change.csv").write_text("mine")
    ds = VARIANTS["dense"]
    ds = ds[[name for name in ds if str(name).startswith("loss_change")]]
    with pytest.raises(InputError, match=r"loss-change\.csv exists"):
        figures.export(ds, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["loss-change.csv"]
    figures.export(ds, tmp_path, overwrite=True)
    assert (tmp_path / "loss-change.csv").read_text() != "mine"


def test_a_rule_keeps_its_colour_where_others_have_no_number() -> None:
    ds = make_recording(rules=("dfa", "fa", "usf"))
    only_last = ds.assign(width_bound=ds["width_bound"].where(ds["rule"] == "usf"))
    colours = [
        {
            text.get_text(): handle.get_color()
            for legend in figures.load("width-and-reach").draw(each).legends
            for text, handle in zip(legend.get_texts(), legend.legend_handles, strict=True)
            if "usf" in text.get_text()
        }
        for each in (ds, only_last)
    ]
    assert colours[0] == colours[1] != {}


def test_true_signals_are_drawn_where_no_rule_has_one() -> None:
    ds = make_recording(drawn=True)
    for name in ("participation_ratio_signal", "spatial_power"):
        ds[name] = ds[name] * np.nan
    for name in ("effective-rank", "spatial-spectrum"):
        labels = figures.load(name).draw(ds).legends[0].get_texts()
        assert not {"dfa", "fa"} & {text.get_text() for text in labels}


def test_a_band_wider_than_any_cosine_is_cut_off_and_no_marker_is() -> None:
    ds = make_recording(conv=False)
    name = "cosine_weight_gradient_debiased"
    ds[f"{name}_null_low"].loc[{"layer": "fc1"}] = -40.0
    ds[name].loc[{"layer": "fc2"}] = -1.7
    low, high = figures.load("weight-gradient-cosine").draw(ds).axes[0].get_xlim()
    assert -2 < low < -1.7
    assert 1 < high < 2


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'gif' is no format"):
        figures.export(VARIANTS["dense"], tmp_path, formats=("gif",))


def test_the_same_recording_gives_the_same_bytes(tmp_path: Path) -> None:
    keep = ["cosine_error_signal", "feedback_origin", "layer_kind", "is_output", "depth"]
    ds = VARIANTS["dense"]
    keep += [name for name in ds if str(name).startswith("cosine_error_signal_")]
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        figures.export(ds[keep], folder, formats=("svg", "pdf", "png"))
    first, second = ({p.name: p.read_bytes() for p in f.iterdir()} for f in folders)
    assert len(first) == 4
    assert first == second


def test_names_are_text_and_no_markup_or_mathematics() -> None:
    svg = drawn_text(figures.load("cosine-by-layer").draw(VARIANTS["markup in names"]))
    assert "&lt;b&gt;&amp;" in svg
    assert r"$\frac" in svg
    assert "<b>" not in svg


def test_alignments_of_drawn_feedback_are_in_no_table_even_if_a_file_holds_them() -> None:
    ds = make_recording(drawn=True)
    hidden = ~ds["is_output"]
    for name in ("cosine_error_signal", "cosine_weight_gradient", "cosine_error_signal_flat"):
        ds[name] = ds[name].where(~hidden, 0.777777).assign_attrs(ds[name].attrs)
    for name in EVERY:
        if figures.load(name).unmet(ds) is None:
            assert "0.777777" not in figures.load(name).table(ds).to_csv()


def test_the_output_layer_is_set_apart_from_the_hidden_ones() -> None:
    axis = figures.load("cosine-by-layer").draw(VARIANTS["dense"]).axes[0]
    ticks = np.asarray(axis.get_yticks())
    assert np.diff(ticks)[-1] > np.diff(ticks)[0]
    assert np.allclose(np.diff(ticks)[:-1], 1)


@pytest.mark.parametrize("variant", ["one hidden layer", "deep, many rules"])
def test_labels_lie_inside_the_drawing(variant: str) -> None:
    ds = VARIANTS[variant]
    for name in EVERY:
        figure = figures.load(name)
        if figure.unmet(ds) is not None:
            continue
        drawing = figure.draw(ds)
        drawing.savefig(io.BytesIO(), format="png", dpi=100)
        box = drawing.bbox.padded(2)
        for axis in drawing.axes:
            for label in (*axis.get_yticklabels(), axis.xaxis.label, axis.title):
                extent = label.get_window_extent()
                assert extent.width == 0 or (extent.x0 >= box.x0 and extent.x1 <= box.x1), name
                assert extent.width == 0 or (extent.y0 >= box.y0 and extent.y1 <= box.y1), name


def test_drawing_needs_neither_torch_nor_a_display() -> None:
    code = (
        "import sys\n"
        "from tests.recording.synthetic import make_recording\n"
        "from alignlab import figures\n"
        "figures.load('cosine-by-layer').draw(make_recording())\n"
        "import matplotlib.pyplot as plt\n"
        "assert 'torch' not in sys.modules\n"
        "assert plt.get_fignums() == []\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_recording_without_layers_draws_nothing() -> None:
    assert all(figures.load(name).unmet(xr.Dataset()) for name in EVERY)

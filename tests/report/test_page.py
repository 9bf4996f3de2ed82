from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
import xarray as xr

from alignlab.diagnosis import CLOSING, answer
from alignlab.errors import InputError
from alignlab.probe import Probe
from alignlab.report.page import render, render_index, save
from alignlab.rules import DFA
from tests.diagnosis.variants import believable, put

NASTY = "<script>alert(1)</script>"
VOID = {"meta", "link", "br", "hr", "img", "input"}


class Page(HTMLParser):
    """Collects what a browser would see, and insists that every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        found = dict(attrs)
        self.ids += [found["id"]] if found.get("id") else []
        self.addresses += [found[a] or "" for a in ("href", "src", "xlink:href") if a in found]
        assert not any(name.startswith("on") for name in found)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


@pytest.fixture(scope="module")
def source() -> str:
    return render(believable())


@pytest.fixture(scope="module")
def plain(source: str) -> Page:
    return Page(source)


def test_the_page_holds_every_sentence_of_the_answer(plain: Page) -> None:
    for sentence in answer(believable()).paragraph:
        assert sentence in plain.text


def test_the_page_needs_no_network_and_runs_nothing(plain: Page, source: str) -> None:
    assert all(address.startswith("#") for address in plain.addresses)
    assert not plain.tags & {"script", "iframe", "object", "embed", "link", "img"}
    assert "@import" not in source
    assert "default-src 'none'" in source


def test_identifiers_are_unique_and_links_point_at_them(plain: Page) -> None:
    assert len(plain.ids) == len(set(plain.ids))
    assert {address[1:] for address in plain.addresses} <= set(plain.ids)


def test_every_figure_has_its_caption(plain: Page) -> None:
    assert "Cosine of the error signals by layer." in plain.text
    assert "Not drawn" not in plain.text
    assert {"svg", "figcaption"} <= plain.tags


def test_figures_that_cannot_be_drawn_are_listed_with_the_reason() -> None:
    text = Page(render(believable(conv=False))).text
    assert "convolution-panel (it has no values; only hidden convolutions have them)" in text


def test_each_row_shows_the_numbers_of_the_recording(plain: Page) -> None:
    ds = believable().isel(step=0)
    where = {"rule": "fa", "layer": "classifier.2", "site": "entry"}
    for name, places in {"cosine_error_signal": 3, "cosine_error_signal_null_sd": 3}.items():
        assert f"{ds[name].sel(where).item():.{places}f}" in plain.text
    assert f"{ds['angle_error_signal'].sel(where).item():.1f}°" in plain.text


def test_the_output_layer_is_greyed(source: str) -> None:
    rows = re.findall(r'<tr class="output">.*?</tr>', source, flags=re.DOTALL)
    assert len(rows) >= 4
    assert all("classifier.4" in row for row in rows)


def test_statuses_definitions_provenance_and_command_are_there(plain: Page) -> None:
    ds = believable()
    for status in ("useful", "detectable", "at chance", "undecidable", "null draw", "exact"):
        assert status in plain.text
    assert ds["coherence"].attrs["long_name"] in plain.text
    for name, value in ds.attrs.items():
        assert name in plain.text
        assert str(value) in plain.text
    assert ds.attrs["command"] in plain.text


def test_companions_have_no_definitions_of_their_own(plain: Page) -> None:
    assert "cosine_error_signal_null_concentration" not in plain.text


def test_a_drawn_feedback_shows_no_observed_cosine_anywhere() -> None:
    ds = believable(drawn=True)
    hidden = ~ds["is_output"]
    for name in [str(name) for name in ds.data_vars if ds[name].attrs.get("alignment") == 1]:
        ds[name] = ds[name].where(~hidden, 0.777777).assign_attrs(ds[name].attrs)
        status = ds[f"{name}_status"]
        ds[f"{name}_status"] = status.where(status == "exact", "null draw")
    page = Page(render(ds))
    assert "0.777" not in page.text
    assert "0.78" not in page.text
    assert page.text.count("null draw") > 10
    assert CLOSING in page.text


def test_an_invalid_measurement_shows_no_table_and_no_figure() -> None:
    page = Page(render(put(believable(), "measurement_status", "reference invalid: floor")))
    assert "The measurement is not valid" in page.text
    assert "svg" not in page.tags
    assert "Error signals" not in page.text


def test_warnings_come_before_the_answer() -> None:
    page = render(put(believable(), "accuracy", 0.1))
    assert page.index("are inputs scaled as in training?") < page.index("On these 360 samples")


def test_malicious_names_are_escaped_everywhere() -> None:
    ds = believable(layers=(NASTY, "features.3", "c", "d", f"head{NASTY}"), rules=("dfa", NASTY))
    ds = ds.assign_attrs(ds.attrs | dict.fromkeys(("checkpoint", "command", "data"), NASTY))
    ds["coherence"].attrs["long_name"] = NASTY
    for page in (render(ds), render_index({'x" onclick="y': ds}, title=NASTY)):
        assert "script" not in Page(page).tags
        assert "<script" not in page
        assert "&lt;script&gt;" in page


def test_the_index_links_each_report_with_its_line() -> None:
    first, second = believable(), put(believable(drawn=True), "accuracy", 0.1)
    page = Page(render_index({"a.html": first, "b.html": second}, title="Demo"))
    assert page.addresses == ["a.html", "b.html"]
    assert answer(first).headline in page.text
    assert answer(second).warnings[0] in page.text


def test_the_same_recording_gives_the_same_page(source: str) -> None:
    assert render(believable()) == source


def test_a_page_is_written_whole_and_not_over_another(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    assert save(believable(conv=False), path) == path
    assert path.read_text(encoding="utf-8").rstrip().endswith("</html>")
    with pytest.raises(InputError, match="exists"):
        save(believable(conv=False), path)
    path.write_text("old")
    save(put(believable(conv=False), "measurement_status", "invalid"), path, overwrite=True)
    assert "The measurement is not valid" in path.read_text(encoding="utf-8")
    assert [each.name for each in tmp_path.iterdir()] == ["report.html"]


def test_weights_without_data_make_a_page_too() -> None:
    ds = believable(conv=False)
    keep = [n for n in ds if str(n).startswith(("cosine_weight_feedback", "feedback_o", "align"))]
    weights = ds[keep].assign_attrs(ds.attrs | {"recording_kind": "weights"})
    page = Page(render(weights.drop_vars("site", errors="ignore")))
    assert "the match of weights and feedback" in page.text
    assert "Spectra of the alignment matrices." in page.text


def test_an_empty_recording_makes_an_empty_page() -> None:
    assert "Provenance" in Page(render(xr.Dataset())).text


def test_reports_never_import_torch() -> None:
    code = (
        "import sys\n"
        "from tests.recording.synthetic import make_recording\n"
        "from alignlab.report import render\n"
        "render(make_recording(conv=False))\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_page_of_several_steps_says_which_one_it_shows(source: str) -> None:
    assert "the last of" not in source
    model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3))
    loss = torch.nn.functional.cross_entropy
    probe = Probe(model, loss, rules=[DFA(seed=0)])
    for step in (0, 7):
        with probe.observe(step):
            loss(model(torch.randn(8, 4)), torch.arange(8) % 3).backward()
    assert "step 7, the last of 2" in render(probe.recording())

"""Names come from files and entry points, without importing either."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from alignlab.errors import InputError, MissingError
from alignlab.plugins import declared, load, names, summary

GARDEN = "garden_of_tests.plants"


@pytest.fixture
def garden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Make a package with two plugins, shared code and a plugin that fails when imported."""
    folder = tmp_path / "garden_of_tests" / "plants"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("")
    (folder / "__init__.py").write_text("")
    (folder / "_base.py").write_text("SHARED = 1\n")
    (folder / "red_rose.py").write_text(
        '"""A rose.\n\nLong."""\n__all__ = ["rose"]\nrose = "red"\n'
    )
    (folder / "fern.py").write_text('"""A fern."""\n__all__ = ["fern"]\nfern = object()\n')
    (folder / "weed.py").write_text('"""A weed."""\nraise RuntimeError("imported")\n')
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield folder
    for name in [name for name in sys.modules if name.startswith("garden_of_tests")]:
        del sys.modules[name]


def distribution(tmp_path: Path, name: str, entry_point: str) -> None:
    """Install the metadata of a distribution that offers one plugin."""
    folder = tmp_path / f"{name}-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(f"[{GARDEN}]\n{entry_point}\n")


@pytest.mark.usefixtures("garden")
def test_names_are_file_names_with_hyphens_and_shared_code_is_not_listed() -> None:
    assert names(GARDEN) == ["fern", "red-rose", "weed"]


@pytest.mark.usefixtures("garden")
def test_listing_and_summaries_import_no_plugin() -> None:
    assert [summary(GARDEN, name) for name in names(GARDEN)] == ["A fern.", "A rose.", "A weed."]
    assert not [name for name in sys.modules if name.startswith(f"{GARDEN}.")]


def test_a_literal_of_a_class_is_read_without_importing_it(garden: Path) -> None:
    text = (
        '"""An oak."""\nclass Oak:\n    height: float = 20.5\n    age: int = len("ring")\n'
        '    kind = "tree"\n'
    )
    (garden / "oak.py").write_text(text)
    assert declared(GARDEN, "oak", "height") == 20.5
    assert declared(GARDEN, "oak", "kind") == "tree"
    assert declared(GARDEN, "oak", "age") is None
    assert declared(GARDEN, "oak", "colour") is None
    assert declared(GARDEN, "elm", "height") is None
    assert not [name for name in sys.modules if name.startswith(f"{GARDEN}.")]


@pytest.mark.usefixtures("garden")
def test_load_returns_the_one_public_object() -> None:
    assert load(GARDEN, "red-rose") == "red"


@pytest.mark.usefixtures("garden")
def test_an_unknown_name_is_answered_with_the_nearest_ones() -> None:
    with pytest.raises(
        MissingError, match=r"no 'red-rsoe' among the plants\. Did you mean red-rose"
    ):
        load(GARDEN, "red-rsoe")
    with pytest.raises(MissingError, match="fern, red-rose, weed"):
        summary(GARDEN, "elephant")


def test_a_new_file_is_a_new_name_without_any_edit(garden: Path) -> None:
    (garden / "moss.py").write_text('"""A moss."""\n__all__ = ["moss"]\nmoss = 3\n')
    importlib.invalidate_caches()
    assert "moss" in names(GARDEN)
    assert load(GARDEN, "moss") == 3


def test_two_public_objects_in_one_file_are_refused(garden: Path) -> None:
    (garden / "twins.py").write_text('__all__ = ["a", "b"]\na = b = 1\n')
    importlib.invalidate_caches()
    with pytest.raises(InputError, match="one object in __all__"):
        load(GARDEN, "twins")


@pytest.mark.usefixtures("garden")
def test_a_distribution_adds_names_through_entry_points(tmp_path: Path) -> None:
    distribution(tmp_path, "orchard", "apple = math:pi")
    assert names(GARDEN) == ["apple", "fern", "red-rose", "weed"]
    assert summary(GARDEN, "apple") == "from orchard"
    assert load(GARDEN, "apple") == pytest.approx(3.14159, abs=1e-5)


@pytest.mark.usefixtures("garden")
def test_a_plugin_that_cannot_be_imported_costs_only_itself(tmp_path: Path) -> None:
    distribution(tmp_path, "orchard", "pear = there_is_no_such_module:pear")
    assert load(GARDEN, "red-rose") == "red"
    with pytest.raises(InputError, match=r"'pear' of orchard cannot be imported: ModuleNotFound"):
        load(GARDEN, "pear")


def test_a_plugin_that_ends_the_program_is_refused_by_name(garden: Path, tmp_path: Path) -> None:
    (garden.parent / "quitter.py").write_text("raise SystemExit(3)\n")
    distribution(tmp_path, "orchard", "plum = garden_of_tests.quitter:plum")
    with pytest.raises(InputError, match=r"'plum' of orchard cannot be imported: SystemExit: 3"):
        load(GARDEN, "plum")


@pytest.mark.usefixtures("garden")
def test_a_name_that_exists_twice_names_both_distributions(tmp_path: Path) -> None:
    distribution(tmp_path, "orchard", "fern = math:pi")
    with pytest.raises(InputError, match=r"'fern' twice: from garden_of_tests and from orchard"):
        names(GARDEN)


@pytest.mark.usefixtures("garden")
def test_a_name_that_two_distributions_bring_names_both(tmp_path: Path) -> None:
    distribution(tmp_path, "orchard", "apple = math:pi")
    distribution(tmp_path, "market", "apple = math:e")
    with pytest.raises(InputError, match=r"'apple' twice: .*(orchard.*market|market.*orchard)"):
        names(GARDEN)


def test_a_package_that_does_not_exist_has_no_names() -> None:
    assert names("there.is.no.such.package") == []

"""What importing costs, in fresh interpreters."""

from __future__ import annotations

import subprocess
import sys

import pytest

READS_RECORDINGS = ("recording", "analyses", "figures", "report", "diagnosis")


def imported(code: str) -> set[str]:
    """Return the top-level modules that a fresh interpreter holds after running some code."""
    tail = "\nimport sys; print(); print(*{name.partition('.')[0] for name in sys.modules})"
    finished = subprocess.run(
        [sys.executable, "-c", code + tail], check=True, capture_output=True, text=True
    )
    return set(finished.stdout.splitlines()[-1].split())


def command(words: list[str]) -> str:
    """Return the code that runs a command."""
    return f"from alignlab_cli.main import alignlab\nalignlab({words!r}, standalone_mode=False)"


@pytest.mark.parametrize("words", [["--help"], ["analyze", "checkpoint", "--help"], ["--version"]])
def test_help_and_version_import_neither_torch_nor_xarray(words: list[str]) -> None:
    assert not {"torch", "xarray", "numpy"} & imported(command(words))


@pytest.mark.parametrize("kind", ["rules", "diagnostics", "analyses", "figures", "hypotheses"])
def test_listing_names_imports_neither_torch_nor_xarray(kind: str) -> None:
    assert not {"torch", "xarray"} & imported(command(["list", kind]))


@pytest.mark.parametrize("words", [["list", "claims"], ["reproduce", "--list"]])
def test_listing_claims_imports_neither_torch_nor_xarray(words: list[str]) -> None:
    assert not {"torch", "xarray", "numpy"} & imported(command(words))


def test_importing_alignlab_imports_no_third_party() -> None:
    assert not {"torch", "xarray", "numpy"} & imported("import alignlab")


@pytest.mark.parametrize("package", READS_RECORDINGS)
def test_what_reads_recordings_never_imports_torch(package: str) -> None:
    code = (
        f"import alignlab.{package} as package\nfor name in package.__all__: getattr(package, name)"
    )
    assert "torch" not in imported(code)


def test_every_analysis_figure_and_hypothesis_loads_without_torch() -> None:
    code = (
        "from alignlab.plugins import load, names\n"
        "packages = ('alignlab.analyses', 'alignlab.figures', 'alignlab.diagnosis.hypotheses')\n"
        "for package in packages:\n"
        "    for name in names(package): load(package, name)"
    )
    assert "torch" not in imported(code)


def test_every_public_name_of_alignlab_is_there() -> None:
    import alignlab

    assert set(alignlab.__all__) <= set(dir(alignlab))
    for name in alignlab.__all__:
        assert getattr(alignlab, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'aline'"):
        _ = alignlab.aline

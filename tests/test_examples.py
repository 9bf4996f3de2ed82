"""The packaged checkpoints are found, and are the ones that the manifest describes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from alignlab import examples
from alignlab.errors import InputError, MissingError


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pretend that the module lies in an empty folder, and return that folder."""
    folder = tmp_path / "alignlab"
    folder.mkdir()
    monkeypatch.setattr(examples, "__file__", str(folder / "examples.py"))
    return folder


def write(folder: Path, *, content: bytes, described: bytes) -> None:
    """Write a manifest of one checkpoint, and the checkpoint."""
    folder.mkdir()
    entry = {
        "file": "mlp.pt",
        "sha256": hashlib.sha256(described).hexdigest(),
        "model": "alignlab:mlp",
        "model_arguments": {"width": 8},
        "data": "digits",
        "rule": "dfa",
        "rule_spec": "dfa(scale=1.0)",
        "seeds": {"init": 0},
        "command": "make it again",
    }
    (folder / "manifest.json").write_text(json.dumps([entry]))
    (folder / "mlp.pt").write_bytes(content)


@pytest.mark.parametrize("place", ["alignlab/examples", "data"])
def test_a_wheel_and_a_source_tree_offer_the_same_examples(package: Path, place: str) -> None:
    write(package.parent / place, content=b"weights", described=b"weights")
    (example,) = examples.manifest()
    assert example.file == package.parent / place / "mlp.pt"
    assert example.model_arguments == {"width": 8}
    assert example.rule_spec == "dfa(scale=1.0)"


def test_the_packaged_folder_is_preferred(package: Path) -> None:
    for place in (package / "examples", package.parent / "data"):
        write(place, content=b"weights", described=b"weights")
    assert examples.folder() == package / "examples"


@pytest.mark.usefixtures("package")
def test_an_installation_without_examples_says_so() -> None:
    with pytest.raises(MissingError, match="Install alignlab again"):
        examples.folder()


def test_a_file_that_is_not_the_described_one_is_refused(package: Path) -> None:
    write(package / "examples", content=b"changed", described=b"weights")
    with pytest.raises(InputError, match=r"not [0-9a-f]{64}\. Install .* make it again"):
        examples.manifest()


def test_a_file_that_is_not_there_is_refused(package: Path) -> None:
    write(package / "examples", content=b"weights", described=b"weights")
    (package / "examples" / "mlp.pt").unlink()
    with pytest.raises(MissingError, match=r"mlp\.pt is not there"):
        examples.manifest()

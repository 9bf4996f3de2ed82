"""The house rules that no other tool checks."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted([*(ROOT / "alignlab").rglob("*.py"), *(ROOT / "cli").rglob("*.py")])
WORKS = [
    path.parent.relative_to(ROOT / "alignlab").as_posix()
    for path in sorted((ROOT / "alignlab" / "experiments").glob("*/__init__.py"))
]
SIBLINGS = (
    *("rules", "diagnostics", "analyses", "figures", "diagnosis/hypotheses", "interventions"),
    *WORKS,
)
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def place(path: Path) -> str:
    """Return a path as it is shown by a failing test."""
    return path.relative_to(ROOT).as_posix()


def imports(path: Path) -> Iterator[str]:
    """Yield the dotted names that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", SOURCES, ids=place)
def test_files_have_at_most_350_lines_and_functions_60(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 350
    long = [
        f"{node.name} ({node.end_lineno - node.lineno})"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno > 60
    ]
    assert long == []


@pytest.mark.parametrize("path", SOURCES, ids=place)
def test_annotations_are_never_evaluated(path: Path) -> None:
    body = ast.parse(path.read_text(encoding="utf-8")).body
    has_code = any(not isinstance(node, ast.Expr) for node in body)
    assert not has_code or "__future__.annotations" in set(imports(path))


@pytest.mark.parametrize("folder", SIBLINGS)
def test_plugins_never_import_a_sibling(folder: str) -> None:
    package = "alignlab." + folder.replace("/", ".")
    plugins = [
        path for path in (ROOT / "alignlab" / folder).glob("*.py") if not path.name.startswith("_")
    ]
    siblings = {f"{package}.{path.stem}" for path in plugins}
    found = {
        (place(path), name)
        for path in plugins
        for name in imports(path)
        if any(name == sibling or name.startswith(f"{sibling}.") for sibling in siblings)
    }
    assert found == set()


@pytest.mark.skipif(not (shutil.which("git") and (ROOT / ".git").exists()), reason="needs git")
@pytest.mark.parametrize("name", ["data/manifest.json", "alignlab/datasets/digits.py", "data/x.pt"])
def test_git_never_ignores_data(name: str) -> None:
    ignored = subprocess.run(
        ["git", "-C", ROOT, "check-ignore", "--no-index", "-q", name], check=False
    )
    assert ignored.returncode == 1


def test_pre_commit_runs_the_pinned_tools() -> None:
    text = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    pins = set(re.findall(r"[\w-]+==[\d.]+", text))
    assert pins
    assert pins <= set(PYPROJECT["dependency-groups"]["dev"])


def test_the_readme_installs_what_the_makefile_installs() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for requirement in ("torch==", "biotorch=="):
        (stated,) = set(re.findall(rf"\b{requirement}[\d.]+\d", makefile))
        assert stated in readme


def test_the_version_is_stated_once_in_two_places() -> None:
    import alignlab

    assert PYPROJECT["project"]["version"] == alignlab.__version__
    changelog = (ROOT / "docs" / "changelog.md").read_text(encoding="utf-8")
    assert f"## {alignlab.__version__}" in changelog

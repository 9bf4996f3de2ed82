"""Which claims there are, found by their names without importing them."""

from __future__ import annotations

import ast
import difflib
import hashlib
import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from alignlab import plugins
from alignlab.errors import MissingError

__all__ = ["Entry", "catalogue", "digest_of_sources", "found"]

PACKAGE = "alignlab.experiments"
"""Where the works are, one package each."""

WORKS = ("R", "N", "L", "A")
"""First letters of identities in the order of the works."""


@dataclass(frozen=True)
class Entry:
    """What is known of a claim before it is imported.

    Attributes:
        paper: Public name of the work.
        claim: Public name within the work.
        package: Where it is loaded from.
        identity: Short name, such as ``R4``.
        summary: One line.
    """

    paper: str
    claim: str
    package: str
    identity: str
    summary: str

    @property
    def key(self) -> str:
        """Public name, ``paper:claim``."""
        return f"{self.paper}:{self.claim}"


def catalogue() -> list[Entry]:
    """Return every claim, in the order of the works and of their numbers.

    Example:
        >>> [entry.key for entry in catalogue() if entry.identity == "N3"]
        ['noekland2016:theorem-1']
    """
    entries = [_entry(paper, claim) for paper, claim in _pairs()]
    return sorted(entries, key=lambda entry: (*_place(entry.identity), entry.key))


def found(name: str) -> list[Entry]:
    """Return the claims that a name means.

    Args:
        name: A work, ``work:claim`` or an identity such as ``R4``.

    Raises:
        MissingError: There is no such name; the text gives the nearest ones.
    """
    entries = catalogue()
    chosen = [entry for entry in entries if name in {entry.paper, entry.key}]
    chosen = chosen or [entry for entry in entries if entry.identity.lower() == name.lower()]
    if not chosen:
        raise MissingError(_unknown(name, entries))
    return chosen


def digest_of_sources(entry: Entry) -> str:
    """Return the sha256 of the claim's file and of what it imports from among the experiments.

    Comments, docstrings and empty lines do not count.
    """
    root = entry.package.rpartition(".")[0]
    digest = hashlib.sha256()
    todo, done = [f"{entry.package}.{entry.claim.replace('-', '_')}"], set[str]()
    while todo:
        module = todo.pop()
        spec = None if module in done else _spec(module)
        done.add(module)
        if spec is None or module.count(".") <= root.count("."):
            continue
        source = Path(spec).read_bytes()
        digest.update(module.encode() + b"\0" + _code(source))
        todo += sorted(name for name in _imports(source) if name.startswith(f"{root}."))
    return digest.hexdigest()


def _spec(module: str) -> str | None:
    """Return the file of a module; None where the name is that of something else."""
    try:
        spec = find_spec(module)
    except ModuleNotFoundError:
        return None
    return spec.origin if spec else None


@cache
def _code(source: bytes) -> bytes:
    r"""Return a file without comments, docstrings and empty lines.

    Example:
        >>> _code(b"'What it is.'\n\nx = '#'  # a number sign\n")
        b"x = '#'"
    """
    lines = source.decode().splitlines()
    for token in tokenize.tokenize(io.BytesIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            continue
        if ast.get_docstring(node, clean=False) is not None:
            text = node.body[0]
            assert text.end_lineno is not None
            begins_a_line = not lines[text.lineno - 1][: text.col_offset].strip()
            for row in range(text.lineno, text.end_lineno + 1) if begins_a_line else ():
                lines[row - 1] = ""
    return "\n".join(line.rstrip() for line in lines if line.strip()).encode()


@cache
def _imports(source: bytes) -> frozenset[str]:
    """Return the dotted names that a file imports; those of no module are among them."""
    names = set[str]()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(names)


def _pairs() -> Iterator[tuple[str, str]]:
    """Yield the names of works and of their claims."""
    for paper in plugins.names(PACKAGE):
        for claim in plugins.names(_package(paper)):
            yield paper, claim


def _package(paper: str) -> str:
    return f"{PACKAGE}.{paper.replace('-', '_')}"


def _entry(paper: str, claim: str) -> Entry:
    package = _package(paper)
    identity = plugins.declared(package, claim, "identity")
    if identity is None:
        identity = getattr(plugins.load(package, claim), "identity", "")
    return Entry(paper, claim, package, str(identity), plugins.summary(package, claim))


def _place(identity: str) -> tuple[int, int, str]:
    """Return where an identity stands: by work, then by number, then by what follows.

    Example:
        >>> sorted(["R10", "A1", "R2b", "R2", "N1"], key=_place)
        ['R2', 'R2b', 'R10', 'N1', 'A1']
    """
    parts = re.fullmatch(r"([A-Za-z]*)(\d*)(.*)", identity)
    letters, number, rest = parts.groups() if parts else ("", "", identity)
    work = WORKS.index(letters) if letters in WORKS else len(WORKS)
    return work, int(number or 0), rest


def _unknown(name: str, entries: list[Entry]) -> str:
    """Return the one line for a name that is not there, the nearest names first."""
    papers = sorted({entry.paper for entry in entries})
    known = [*papers, *(entry.key for entry in entries), *(entry.identity for entry in entries)]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if not near and ":" not in name:
        claims = {entry.claim: entry.key for entry in entries}
        near = [claims[each] for each in difflib.get_close_matches(name, claims, n=3, cutoff=0.5)]
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return (
        f"There is no claim or work {name!r}.{hint} The works are {', '.join(papers) or 'none'}; "
        "'alignlab reproduce --list' shows every claim."
    )

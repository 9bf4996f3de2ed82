"""Figures as files: each drawing with the numbers that it shows, or the reason why it is not."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from alignlab import plugins
from alignlab.errors import AlignlabError, InputError
from alignlab.figures import _styles
from alignlab.recording.replacement import replacing

if TYPE_CHECKING:
    from collections.abc import Sequence

    import matplotlib.figure
    import xarray as xr

    from alignlab.figures._base import Figure

__all__ = ["as_svg", "export", "load", "names"]

FORMATS = ("svg", "pdf", "png")

# What would make two exports of the same recording differ.
UNDATED: dict[str, dict[str, Any]] = {
    "svg": {"Date": None},
    "pdf": {"CreationDate": None},
    "png": {"Software": None},
}


def names() -> list[str]:
    """Return the names of all figures, without importing any."""
    return plugins.names("alignlab.figures")


def load(name: str) -> Figure:
    """Return one figure.

    Raises:
        MissingError: No figure has this name; the text gives the nearest ones.
    """
    return cast("Figure", plugins.load("alignlab.figures", name))


def export(
    ds: xr.Dataset,
    directory: str | Path,
    *,
    formats: Sequence[str] = ("svg",),
    overwrite: bool = False,
) -> list[tuple[str, tuple[Path, ...] | str]]:
    """Write every figure that a recording can feed, each with its numbers as CSV.

    Args:
        ds: A recording.
        directory: Where to write; made if it is not there.
        formats: Any of ``svg``, ``pdf``, ``png``.
        overwrite: Whether files that exist may be replaced.

    Returns:
        For each figure its name and the files written, or the reason why there are none.

    Raises:
        InputError: An unknown format, or a file that exists; then nothing is written.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown:
        message = f"{unknown[0]!r} is no format of figures. They are: {', '.join(FORMATS)}."
        raise InputError(message)
    folder = Path(directory)
    chosen = {name: _drawable(ds, name) for name in names()}
    drawable = {name: figure for name, figure in chosen.items() if not isinstance(figure, str)}
    paths = {
        name: tuple(folder / f"{name}.{end}" for end in dict.fromkeys((*formats, "csv")))
        for name in drawable
    }
    present = [path for files in paths.values() for path in files if path.exists()]
    if present and not overwrite:
        message = f"{present[0]} exists. Choose another folder, or allow it to be overwritten."
        raise InputError(message)
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in drawable.items():
        _write(figure, ds, paths[name])
    return [
        (name, figure if isinstance(figure, str) else paths[name])
        for name, figure in chosen.items()
    ]


def as_svg(drawing: matplotlib.figure.Figure) -> str:
    """Return a drawing as SVG text with live text, the same for the same numbers."""
    return _rendered(drawing, "svg").decode("utf-8")


def _drawable(ds: xr.Dataset, name: str) -> Figure | str:
    """Return a figure, or the reason why it cannot be drawn; a broken plugin costs only itself."""
    try:
        figure = load(name)
    except AlignlabError as error:
        return str(error)
    return figure.unmet(ds) or figure


def _write(figure: Figure, ds: xr.Dataset, paths: Sequence[Path]) -> None:
    drawing = figure.draw(ds)
    for path in paths:
        if path.suffix == ".csv":
            content = figure.table(ds).to_csv(index=False).encode("utf-8")
        else:
            content = _rendered(drawing, path.suffix[1:])
        with replacing(path) as draft:
            draft.write_bytes(content)


def _rendered(drawing: matplotlib.figure.Figure, form: str) -> bytes:
    stream = io.BytesIO()
    with _styles.context():
        drawing.savefig(stream, format=form, metadata=UNDATED[form])
    return stream.getvalue()

"""A recording as one HTML page that needs nothing else: answer, tables, figures, provenance."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, cast

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from alignlab import diagnosis, figures, plugins
from alignlab.errors import AlignlabError, InputError
from alignlab.recording.replacement import replacing
from alignlab.report._definitions import STATUSES, attributes, definitions
from alignlab.report._layers import (
    Row,
    decimals,
    gradient_rows,
    signal_rows,
    weight_rows,
    width_rows,
)
from alignlab.report._numbers import numbers

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import xarray as xr

__all__ = ["render", "render_index", "save"]

_NOTHING: dict[str, object] = dict.fromkeys(
    ("signals", "gradients", "widths", "weights", "drawings", "undrawn", "numbers"), ()
)


@dataclass(frozen=True)
class Drawing:
    """One figure of the page.

    Args:
        title: A few words.
        caption: How to read it.
        svg: The drawing, safe to be put into the page.
    """

    title: str
    caption: str
    svg: Markup


@dataclass(frozen=True)
class Entry:
    """One report of an index.

    Args:
        href: Where the report lies, seen from the index.
        title: What was analysed.
        subtitle: On which data, under which rules.
        answer: What the recording says.
    """

    href: str
    title: str
    subtitle: str
    answer: diagnosis.Answer


def render(ds: xr.Dataset) -> str:
    """Return a recording as one HTML page without scripts or links to the network.

    Args:
        ds: A recording; of several steps, the last is shown.

    Returns:
        The page; text from the recording is escaped.
    """
    answer = diagnosis.answer(ds)
    last = ds.isel(step=-1) if "step" in ds.dims else ds
    closing = diagnosis.CLOSING
    valid = _is_valid(last)
    measured = _measured(last) if valid else _NOTHING
    explained = last if valid else last[[name for name in last if not last[name].dims]]
    return _fill(
        "page.html",
        title=_title(ds),
        subtitle=_subtitle(ds),
        answer=answer,
        sentences=[sentence for sentence in answer.paragraph if sentence != closing],
        closing=closing if closing in answer.paragraph else "",
        statuses=STATUSES.items(),
        sides=_sides(answer),
        interventions=[_intervention(side) for side in _sides(answer)],
        definitions=definitions(explained),
        provenance=attributes(ds),
        command=str(ds.attrs.get("command", "")),
        **measured,
    )


def render_index(entries: Mapping[str, xr.Dataset], *, title: str = "alignlab reports") -> str:
    """Return a page that links reports, each with its answer in one line.

    Args:
        entries: Address of each report, relative to the index, to its recording.
        title: Heading of the page.

    Returns:
        The page; text from the recordings is escaped.
    """
    chosen = [
        Entry(href, _title(ds), _subtitle(ds), diagnosis.answer(ds)) for href, ds in entries.items()
    ]
    return _fill("index.html", title=title, entries=chosen)


def save(ds: xr.Dataset, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write a recording's page; it appears under its name only when it is complete.

    Args:
        ds: A recording.
        path: Where to write.
        overwrite: Whether a file that exists may be replaced.

    Returns:
        The path written.

    Raises:
        InputError: The file exists, or its folder is missing or cannot be written to.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        message = f"{path} exists; choose another name, or replace it with --force."
        raise InputError(message)
    page = render(ds)
    with replacing(path) as draft:
        draft.write_text(page, encoding="utf-8", newline="\n")
    return path


def inline(svg: str, *, name: str) -> Markup:
    """Return an SVG file as an element of a page.

    Args:
        svg: As matplotlib writes it, with the text of labels escaped.
        name: Put before every identifier, so that several drawings can share a page.
    """
    element = svg[svg.index("<svg") :]
    element = re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.DOTALL)
    element = re.sub(r'(<[^>]*?\bid=")', rf"\g<1>{name}-", element)
    element = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{name}-", element)
    return Markup(element)


def _drawings(ds: xr.Dataset) -> tuple[list[Drawing], list[tuple[str, str]]]:
    """Return the figures that the recording can feed, and the others with the reason.

    What is drawn along steps is passed over where there is one alone.
    """
    is_single = ds.sizes.get("step", 1) == 1
    drawn: list[tuple[int, Drawing]] = []
    undrawn: list[tuple[str, str]] = []
    for name in figures.names():
        try:
            figure = figures.load(name)
            if figure.along_steps and is_single:
                continue
            reason = figure.unmet(ds)
        except AlignlabError as error:
            undrawn.append((name, str(error)))
            continue
        if reason is not None:
            undrawn.append((name, reason))
            continue
        svg = inline(figures.as_svg(figure.draw(ds)), name=name)
        drawn.append((figure.place, Drawing(figure.title, figure.caption, svg)))
    return [drawing for _, drawing in sorted(drawn, key=itemgetter(0))], undrawn


def _measured(ds: xr.Dataset) -> dict[str, object]:
    """Return what only a valid measurement shows: tables and figures."""
    drawings, undrawn = _drawings(ds)
    return {
        "signals": signal_rows(ds),
        "gradients": gradient_rows(ds),
        "widths": width_rows(ds),
        "weights": weight_rows(ds),
        "drawings": drawings,
        "undrawn": undrawn,
        "numbers": numbers(ds),
    }


def _fill(template: str, **values: object) -> str:
    """Return a template with its values, every text escaped."""
    environment = Environment(
        loader=PackageLoader("alignlab.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["decimals"] = decimals
    environment.filters["breakable"] = _breakable
    environment.filters["groupby_in_order"] = _grouped
    return environment.get_template(template).render(**values)


def _breakable(name: str) -> Markup:
    """Return a name that may be broken after its underscores."""
    return Markup("_<wbr>").join(name.split("_"))


def _grouped(rows: Iterable[Row], attribute: str) -> list[tuple[str, list[Row]]]:
    """Group neighbours without sorting them, unlike jinja's own filter."""
    return [(key, list(own)) for key, own in groupby(rows, lambda row: getattr(row, attribute))]


def _sides(answer: diagnosis.Answer) -> list[diagnosis.Hypothesis]:
    names = [statement.hypothesis for limit in answer.limits[:1] for statement in limit.statements]
    package = "alignlab.diagnosis.hypotheses"
    return [cast("diagnosis.Hypothesis", plugins.load(package, name)) for name in names]


def _intervention(side: diagnosis.Hypothesis) -> tuple[str, ...]:
    change = side.intervention
    return (
        *(side.title, side.prediction, change.action),
        *(", ".join(change.moves), ", ".join(change.stays)),
    )


def _title(ds: xr.Dataset) -> str:
    return str(ds.attrs.get("checkpoint") or ds.attrs.get("model") or "Recording")


def _subtitle(ds: xr.Dataset) -> str:
    rules = ", ".join(str(rule) for rule in ds["rule"].values) if "rule" in ds.coords else ""
    n_steps = ds.sizes.get("step", 1)
    step = f"step {ds['step'].values[-1]}, the last of {n_steps}" if n_steps > 1 else ""
    parts = (ds.attrs.get("model"), ds.attrs.get("data"), rules and f"rules: {rules}", step)
    return " · ".join(str(part) for part in parts if part)


def _is_valid(ds: xr.Dataset) -> bool:
    status = str(ds["measurement_status"].item()) if "measurement_status" in ds else ""
    return status in {"", "valid"}

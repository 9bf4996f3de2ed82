"""Why a diagnostic says nothing of a layer: how a recording words it, and how it is read again."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["diagnostic_of", "reasons_for", "worded"]


def worded(because: str, *, layer: str, rule: str = "") -> str:
    """Return a reason as a recording holds it.

    Args:
        because: A clause that goes on after "because".
        layer: Name of the layer.
        rule: Label of the rule; empty for all.

    Example:
        >>> worded("it is no convolution", layer="fc", rule="dfa")
        'not defined for fc under dfa because it is no convolution'
    """
    which = f" under {rule}" if rule else ""
    return f"not defined for {layer}{which} because {because}"


def reasons_for(ds: xr.Dataset, diagnostic: str, layer: str) -> list[tuple[str, str]]:
    """Return why a diagnostic says nothing of a layer.

    Args:
        ds: Recording of one step.
        diagnostic: Its name.
        layer: Name of the layer.

    Returns:
        Rule (empty for all) and clause; empty where the recording gives no reason.
    """
    if "not_defined" not in ds or diagnostic not in ds["diagnostic"].values:
        return []
    text = str(ds["not_defined"].sel(diagnostic=diagnostic, layer=layer).item())
    labels = ["", *map(str, ds["rule"].values)] if "rule" in ds.coords else [""]
    found = []
    for clause in filter(None, text.split("; not defined for ")):
        sentence = f"not defined for {clause.removeprefix('not defined for ')}"
        for label in labels:
            start = worded("", layer=layer, rule=label)
            if sentence.startswith(start):
                found.append((label, sentence.removeprefix(start)))
    return found


def diagnostic_of(ds: xr.Dataset, variable: str) -> str:
    """Return which of the recording's diagnostics a variable belongs to; empty for none.

    One that was measured nowhere is found by its name, which begins like that of its diagnostic.
    """
    if variable in ds.variables:
        return str(ds.variables[variable].attrs.get("diagnostic", ""))
    labels = map(str, ds["diagnostic"].values) if "diagnostic" in ds.coords else ()
    alike = [label for label in labels if variable.startswith(label.replace("-", "_"))]
    return max(alike, key=len, default="")

"""The table of alignments as papers print it."""

from __future__ import annotations

import math

import pandas as pd

__all__ = ["alignment_table", "escape"]

# Papers print these; where a recording has none of them, its first alignments are printed.
_PRINTED = ("cosine_error_signal", "cosine_weight_gradient", "cosine_weight_feedback")
_HEADS = {
    "cosine_error_signal": "Signal",
    "cosine_weight_gradient": "Weight gradient",
    "cosine_weight_feedback": "Weights",
}
_SITES = {"entry": " at entry", "preactivation": " at pre-activation", "": ""}
_ESCAPES = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "\n": " ",
        "\r": " ",
    }
    | {character: f"\\{character}" for character in "&%$#_{}"}
)
_NOTE = (
    "Cosines (standard deviation by chance). "
    r"$^{\dagger}$ not above chance. $^{-}$ below chance. "
    r"$^{\ddagger}$ chance alone is too wide to decide. "
    r"$^{\circ}$ undefined. $^{\ast}$ feedback was drawn, nothing observed."
)
_MARKS = {
    "at chance": r"$^{\dagger}$",
    "opposed": r"$^{-}$",
    "undecidable": r"$^{\ddagger}$",
    "undefined": r"$^{\circ}$",
    "null draw": r"$^{\ast}$",
}


def escape(text: str) -> str:
    r"""Return text that LaTeX prints as it stands.

    Args:
        text: Any text.

    Returns:
        One line with LaTeX's own characters escaped.

    Example:
        >>> escape("fc_1 & 50%")
        'fc\\_1 \\& 50\\%'
    """
    return text.translate(_ESCAPES)


def alignment_table(frame: pd.DataFrame) -> str:
    r"""Return a ``booktabs`` table: a row for each rule and layer, a column for each alignment.

    Args:
        frame: What :func:`alignlab.report.alignment_frame` returns.

    Returns:
        A ``tabular`` to be put into a ``table``; it needs ``\usepackage{booktabs}``.
    """
    printed = [name for name in _PRINTED if (frame["variable"] == name).any()]
    printed = printed or list(dict.fromkeys(frame["variable"]))[: len(_PRINTED)]
    chosen = frame[frame["variable"].isin(printed)]
    columns = sorted(
        dict.fromkeys(zip(chosen["variable"], chosen["site"], strict=True)),
        key=lambda column: printed.index(column[0]),
    )
    places = ["rule", "layer"] if frame["step"].nunique() <= 1 else ["step", "rule", "layer"]
    rows = dict.fromkeys(zip(*(chosen[place] for place in places), strict=True))
    cells = {
        (*(row[place] for place in places), row["variable"], row["site"]): _cell(row)
        for row in chosen.to_dict("records")
    }
    heads = [_head(variable, site) for variable, site in columns]
    note = f"{_NOTE} {_kinds(chosen)}".rstrip()
    lines = [
        "% needs \\usepackage{booktabs}",
        f"\\begin{{tabular}}{{{'l' * len(places)}{'r' * len(columns)}}}",
        "\\toprule",
        _line([*(place.capitalize() for place in places), *heads]),
        "\\midrule",
        *(
            _line(
                [
                    *(escape(str(label)) for label in row),
                    *(cells.get((*row, *column), "--") for column in columns),
                ]
            )
            for row in rows
        ),
        "\\bottomrule",
        f"\\multicolumn{{{len(places) + len(columns)}}}{{l}}{{\\footnotesize {note}}}",
        "\\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _kinds(chosen: pd.DataFrame) -> str:
    """Say what was random in each column's chance level; different kinds are not compared."""
    meant = chosen[~chosen["null_kind"].isin(["", "none"])]
    parts = []
    for (variable, kind), rows in meant.groupby(["variable", "null_kind"], sort=False):
        rules = ", ".join(dict.fromkeys(rows["rule"]))
        parts.append(f"{_HEADS.get(variable, variable)} by {kind.replace('_', ' ')} ({rules})")
    return escape(f"Chance: {'; '.join(parts)}.") if parts else ""


def _line(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"


def _head(variable: str, site: str) -> str:
    return escape(_HEADS.get(variable, variable) + _SITES.get(site, f" at {site}"))


def _cell(row: dict[str, object]) -> str:
    """Return one alignment with what chance would give, and a mark where it proves nothing."""
    value, null_sd = (float(str(row[key])) for key in ("value", "null_sd"))
    shown = "--" if math.isnan(value) else f"${value:.3f}$"
    chance = "" if math.isnan(null_sd) else f" (${null_sd:.3f}$)"
    return f"{shown}{chance}{_MARKS.get(str(row['status']), '')}"

"""What a figure is: a table of a recording's numbers, and a drawing of exactly that table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from alignlab.errors import MissingError
from alignlab.figures import _styles

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import matplotlib.figure
    import xarray as xr

__all__ = ["Figure", "observed", "tidy"]

OBSERVED_ONLY = (
    *("angle_", "attainable_share", "best_scale_", "cosine_error_signal_sd", "loss_change_"),
    *("inner_product_", "norm_ratio_", "projection_", "unexplained_"),
    *("sign_agreement_excess", "sign_agreement_gaussian"),
)


@dataclass(frozen=True)
class Figure:
    """One figure of a recording.

    Args:
        name: Public name, that of the file with hyphens.
        title: A few words.
        caption: How to read it.
        needs: Variables without which there is nothing to draw.
        rows: From a recording of one step to the table; empty where every number is missing.
        plot: From that table to the drawing.
        hint: When a recording has what the figure needs.
        place: Where it stands in a report, the lowest number first.
        along_steps: Whether ``rows`` is given all steps in place of the last.
    """

    name: str
    title: str
    caption: str
    needs: tuple[str, ...]
    rows: Callable[[xr.Dataset], pd.DataFrame]
    plot: Callable[[pd.DataFrame], matplotlib.figure.Figure]
    hint: str = ""
    place: int = 100
    along_steps: bool = False

    def table(self, ds: xr.Dataset) -> pd.DataFrame:
        """Return the numbers that the figure shows: at the last step, or along all steps.

        Raises:
            MissingError: The recording lacks a variable that the figure needs.
        """
        lacking = [name for name in self.needs if name not in ds.variables]
        if lacking:
            message = f"The figure {self.name} needs {', '.join(lacking)}, not in the recording."
            raise MissingError(message)
        is_last = "step" in ds.dims and not self.along_steps
        table = self.rows(observed(ds.isel(step=-1) if is_last else ds))
        if "rule" in ds.coords:
            # A rule keeps its colour in figures that show only some of the rules.
            table.attrs["rules"] = [str(rule) for rule in ds["rule"].values]
        return table

    def unmet(self, ds: xr.Dataset) -> str | None:
        """Return why the figure cannot be drawn, None if it can."""
        lacking = [name for name in self.needs if name not in ds.variables]
        if not lacking and not self.table(ds).empty:
            return None
        reason = f"the recording has no {', '.join(lacking)}" if lacking else "it has no values"
        return f"{reason}; {self.hint}" if self.hint else reason

    def draw(self, ds: xr.Dataset) -> matplotlib.figure.Figure:
        """Return the drawing of the table.

        Raises:
            MissingError: There is nothing to draw; the text says why.
        """
        reason = self.unmet(ds)
        if reason is not None:
            message = f"The figure {self.name} cannot be drawn: {reason}."
            raise MissingError(message)
        with _styles.context():
            return self.plot(self.table(ds))


def observed(ds: xr.Dataset) -> xr.Dataset:
    """Return a recording without alignments of rules whose feedback was drawn.

    The engine leaves them out itself; a figure must not depend on it (diagnostics.md 0.1.11).
    """
    if "feedback_origin" not in ds.variables:
        return ds
    known = ds["feedback_origin"].values != "drawn"
    if known.all():
        return ds
    shown = {}
    for name, variable in ds.variables.items():
        if "rule" not in variable.dims or name in ds.coords:
            continue
        kept = np.expand_dims(known, [at for at, dim in enumerate(variable.dims) if dim != "rule"])
        if variable.attrs.get("alignment") == 1:
            if f"{name}_status" in ds.variables:
                kept = kept | (ds.variables[f"{name}_status"].values == "exact")
        elif not str(name).startswith(OBSERVED_ONLY):
            continue
        shown[name] = variable.copy(data=np.where(kept, variable.values, np.nan))
    return ds.assign(shown)


def tidy(
    ds: xr.Dataset, dims: Sequence[str], *, variables: Sequence[str], coords: Sequence[str] = ()
) -> pd.DataFrame:
    """Return variables as columns, one row for each combination of labels.

    Args:
        ds: Recording without the dimension ``step``.
        dims: Columns that name the row; variables with fewer dimensions are repeated.
        variables: Columns; those that the recording lacks are filled with NaN.
        coords: Further columns, such as ``depth``.

    Returns:
        Rows in the recording's order; those without any number are dropped. Empty where the
        recording lacks a dimension.
    """
    present = [name for name in variables if name in ds.variables]
    extra = [name for name in coords if name in ds[present].coords]
    wanted = ds[present].reset_coords(extra)
    if not present or not set(dims) <= set(wanted.dims):
        return pd.DataFrame(columns=[*dims, *extra, *variables])
    table = wanted.to_dataframe(dim_order=list(dims)).reset_index()
    table = table.reindex(columns=[*dims, *extra, *variables])
    numbers = [name for name in present if ds[name].dtype.kind in "fiu"]
    return table.dropna(how="all", subset=numbers).reset_index(drop=True)

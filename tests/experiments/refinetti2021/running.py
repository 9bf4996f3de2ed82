"""A claim run from its first case to its figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from alignlab.experiments import Check, Claim, Work

__all__ = ["checked"]


def checked(claim: Claim, folder: Path, **changed: Any) -> list[Check]:
    """Return the checks of the fast setting with some sizes changed, and draw the figure."""
    setting = {**claim.fast, **changed}
    parts = []
    for case in claim.cases(setting):
        found = claim.measure(case, setting, Work(folder)).expand_dims("run")
        parts.append(found.assign_coords({name: ("run", [one]) for name, one in case.items()}))
    results = xr.concat(parts, dim="run")
    assert all(np.issubdtype(each.dtype, np.number) or each.dtype == bool for each in
               results.data_vars.values())  # fmt: skip
    figure = Figure()
    claim.draw(results, figure)
    assert figure.axes
    assert all(axes.get_ylabel() or number for number, axes in enumerate(figure.axes))
    return list(claim.checks(results, setting))

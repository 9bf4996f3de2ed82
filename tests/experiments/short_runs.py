"""A claim run at a size of seconds: results of all cases as they are assembled, and its table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import xarray as xr

from alignlab.experiments import Check, Claim, Work

__all__ = ["claim_of", "outcome"]


def claim_of(name: str) -> Claim:
    """Return the claim of a file, such as ``noekland2016.error_rates``."""
    module = import_module(f"alignlab.experiments.{name}")
    (only,) = module.__all__
    claim: Claim = getattr(module, only)()
    return claim


def outcome(
    name: str, folder: Path, **options: Any
) -> tuple[Claim, xr.Dataset, Sequence[Check], Mapping[str, Any]]:
    """Run all cases of a fast setting with some options changed."""
    claim = claim_of(name)
    setting = {**claim.fast, **options}
    cases = list(claim.cases(setting))
    found = [claim.measure(case, setting, Work(folder)).expand_dims("run") for case in cases]
    keys = {key: ("run", [case[key] for case in cases]) for key in cases[0]}
    results = xr.concat(found, dim="run").assign_coords(keys)
    return claim, results, claim.checks(results, setting), setting

"""A package of made-up works, planted where claims are sought."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from alignlab.experiments import _catalogue

PACKAGE = "meadow_of_tests"

CLAIM = '''"""{summary}"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
import xarray as xr

from alignlab.experiments import Check, Claim
from {package}.grass2001._shared import SCALE

__all__ = ["Made"]


class Made(Claim):
    identity = "{identity}"
    statement = "Leaves are green."
    provenance = "our derivation"
    source = "nowhere"
    fast = {{"runs": {runs}, "size": 3}}
    full = {full}
    full_data = {full_data}
    caption = "Leaves, {{runs}} runs."

    def cases(self, setting):
        seeds = range(setting["runs"])
        return [{{"rule": rule, "seed": seed}} for rule in ("bp", "dfa") for seed in seeds]

    def measure(self, case, setting, work):
        {measure}
        generator = np.random.default_rng(case["seed"])
        numbers = generator.normal(size=setting["size"]) * SCALE
        layers = ["low", "mid", "top"][: setting["size"]]
        values = torch.tensor(numbers) @ torch.ones(setting["size"], 2, dtype=torch.float64)
        return xr.Dataset(
            {{"leaf": ("layer", numbers), "sum": ("half", values), "drawn": torch.rand(1).item()}},
            {{"layer": layers}},
        )

    def checks(self, results, setting):
        mean = results["leaf"].mean().item()
        return [Check("leaf", mean, {expected!r}, {passed}, low=-1.0, high=np.float64(1.0), runs=4)]

    def draw(self, results, figure):
        {draw}
        figure.subplots().plot(results["leaf"].values)
'''


@contextmanager
def planted(folder: Path) -> Iterator[Path]:
    """Make one work of no claim the place where claims are sought, and yield the work's folder."""
    work = folder / PACKAGE / "grass2001"
    work.mkdir(parents=True)
    (work.parent / "__init__.py").write_text("")
    (work / "__init__.py").write_text('"""Grass 2001."""\n')
    (work / "_shared.py").write_text("SCALE = 2.0\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setattr(_catalogue, "PACKAGE", PACKAGE)
        importlib.invalidate_caches()
        yield work
    for name in [name for name in sys.modules if name.startswith(PACKAGE)]:
        del sys.modules[name]


def sow(
    work: Path,
    name: str,
    *,
    identity: str,
    runs: int = 2,
    full: str = "None",
    full_data: tuple[str, ...] = (),
    measure: str = "pass",
    draw: str = "pass",
    passed: bool = True,
) -> Path:
    """Write the file of a claim, and return it."""
    text = CLAIM.format(
        summary=f"Leaves are green ({identity}).",
        package=PACKAGE,
        identity=identity,
        runs=runs,
        full=full,
        full_data=full_data,
        measure=measure,
        draw=draw,
        expected="near 0",
        passed=passed,
    )
    file = work / f"{name}.py"
    file.write_text(text)
    importlib.invalidate_caches()
    return file

"""Claims on deep networks at sizes of seconds: cases, numbers, table and figure fit together."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure

from alignlab.experiments import Claim, Work

SHORT: dict[str, dict[str, Any]] = {
    "chu2024.stability": {
        "sizes": (4, 12, 12, 2), "samples": 3, "lr": 0.02, "steps": 1500, "stop_loss": 1e-9,
        "seeds_dfa": 1, "seeds_bp": 1,
    },
    "chu2024.perturbation": {
        "sizes": (4, 12, 12, 2), "samples": 3, "lr": 0.02, "steps": 1500, "stop_loss": 1e-9,
        "steps_after": 30, "seeds_dfa": 1, "seeds_bp": 1,
    },
    "chu2024.fixed_points": {"steps": 30, "seeds": 1},
    "chu2024.random_walk": {"epochs": 1, "redraws": 5, "seeds": 1, "activations": ("tanh",)},
    "chu2024.high_alignment": {"epochs": 1, "seeds": 1, "activations": ("tanh",)},
    "chu2024.without_alignment": {"epochs": 3, "batch": 400, "seeds": 1},
    "refinetti2021.aligned_start": {"epochs": 1, "seeds": 1, "activations": ("tanh",)},
    "refinetti2021.bottom_to_top": {"epochs": 1, "probes": 4, "seeds": (1, 1)},
    "refinetti2021.label_noise": {"epochs": 1, "probes": 4, "seeds": 1},
    "refinetti2021.convolutions_align_worst": {"epochs": 1, "batch": 200, "seeds": 1},
    "refinetti2021.data_structure": {"epochs": 2, "probes": 3, "seeds": 1},
    "refinetti2021.deep_degeneracy": {"epochs": 1, "batch": 200, "activations": ("relu",)},
    "refinetti2021.degeneracy_on_images": {"epochs": 1, "batch": 200},
    "refinetti2021.order_on_images": {"epochs": 1, "probes": 4, "seeds": 1},
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:This figure includes Axes that are not compatible")
@pytest.mark.parametrize("name", SHORT)
def test_a_short_run_gives_every_check_and_a_figure(name: str, tmp_path: Path) -> None:
    module = import_module(f"alignlab.experiments.{name}")
    (only,) = module.__all__
    claim: Claim = getattr(module, only)()
    setting = {**claim.fast, **SHORT[name]}
    cases = list(claim.cases(setting))
    found = [claim.measure(case, setting, Work(tmp_path)) for case in cases]
    keys = {key: ("run", [case[key] for case in cases]) for key in cases[0]}
    results = xr.concat(found, dim="run").assign_coords(keys)
    checks = claim.checks(results, setting)
    assert len({check.what for check in checks}) == len(checks)
    assert all(check.runs >= 1 and check.expected for check in checks)
    figure = Figure(figsize=(8, 4), layout="constrained")
    claim.draw(results, figure)
    assert figure.axes
    for axes in figure.axes:
        assert axes.get_ylabel() or axes is not figure.axes[0]


@pytest.mark.parametrize("name", ["chu2024.high_alignment", "refinetti2021.bottom_to_top"])
def test_a_case_alone_decides_what_is_measured(name: str, tmp_path: Path) -> None:
    module = import_module(f"alignlab.experiments.{name}")
    claim: Claim = getattr(module, module.__all__[0])()
    setting = {**claim.fast, **SHORT[name]}
    case = claim.cases(setting)[0]
    first, again = (claim.measure(case, setting, Work(tmp_path)) for _ in range(2))
    assert first.identical(again)
    assert all(np.isfinite(v.values).any() for v in first.data_vars.values())

"""What holds of every valid recording: backpropagation and the output layer are exact."""

from __future__ import annotations

import xarray as xr

__all__ = ["assert_exact"]


def assert_exact(recording: xr.Dataset) -> None:
    """Assert that a recording is valid and that what is exact by construction is 1.

    Args:
        recording: Of several rules, ``bp`` among them; the output layer is the last.
    """
    assert recording["measurement_status"].item() == "valid"
    for name in ("cosine_weight_gradient", "cosine_error_signal_flat", "cosine_bias_gradient"):
        assert (abs(recording[name].sel(rule="bp") - 1.0).fillna(0.0) < 1e-9).all()
        assert (abs(recording[name].isel(layer=-1) - 1.0).fillna(0.0) < 1e-6).all()
        assert recording[name].notnull().any()

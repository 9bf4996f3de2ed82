"""Recordings: what measurements leave behind, as a plain :class:`xarray.Dataset` and its files."""

from __future__ import annotations

from alignlab.recording.assembly import assemble
from alignlab.recording.schema import SCHEMA_VERSION, Variable, companions, migrate

__all__ = ["SCHEMA_VERSION", "Variable", "assemble", "companions", "migrate"]

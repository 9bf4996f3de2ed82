"""What holds for every test: no display, few threads, and marks that say what they need."""

from __future__ import annotations

import os
from importlib.util import find_spec

import hypothesis
import pytest

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")

hypothesis.settings.register_profile("alignlab", deadline=None, print_blob=True)
hypothesis.settings.load_profile("alignlab")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, and say why, what this machine cannot run."""
    needs = {"gpu": _no_accelerator, "peers": _no_peers}
    marked = {name for item in items for name in needs if item.get_closest_marker(name)}
    reasons = {name: needs[name]() for name in marked}
    for item in items:
        for name, reason in reasons.items():
            if reason and item.get_closest_marker(name):
                item.add_marker(pytest.mark.skip(reason=reason))


def _no_accelerator() -> str:
    import torch

    return "" if torch.cuda.is_available() else "needs an accelerator"


def _no_peers() -> str:
    return "" if find_spec("biotorch") else "needs biotorch; 'make test' installs it"

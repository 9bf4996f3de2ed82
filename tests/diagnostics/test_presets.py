"""Presets name diagnostics that exist, each once; everything belongs to ``full``."""

from __future__ import annotations

import pytest

from alignlab.diagnostics._presets import PRESETS, chosen
from alignlab.errors import AlignlabError
from alignlab.plugins import names


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_names_diagnostics_that_exist_once_each(preset: str) -> None:
    assert len(set(PRESETS[preset])) == len(PRESETS[preset])
    assert set(PRESETS[preset]) <= set(names("alignlab.diagnostics"))
    assert chosen([], preset) == list(PRESETS[preset])


def test_nothing_asked_for_and_full_are_everything() -> None:
    assert chosen([], None) == chosen([], "full") == names("alignlab.diagnostics")


def test_names_are_added_to_a_preset_once() -> None:
    assert chosen(["reach", "error-signal"], "core") == ["reach", *PRESETS["core"]]


def test_what_does_not_exist_is_named_with_what_does() -> None:
    with pytest.raises(AlignlabError, match="no preset 'everything'; there are core"):
        chosen([], "everything")
    with pytest.raises(AlignlabError, match="no diagnostic 'cosine'"):
        chosen(["cosine"], None)

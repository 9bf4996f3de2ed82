"""Weights into models: all or none, and a difference that says how to mend it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from alignlab.checkpoints import fit, match_names, open_checkpoint
from alignlab.checkpoints._names import rename_all, suggest_renames
from alignlab.errors import CheckpointError, InputError
from tests.checkpoints.nets import cnn, mlp, same, saved, weights


def refusal(path: Path, model: nn.Module, **options: Mapping[str, str]) -> str:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        fit(open_checkpoint(path), model, **options)
    assert same(dict(model.state_dict()), before)
    return str(caught.value)


def zeroed(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    return model


def renamed(tensors: Mapping[str, Tensor], changes: Mapping[str, str]) -> dict[str, Tensor]:
    result = {}
    for name, value in tensors.items():
        for old, new in changes.items():
            name = re.sub(f"^{re.escape(old)}", new, name)  # noqa: PLW2901
        result[name] = value
    return result


@pytest.mark.parametrize("prefix", ["", "module.", "model.net.", "_orig_mod."])
def test_weights_that_fit_are_loaded(tmp_path: Path, prefix: str) -> None:
    content = {prefix + name: value for name, value in weights(cnn()).items()}
    model = zeroed(cnn())
    assert fit(open_checkpoint(saved(tmp_path / "a.pt", content)), model) == ()
    assert same(dict(model.state_dict()), weights(cnn()))


def test_a_prefix_that_belongs_to_the_model_is_put_back(tmp_path: Path) -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = mlp()

    path = saved(tmp_path / "a.pt", {"module." + n: v for n, v in weights(Wrapped()).items()})
    model = Wrapped()
    fit(open_checkpoint(path), zeroed(model))
    assert same(dict(model.state_dict()), weights(Wrapped()))
    assert list(match_names(open_checkpoint(path), model).tensors) == list(weights(model))


def test_a_compiled_model_is_filled_by_plain_names(tmp_path: Path) -> None:
    class Compiled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self._orig_mod = mlp()

    model = Compiled()
    fit(open_checkpoint(saved(tmp_path / "a.pt", weights())), zeroed(model))
    assert same(dict(model._orig_mod.state_dict()), weights())


def test_counters_may_be_absent_and_are_noted(tmp_path: Path) -> None:
    content = {n: v for n, v in weights(cnn()).items() if "num_batches" not in n}
    notes = fit(open_checkpoint(saved(tmp_path / "a.pt", content)), cnn())
    assert notes == ("The file lacks bn1.num_batches_tracked; the model keeps its own.",)


def test_running_statistics_may_not_be_absent(tmp_path: Path) -> None:
    content = {n: v for n, v in weights(cnn()).items() if "running" not in n}
    text = refusal(saved(tmp_path / "a.pt", content), cnn())
    assert "2 missing (9 fit). Likely cause: batch normalisation without stored" in text


def test_tied_weights_may_be_stored_once(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(4, 3)
            self.head = nn.Linear(3, 4, bias=False)
            self.head.weight = self.embed.weight

    content = {"embed.weight": torch.ones(4, 3)}
    model = Tied()
    notes = fit(open_checkpoint(saved(tmp_path / "a.pt", content)), model)
    assert notes == ("head.weight shares its tensor with another name in the model.",)
    assert torch.equal(model.head.weight, torch.ones(4, 3))


def test_other_precision_is_converted_and_noted(tmp_path: Path) -> None:
    content = {name: value.half() for name, value in weights().items()}
    model = mlp()
    notes = fit(open_checkpoint(saved(tmp_path / "a.pt", content)), model)
    assert notes == ("Weights are stored as float16 and were converted.",)
    assert model.fc1.weight.dtype == torch.float32


def test_lazy_layers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has lazy layers.*run one forward pass"):
        fit(open_checkpoint(saved(tmp_path / "a.pt", weights())), nn.LazyLinear(3))


RENAMES: dict[str, tuple[dict[str, str], str]] = {
    "another prefix": ({"": "backbone."}, "--rename backbone="),
    "prefix and part": ({"fc": "body.fc"}, "--rename body="),
    "one layer": ({"fc2": "head"}, "--rename head=fc2"),
    "every layer": ({"fc1": "0", "fc2": "2"}, "--rename 0=fc1 --rename 2=fc2"),
}


@pytest.mark.parametrize("name", RENAMES)
def test_the_rename_that_is_suggested_mends_it(tmp_path: Path, name: str) -> None:
    changes, expected = RENAMES[name]
    path = saved(tmp_path / "a.pt", renamed(weights(), changes))
    text = refusal(path, mlp())
    assert text.splitlines()[0].endswith(f"try {expected}.")
    assert text.splitlines()[-1] == f"  try: {expected}"
    options = dict(re.findall(r"--rename (\S*)=(\S*)", text.splitlines()[-1]))
    model = zeroed(mlp())
    fit(open_checkpoint(path), model, rename=options)
    assert same(dict(model.state_dict()), weights())


def test_a_missing_prefix_is_suggested_with_an_empty_old_part(tmp_path: Path) -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = cnn()

    path = saved(tmp_path / "a.pt", weights(cnn()))
    assert "Likely cause: another prefix; try --rename =body." in refusal(path, Wrapped())
    model = Wrapped()
    fit(open_checkpoint(path), zeroed(model), rename={"": "body"})
    assert same(dict(model.body.state_dict()), weights(cnn()))


def carrier() -> nn.Module:
    model = mlp()
    model.fc2.weight_backward = nn.Parameter(torch.ones(3, 5), requires_grad=False)
    return model


CAUSES: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module], str]] = {
    "classes": (
        lambda: mlp(outputs=100),
        mlp,
        r"2 of another shape \(2 fit\)\. Likely cause: another number of outputs \(classes\); "
        r"build the model with 100 at fc2 instead of 3 \(--model-arg\)\.\n"
        r"  of another shape \(2\): fc2\.weight \(100, 5\) in the file, \(3, 5\) in the model",
    ),
    "inputs": (
        lambda: nn.Conv2d(3, 4, 3),
        lambda: nn.Conv2d(1, 4, 3),
        r"another input; weight takes 3 inputs \(channels or features\) in the file and 1",
    ),
    "widths": (lambda: mlp(hidden=7), mlp, "other widths; build the model with the sizes in the"),
    "architecture": (cnn, mlp, r"Likely cause: another architecture; no tensor has a name"),
    "deeper": (
        lambda: nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 3)),
        lambda: nn.Sequential(nn.Linear(2, 3)),
        "the file holds more than the model",
    ),
    "shallower": (
        lambda: nn.Sequential(nn.Linear(2, 3)),
        lambda: nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 3)),
        "the model has layers that the file lacks",
    ),
    "bias in the model": (
        lambda: nn.Linear(2, 3, bias=False),
        lambda: nn.Linear(2, 3),
        "biases that the file lacks",
    ),
    "bias in the file": (
        lambda: nn.Linear(2, 3),
        lambda: nn.Linear(2, 3, bias=False),
        "biases that the model lacks",
    ),
    "feedback in the model": (
        mlp,
        carrier,
        "the model carries feedback that the file lacks; build the plain network",
    ),
    "pointwise": (
        lambda: nn.Linear(2, 3, bias=False),
        lambda: nn.Conv2d(2, 3, 1, bias=False),
        "linear layers on one side are 1x1 convolutions",
    ),
    "transposed": (
        lambda: nn.Linear(2, 3, bias=False),
        lambda: nn.Linear(3, 2, bias=False),
        "weights stored transposed",
    ),
}


@pytest.mark.parametrize("name", CAUSES)
def test_the_likely_cause_is_told(tmp_path: Path, name: str) -> None:
    stored, wanted, expected = CAUSES[name]
    text = refusal(saved(tmp_path / "a.pt", weights(stored())), wanted())
    assert re.search(expected, text), text


def test_long_differences_are_cut(tmp_path: Path) -> None:
    deep = nn.Sequential(*(nn.Linear(2, 2) for _ in range(40)))
    text = refusal(saved(tmp_path / "a.pt", weights(nn.Linear(2, 2))), deep)
    assert "missing from the file (80): 0.weight (2, 2), " in text
    assert "and 76 more" in text
    assert len(text.splitlines()) < 6
    assert max(map(len, text.splitlines())) < 300


def test_an_unclaimed_feedback_tensor_is_pointed_out(tmp_path: Path) -> None:
    content = {**weights(), "feedback_fc1": torch.ones(3, 5)}
    text = refusal(saved(tmp_path / "a.pt", content), mlp())
    assert "sounds like feedback; name it with --feedback LAYER=feedback_fc1" in text


def test_renames_that_fit_nothing_or_collide_are_refused(tmp_path: Path) -> None:
    opened = open_checkpoint(saved(tmp_path / "a.pt", weights()))
    with pytest.raises(InputError, match=r"--rename fd1=x fits no name in the file; nearest: fc1"):
        fit(opened, mlp(), rename={"fd1": "x"})
    with pytest.raises(InputError, match=r"gives two tensors the name fc2\.weight"):
        fit(opened, mlp(), rename={"fc1": "fc2"})


@given(
    names=st.lists(st.sampled_from([f"{a}.{b}.weight" for a in "abc" for b in "012"]), unique=True),
    new=st.sampled_from(["", "x", "x.y", "x."]),
)
def test_a_rename_touches_only_what_begins_with_it(names: list[str], new: str) -> None:
    names = [*names, "a.9.weight"]
    for old, changed in rename_all(names, {"a": new}).items():
        assert changed == old if not old.startswith("a.") else changed.endswith(old[2:])


@given(st.permutations(range(4)), st.sampled_from(["", "net."]))
def test_suggested_renames_lead_to_missing_names_of_equal_shape(order: list[int], put: str) -> None:
    given_shapes = {f"old.layer{i}.weight": (i + 1, 2) for i in order}
    missing = {f"{put}layer{i}.weight": (i + 1, 2) for i in range(4)}
    found = suggest_renames(missing, given_shapes, ())
    moved = rename_all(list(given_shapes), found)
    assert {new: given_shapes[old] for old, new in moved.items()} == missing


def test_suggestions_never_touch_names_that_fit() -> None:
    shapes = {"body.a.weight": (2, 2)}
    assert "body" not in suggest_renames({"neck.a.weight": (2, 2)}, shapes, ["body.b.weight"])

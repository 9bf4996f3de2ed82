"""Numbers in sentences, looked up again in the recording that they are said to come from."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import xarray as xr

NUMBER = r"(-?\d[\d,]*(?:\.\d+)?(?:e[+-]\d+)?)"
NOUNS = {
    "error signal at the entry": ("cosine_error_signal", "entry"),
    "weight gradient": ("cosine_weight_gradient", ""),
}
STATUSES = "useful|detectable|opposed|at chance|undecidable|undefined"


def rounded(text: str, value: float) -> bool:
    """Return whether a text is a number rounded to the digits that it shows.

    Example:
        >>> rounded("0.34", 0.3449), rounded("0.34", 0.3451), rounded("1.2e-05", 1.24e-5)
        (True, False, True)
    """
    mantissa, _, exponent = text.replace(",", "").partition("e")
    digits = len(mantissa.partition(".")[2])
    half = 0.5 * 10.0 ** (int(exponent or 0) - digits)
    return abs(float(text.replace(",", "")) - value) <= half * (1.0 + 1e-6)


@dataclass
class Claims:
    """One sentence, from which every number is taken that the recording confirms.

    Attributes:
        ds: Recording of one step.
        rest: What of the sentence is still without support.
        rule: Rule that the sentence is about.
    """

    ds: xr.Dataset
    rest: str
    rule: str = ""

    def __post_init__(self) -> None:
        labels = sorted(map(str, self.ds["rule"].values), key=len, reverse=True)
        self.rule = next((label for label in labels if re.search(rf"\b{label}\b", self.rest)), "")
        names = sorted(map(str, self.ds["layer"].values), key=len, reverse=True)
        self.layer = "(" + "|".join(map(re.escape, names)) + ")"

    def number(self, name: str, layer: str = "", site: str = "") -> float:
        if name not in self.ds:
            return math.nan
        place = {"rule": self.rule, "layer": layer, "site": site}
        array = self.ds[name]
        return float(array.sel({dim: place[str(dim)] for dim in array.dims}).item())

    def confirm(self, pattern: str, values: Callable[..., Iterator[float]]) -> int:
        """Take out what matches, if its numbers are those of the recording; count matches."""
        pattern = pattern.replace("NUM", NUMBER).replace("LAYER", self.layer)
        count = 0

        def once(match: re.Match[str]) -> str:
            nonlocal count
            count += 1
            shown = [part for part in match.groups() if re.fullmatch(NUMBER, part)]
            words = [part for part in match.groups() if not re.fullmatch(NUMBER, part)]
            expected = list(values(*words))
            assert len(shown) == len(expected), match.group(0)
            for text, value in zip(shown, expected, strict=True):
                assert rounded(text, value), f"{match.group(0)}: {text} is not {value}"
            return " "

        self.rest = re.sub(pattern, once, self.rest)
        return count


def confirmed(ds: xr.Dataset, sentence: str) -> str:
    """Return what numbers of a sentence the recording does not confirm; empty for none.

    Raises:
        AssertionError: A number is another than the recording's.
    """
    claims = Claims(ds, sentence)
    for check in (_performance, _observed, _potential, _width, _convolutions, _loss, _drawn):
        check(claims)
    left = claims.rest.replace(claims.rule, "")
    left = re.sub(claims.layer, "", left)
    return left if re.search(r"\d", left) else ""


def _performance(c: Claims) -> None:
    data = re.escape(str(c.ds.attrs["data"]))
    c.confirm(
        rf"On these NUM samples of {data} the loss \(cross-entropy\) is NUM and the accuracy NUM "
        r"\(chance NUM\)",
        lambda: iter(
            [c.ds.attrs["n_samples"], *map(c.number, ("loss", "accuracy", "accuracy_chance"))]
        ),
    )
    c.confirm(
        r"relative error NUM; its weakest signal is NUM times the rounding floor",
        lambda: iter(
            [c.number("reference_check_error"), float(c.ds["reference_floor_ratio"].min())]
        ),
    )
    c.confirm(r"\(2024\)", lambda: iter(()))
    c.confirm("here the loss is NUM", lambda: iter([c.number("loss")]))


def _observed(c: Claims) -> None:
    def alignment(variable: str, site: str, layer: str) -> list[float]:
        names = ("", "_null_low", "_null_high")
        return [c.number(variable + name, layer, site) for name in names]

    def apart(layer: str, p: str) -> Iterator[float]:
        yield c.number("cosine_weight_gradient", layer)
        yield from alignment("cosine_weight_gradient_debiased", "", layer)
        yield from _p(c, "cosine_weight_gradient_debiased", layer, p=p)

    band = r"LAYER: cosine NUM, chance NUM to NUM, p (<?)\s?NUM"
    c.confirm(rf"NUM on the same samples, {band}", apart)
    for noun, (variable, site) in NOUNS.items():
        if f"{noun} is" not in c.rest:
            continue

        def each(layer: str, p: str, v: str = variable, s: str = site) -> Iterator[float]:
            yield from alignment(v, s, layer)
            yield from _p(c, v, layer, s, p=p)

        hidden = [str(n) for n in c.ds["layer"].values[~c.ds["is_output"].values]]
        found = [_text(c, f"{variable}_status", layer, site) for layer in hidden]
        for status in re.findall(rf"({STATUSES}) in \d", c.rest):
            members = [n for n, held in zip(hidden, found, strict=True) if held == status]
            listed = re.search(rf"{status} in \d+[^(]*\(([^)]*)\)", c.rest)
            assert listed is not None
            assert re.findall(c.layer + ": cosine", listed[1]) == members
        c.confirm(band, each)
        c.confirm(rf"({STATUSES}) in NUM of NUM hidden layers", _counts(found, len(hidden)))
        c.confirm(rf"({STATUSES}) in NUM", _counts(found, None))


def _counts(found: list[str], total: int | None) -> Callable[..., Iterator[float]]:
    def counts(status: str) -> Iterator[float]:
        yield found.count(status)
        if total is not None:
            yield total

    return counts


def _p(c: Claims, variable: str, layer: str, site: str = "", *, p: str) -> Iterator[float]:
    value = c.number(f"{variable}_p", layer, site)
    assert (value < 1e-4) == bool(p)
    yield 1e-4 if p else value


def _text(c: Claims, name: str, layer: str, site: str) -> str:
    place = {"rule": c.rule, "layer": layer, "site": site}
    return str(c.ds[name].sel({d: place[str(d)] for d in c.ds[name].dims}).item())


def _root(value: float) -> float:
    return math.sqrt(max(value, 0.0))


def _potential(c: Claims) -> None:
    def bracket(layer: str) -> Iterator[float]:
        high = _root(c.number("reach_in_sample", layer, "entry"))
        yield min(_root(c.number("reach_held_out", layer, "entry")), high)
        yield high

    c.confirm(r"NUM \(held out\) and NUM \(in sample\) at LAYER", bracket)
    verdict = re.search(rf"{c.layer} is (?:limited|undecided)", c.rest)
    if verdict:
        c.confirm(
            r"between NUM \(held out\) and NUM \(in sample\), threshold 0\.50",
            lambda: bracket(verdict[1]),
        )
    c.confirm(
        "rank NUM and NUM effective dimensions",
        lambda: iter([c.number("error_rank"), c.number("participation_ratio_error")]),
    )
    names = ("participation_ratio_true_signal", "participation_ratio_true_signal_chance")
    c.confirm(
        r"LAYER NUM \(isotropic NUM\)",
        lambda layer: iter([c.number(name, layer, "entry") for name in names]),
    )


def _width(c: Claims) -> None:
    below = [str(n) for n in c.ds["layer"].values if c.number("narrowest_width_above", str(n)) > 0]
    bounds = {n: c.number("width_bound", n) for n in below} if c.rule else {}
    c.confirm(
        r"limits the NUM layers? below one: the lowest width bound is NUM",
        lambda: iter([len(bounds), min(bounds.values())]),
    )
    if "limits the cosine of" not in c.rest:
        return
    c.confirm("width >= NUM removes", lambda: iter([c.number("error_rank")]))
    c.confirm(
        r"LAYER \(width NUM, NUM classes\) limits",
        lambda layer: iter([_narrow(c, layer, below), c.ds.attrs["n_classes"]]),
    )
    c.confirm("LAYER to NUM", lambda layer: iter([bounds[layer]]))


def _narrow(c: Claims, layer: str, below: list[str]) -> float:
    """Return the width that a layer is said to have, where it is the narrowest above another."""
    limited = [n for n in below if _text(c, "narrowest_layer_above", n, "") == layer]
    return min(c.number("narrowest_width_above", name) for name in limited)


def _convolutions(c: Claims) -> None:
    flat = "cosine_error_signal_flat"
    names = ("attainable_share", flat, "attainable_cosine", f"{flat}_null_low", f"{flat}_null_high")
    c.confirm(
        r"NUM at LAYER \(cosine NUM of NUM, chance NUM to NUM\)",
        lambda layer: iter([c.number(name, layer, "entry") for name in names]),
    )
    found = re.search(rf"{c.layer} is (limited by its ([^:]*)|undecided)", c.rest)
    if not found:
        return
    layer = found[1]
    _judged(c, layer, set(re.split(r", | and ", found[3] or "")) - {""})
    at = {name: (lambda n=name: iter([c.number(n, layer, "entry")])) for name in names}
    c.confirm(r"attain at most a cosine of NUM, threshold 0\.50", at["attainable_cosine"])
    c.confirm(
        r"reached NUM of the attainable cosine NUM, threshold 0\.50",
        lambda: iter([c.number(name, layer, "entry") for name in names[::2][:2]]),
    )
    c.confirm(
        "coherence is NUM against NUM of backpropagation, chance NUM",
        lambda: iter(
            [c.number(n, layer) for n in ("coherence", "coherence_true", "coherence_chance")]
        ),
    )
    c.confirm(r"(?:\d|none) of 3 criteria (?:being open|fires)", lambda: iter(()))


def _judged(c: Claims, layer: str, said: set[str]) -> None:
    """Hold a verdict against the thresholds of the three hypotheses, written again."""
    own, true, chance = (
        c.number(name, layer) for name in ("coherence", "coherence_true", "coherence_chance")
    )
    attainable, share, reach = (
        c.number(name, layer, "entry")
        for name in ("attainable_cosine", "attainable_share", "reach_in_sample")
    )
    expected = {
        "feedback side": _root(reach) < 0.5,
        "weight side": attainable < 0.5 or share < 0.5,
        "coherence": own <= 1.5 * chance and true >= 2.0 * own,
    }
    assert said == {side for side, holds in expected.items() if holds}


def _loss(c: Claims) -> None:
    signs = {"lowers": -1.0, "raises": 1.0}

    def changes(verb: str, other: str) -> Iterator[float]:
        yield c.number("loss_change_step")
        yield signs[verb] * c.number("loss_change_actual")
        yield c.number("loss_change_first_order")
        yield signs[other] * c.number("loss_change_actual_true")

    c.confirm(
        rf"step \(NUM\) along the update of {re.escape(c.rule)} (\w+) the loss by NUM "
        r"\(first order NUM\); one along the true gradient (\w+) the loss by NUM",
        changes,
    )


def _drawn(c: Claims) -> None:
    c.confirm("drawn NUM times", lambda: iter([c.ds.attrs["draws"]]))
    edges = ("", "_low", "_high")
    c.confirm(
        r"NUM \(NUM to NUM\) at LAYER",
        lambda layer: iter([c.number(f"attainable_cosine{e}", layer, "entry") for e in edges]),
    )
    c.confirm(
        r"NUM at LAYER \(width NUM\)",
        lambda layer: iter([c.number("signal_rank", layer), c.number("entry_width", layer)]),
    )
    if "alignment matrices" in c.rest:
        c.confirm("NUM to NUM at LAYER", lambda layer: _smallest(c, layer))
    names = [f"cosine_error_signal_null_{edge}" for edge in ("low", "high")]
    c.confirm(
        "NUM to NUM at LAYER", lambda layer: iter([c.number(n, layer, "entry") for n in names])
    )


def _smallest(c: Claims, layer: str) -> Iterator[float]:
    for edge in ("low", "high"):
        array = c.ds[f"alignment_matrix_singular_value_{edge}"].sel(rule=c.rule, layer=layer)
        yield float(array.dropna("singular_value").values[-1])

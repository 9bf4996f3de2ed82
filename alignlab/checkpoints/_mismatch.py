"""How a checkpoint differs from a model, told so that it can be mended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from alignlab.checkpoints._feedback import is_feedback_key
from alignlab.checkpoints._names import suggest_renames

__all__ = ["Mismatch"]

_SHOWN = 4
Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Mismatch:
    """Differences in names and shapes; false where there are none.

    Attributes:
        missing: Shapes that the model needs and the file lacks.
        unexpected: Shapes that the file has and the model does not.
        reshaped: Shapes in the file and in the model, where the names agree.
        fitting: Names whose shapes agree.
    """

    missing: Mapping[str, Shape]
    unexpected: Mapping[str, Shape]
    reshaped: Mapping[str, tuple[Shape, Shape]]
    fitting: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.reshaped)

    def text(self) -> str:
        """Return a summary on one line, then the differences and the renames that would help."""
        renames = suggest_renames(self.missing, self.unexpected, (*self.fitting, *self.reshaped))
        counts = [
            f"{len(held)} {word}"
            for held, word in (
                (self.missing, "missing"),
                (self.unexpected, "unexpected"),
                (self.reshaped, "of another shape"),
            )
            if held
        ]
        lines = [f"{', '.join(counts)} ({len(self.fitting)} fit). {self._cause(renames)}"]
        lines += _listed("missing from the file", self.missing)
        lines += _listed("not in the model", self.unexpected)
        shapes = {
            name: f"{stored} in the file, {wanted} in the model"
            for name, (stored, wanted) in self.reshaped.items()
        }
        lines += _listed("of another shape", shapes)
        if renames:
            options = " ".join(f"--rename {old}={new}" for old, new in renames.items())
            lines.append(f"  try: {options}")
        return "\n".join(lines)

    def _cause(self, renames: Mapping[str, str]) -> str:
        """Return the likely cause and what to do, one sentence or two."""
        if renames and not self.reshaped:
            word = "prefix" if len(renames) == 1 else "names"
            options = " ".join(f"--rename {old}={new}" for old, new in list(renames.items())[:3])
            more = " ..." if len(renames) > 3 else ""
            return f"Likely cause: another {word}; try {options}{more}."
        told = [name for name in self.unexpected if _sounds_like_feedback(name)]
        if told and not self.missing and not self.reshaped:
            return f"{told[0]} sounds like feedback; name it with --feedback LAYER={told[0]}."
        if self.reshaped:
            return f"Likely cause: {self._shape_cause()}."
        return f"Likely cause: {self._absence_cause()}."

    def _shape_cause(self) -> str:
        pairs = list(self.reshaped.values())
        matrices = [(a, b) for a, b in pairs if len(a) > 1]
        names = list(self.reshaped)
        stored, wanted = pairs[0]
        one_layer = len({name.rpartition(".")[0] for name in names}) == 1
        if matrices and all(a[::-1] == b for a, b in matrices):
            return "weights stored transposed (TensorFlow, JAX or Conv1D)"
        if all((*a, 1, 1) == b or (*b, 1, 1) == a for a, b in pairs):
            return "linear layers on one side are 1x1 convolutions on the other"
        if one_layer and all(a[1:] == b[1:] for a, b in pairs):
            return (
                f"another number of outputs (classes); build the model with {stored[0]} at "
                f"{names[0].rpartition('.')[0]} instead of {wanted[0]} (--model-arg)"
            )
        if len(pairs) == 1 and (*stored[:1], *stored[2:]) == (*wanted[:1], *wanted[2:]):
            return (
                f"another input; {names[0]} takes {stored[1]} inputs (channels or features) in "
                f"the file and {wanted[1]} in the model"
            )
        if self.missing or self.unexpected:
            return "another architecture; build the model that was trained"
        return "other widths; build the model with the sizes in the file"

    def _absence_cause(self) -> str:
        missing = {name.rpartition(".")[2] for name in self.missing}
        unexpected = {name.rpartition(".")[2] for name in self.unexpected}
        both = missing | unexpected
        known = (
            (
                self.missing and all(map(is_feedback_key, self.missing)) and not unexpected,
                "the model carries feedback that the file lacks; build the plain network",
            ),
            (not self.fitting, "another architecture; no tensor has a name that the model has"),
            (both & {"weight_g", "original0"}, "weight normalisation on one side only"),
            (both == {"bias"} and not unexpected, "the model has biases that the file lacks"),
            (both == {"bias"} and not missing, "the file has biases that the model lacks"),
            (
                both <= {"running_mean", "running_var"} and not unexpected,
                "batch normalisation without stored statistics",
            ),
            (not missing, "the file holds more than the model; build all of it"),
            (not unexpected, "the model has layers that the file lacks"),
        )
        causes = [cause for applies, cause in known if applies]
        return (causes or ["another architecture; build the model that was trained"])[0]


def _sounds_like_feedback(name: str) -> bool:
    return any(word in name.lower() for word in ("feedback", "backward", "_fb", "fb_", "_fa"))


def _listed(title: str, held: Mapping[str, object]) -> list[str]:
    """Return a line with the first few entries of one kind and how many more there are."""
    if not held:
        return []
    shown = [f"{name} {value}" for name, value in list(held.items())[:_SHOWN]]
    more = f", and {len(held) - _SHOWN} more" if len(held) > _SHOWN else ""
    return [f"  {title} ({len(held)}): {', '.join(shown)}{more}"]

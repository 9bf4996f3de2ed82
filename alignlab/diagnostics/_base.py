"""What a diagnostic is, and the readings that it returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from torch import Tensor

from alignlab.recording.schema import Variable

if TYPE_CHECKING:
    from alignlab.layer_view import LayerView
    from alignlab.snapshot import Snapshot

__all__ = [
    "Adjoint",
    "AlignmentDiagnostic",
    "Comparison",
    "Diagnostic",
    "Key",
    "NotDefined",
    "Reading",
    "SnapshotDiagnostic",
    "Value",
    "Variable",
]

Value = Tensor | np.ndarray | float | str
Key = tuple[str, str]
"""Name of a variable and site ("" where it has none)."""


@dataclass(frozen=True)
class Reading:
    """One number, text or vector of a recording and where in it it belongs.

    Attributes:
        name: Variable, or companion of an alignment.
        value: A scalar, a text, or a vector along the variable's last dimension.
        rule: Label of the rule; empty where the variable has none.
        layer: Name of the layer; empty where the variable has none.
        site: Site; empty where the variable has none.
    """

    name: str
    value: Value
    rule: str = ""
    layer: str = ""
    site: str = ""


@dataclass(frozen=True)
class NotDefined:
    """Why a diagnostic says nothing of a layer.

    Attributes:
        because: A clause that goes on after "because".
        rule: Label of the rule for which it says nothing; empty for all.
        layer: Name of the layer; empty for the whole network.
    """

    because: str
    rule: str = ""
    layer: str = ""


@dataclass(frozen=True)
class Comparison:
    """One statistic of an approximate signal against the true one.

    Attributes:
        value: The statistic, scalar; NaN where it is undefined.
        energy: What the statistic divides by, squared: mostly the squared norm of what was
            compared; a scalar, or one per sample. Its spread over redraws tells whether a
            first-order chance level may be used.
        undefined: How many samples had no direction, scalar.
    """

    value: Tensor
    energy: Tensor
    undefined: Tensor


@dataclass(frozen=True)
class Adjoint:
    r"""A tensor T of products :math:`\langle T_i, B e_i\rangle` with what enters at a layer.

    Attributes:
        rows: T in the shape of the entry with its samples; with one sample, which is that of all.
            Of a size of about one, so that products do not vanish in float32.
        factors: By which every sample is multiplied, shape ``(n_samples,)``; None for 1.
        is_counted: Whether the statistic is the share of samples with a positive product, in
            place of the sum of the products.
    """

    rows: Tensor
    factors: Tensor | None = None
    is_counted: bool = False


class Diagnostic(ABC):
    """Named, dimensioned numbers of one probing.

    Attributes:
        variables: What it records.
        cost: About how many training steps it takes, per rule.
        coords: Labels along dimensions of its own.
    """

    variables: ClassVar[tuple[Variable, ...]]
    cost: ClassVar[float]
    coords: ClassVar[Mapping[str, Sequence[float]]] = MappingProxyType({})


class AlignmentDiagnostic(Diagnostic):
    """Compares true and approximate signals layer by layer; its chance level is made for it.

    Attributes:
        max_draws: Most redraws that its chance level is worth.
        without_value: Why a layer that it compares can have no value all the same, a clause;
            empty where that is not told.
    """

    max_draws: ClassVar[int] = 1_000_000
    without_value: ClassVar[str] = ""

    @abstractmethod
    def compare(self, true: LayerView, approximate: LayerView) -> Mapping[Key, Comparison]:
        """Return the alignments of one layer.

        Args:
            true: The layer under backpropagation.
            approximate: The layer under the rule, or under a redraw of its feedback.
        """

    def energies(self, true: LayerView, approximate: LayerView) -> Mapping[Key, Tensor]:
        """Return the energies of ``compare`` alone, for redraws of which no value is needed."""
        return {key: found.energy for key, found in self.compare(true, approximate).items()}

    def compare_together(
        self, true: Mapping[str, LayerView], approximate: Mapping[str, LayerView]
    ) -> Mapping[Key, Comparison]:
        """Return the alignments of the whole network; most have none.

        Args:
            true: All layers under backpropagation, by name.
            approximate: Those that the rule gives, under the rule or under a redraw: a layer whose
                gradient is exact by construction is drawn by no chance.
        """
        del true, approximate
        return {}

    def adjoints(self, true: LayerView, energies: Mapping[Key, Tensor]) -> Mapping[Key, Adjoint]:
        r"""Return, where they exist, tensors T with statistic = <E B^T, T> to first order.

        Args:
            true: The layer under backpropagation.
            energies: Mean energy over redraws, by statistic.

        Returns:
            T by statistic; the statistics that are left out have no closed form. Rows of samples
            without a direction count as zero.
        """
        del true, energies
        return {}

    def undefined(self, true: LayerView, approximate: LayerView) -> str:
        """Return why it compares nothing at a layer, a clause; empty where it does."""
        del true, approximate
        return ""

    def describe(self, true: LayerView, approximate: LayerView) -> Iterator[Reading]:
        """Yield what is recorded beside the alignments, without rule and layer."""
        del true, approximate
        yield from ()

    def describe_together(
        self, true: Mapping[str, LayerView], approximate: Mapping[str, LayerView]
    ) -> Iterator[Reading]:
        """Yield what is recorded beside those of the whole network, without rule."""
        del true, approximate
        yield from ()


class SnapshotDiagnostic(Diagnostic):
    """Reads a whole snapshot."""

    @abstractmethod
    def measure(self, snapshot: Snapshot) -> Iterator[Reading | NotDefined]:
        """Yield the readings of a snapshot, and why there is none where there is none."""

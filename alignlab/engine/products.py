"""Where in the autograd graph weights act: products of a tensor with a weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from alignlab.engine.graph import walk
from alignlab.engine.modules import plain_name
from alignlab.errors import MeasurementError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from alignlab.engine.attach import Call
    from alignlab.engine.swap import WeightSwap

__all__ = [
    "Use",
    "frozen_uses",
    "other_uses",
    "refuse_hidden_weights",
    "refuse_weights_above",
    "use_in",
]

_PAIR = {0: "_saved_self", 1: "_saved_mat2"}
_BATCHES = {1: "_saved_batch1", 2: "_saved_batch2"}
_WEIGHTS = {k + 1: f"_saved_weight{k}" for k in range(4)}

PRODUCTS: dict[str, dict[int, str]] = {
    "Mm": _PAIR,
    "Bmm": _PAIR,
    "Addmm": {1: "_saved_mat1", 2: "_saved_mat2"},
    "Baddbmm": _BATCHES,
    "Addbmm": _BATCHES,
    "Mv": {0: "_saved_self", 1: "_saved_vec"},
    "Addmv": {1: "_saved_mat", 2: "_saved_vec"},
    "Dot": {0: "_saved_self", 1: "_saved_tensor"},
    "Convolution": {0: "_saved_input", 1: "_saved_weight"},
    "Trilinear": {0: "_saved_i1", 1: "_saved_i2", 2: "_saved_i3"},
    "MkldnnRnnLayer": {0: "_saved_input", **_WEIGHTS, 5: "_saved_hx_", 6: "_saved_cx_"},
}
"""Operations that multiply tensors: by operand, the attribute that holds it for the backward."""

_OPAQUE = frozenset(
    {
        *("ScaledDotProductFlashAttentionForCpu", "ScaledDotProductFlashAttention"),
        *("ScaledDotProductEfficientAttention", "ScaledDotProductCudnnAttention"),
        *("ScaledDotProductFusedAttentionOverrideable", "EfficientAttention", "FlashAttention"),
        *("Cdist", "CdistForward", "ScaledMm", "GroupedMm", "ScaledGroupedMm", "MkldnnLinear"),
        *("Linear", "SparseAddmm", "SparseMm", "LinalgSolveEx", "LinalgLuSolve"),
        *("TriangularSolve", "LinalgSolveTriangular"),
    }
)
"""Operations that compute more of their operands in the backward than a product."""

_RECURRENT = frozenset({"CudnnRnn", "MiopenRnn", "MpsLstm"})
"""Operations that keep their weights in a buffer of their own."""

_VIEWS = frozenset(
    {
        *("T", "Transpose", "Permute", "View", "UnsafeView", "ReshapeAlias", "Expand", "Alias"),
        *("ToCopy", "Unsqueeze", "Squeeze", "Slice", "Select", "AsStrided", "Clone", "Narrow"),
        *("Split", "UnsafeSplit", "SplitWithSizes", "UnsafeSplitWithSizes", "Unbind", "Chunk"),
        *("Detach", "Movedim", "Swapaxes", "Contiguous", "Flatten", "Unflatten", "Diagonal"),
    }
)
_LOOKUPS = frozenset({"Embedding", "EmbeddingBag", "Index", "IndexSelect", "Gather"})


@dataclass(frozen=True)
class Use:
    """One product in which a weight acts.

    Attributes:
        owner: Name of the weight: that of the measured module, or of the parameter.
        node: Autograd node of the product.
        attribute: Where the node keeps the weight.
        edge: Gradient edge of the operand; None where it has no gradient.
        is_turned: Whether the operand is the transpose of the weight, in measured modules.
    """

    owner: str
    node: Any
    attribute: str
    edge: GradientEdge | None
    is_turned: bool = False

    def operand(self, saved: Tensor, weight: Tensor) -> Tensor:
        """Return what the product would have kept of another weight.

        The operand is a view or a copy of the weight, perhaps in another floating type; the
        way from the one to the other is linear, and is taken from the graph.

        Args:
            saved: What it kept of the forward weight.
            weight: The other weight.
        """
        if self.edge is None:
            return (weight.t() if self.is_turned else weight).to(saved).reshape(saved.shape)
        origin = traced(self.edge)
        if origin.node is self.edge.node:
            return weight.to(saved)
        source: Any = getattr(origin.node, "variable", origin)
        with torch.enable_grad():
            argument = torch.zeros_like(saved).requires_grad_()
            (image,) = torch.autograd.grad([self.edge], [source], [argument], create_graph=True)
            (result,) = torch.autograd.grad(image, [argument], [weight.to(image)])
        return result.detach()


def operation(node: Any) -> str:
    """Return the name of a node's operation, such as ``Addmm`` for ``AddmmBackward0``."""
    return type(node).__name__.partition("Backward")[0]


def use_in(call: Call) -> Use | None:
    """Return the product in which a measured module's weight acts; None where it is not found."""
    node: Any = call.output_edge.node
    # A bias that is added afterwards is the second term.
    while node is not None and (operation(node) in _VIEWS or operation(node) == "Add"):
        node = node.next_functions[0][0]
    index = {"Addmm": 2, "Mm": 1, "Bmm": 1, "Convolution": 1}.get(operation(node))
    if index is None:
        return None
    attribute = PRODUCTS[operation(node)][index]
    is_turned = isinstance(call.module, nn.Linear)
    return Use(call.module_name, node, attribute, _edge(node, index), is_turned)


def other_uses(start: Any, calls: Sequence[Call], model: nn.Module) -> list[Use]:
    """Return the products outside of measured calls in which parameters act as weights.

    Args:
        start: Autograd node of the loss.
        calls: Measured calls.
        model: The model, for the names of its parameters.
    """
    names = {id(p): plain_name(name) for name, p in model.named_parameters()}
    found = []
    for node in _outside(start, calls):
        for index, attribute in PRODUCTS.get(operation(node), {}).items():
            edge = _edge(node, index)
            leaf = None if edge is None else getattr(traced(edge).node, "variable", None)
            if leaf is not None and leaf.dim() > 1 and id(leaf) in names:
                found.append(Use(names[id(leaf)], node, attribute, edge))
    return found


def frozen_uses(
    start: Any, calls: Sequence[Call], model: nn.Module, swap: WeightSwap
) -> tuple[list[Use], str]:
    """Return the products outside of measured calls in which frozen parameters act as weights.

    They have no place in the graph; what tells them is what the products kept.

    Args:
        start: Autograd node of the loss.
        calls: Measured calls.
        model: The model.
        swap: The exchange under which the forward pass ran.

    Returns:
        The products, and why there may be more of them; empty where there are not.
    """
    frozen = {
        plain_name(name): p
        for name, p in model.named_parameters()
        if not p.requires_grad and p.dim() > 1
    }
    own = {id(p) for call in calls for p in call.module.parameters()} if frozen else set()
    frozen = {name: p for name, p in frozen.items() if id(p) not in own}
    found: list[Use] = []
    doubt = ""
    for node in _outside(start, calls) if frozen else ():
        for index, attribute in PRODUCTS.get(operation(node), {}).items():
            if _edge(node, index) is not None:
                continue
            try:
                saved = swap.saved_at(node, attribute)
            except MeasurementError as error:
                doubt = str(error)
                continue
            if saved is not None and saved.owner in frozen:
                found.append(Use(saved.owner, node, attribute, None))
            elif saved is not None:
                doubt = doubt or _possible_copy(saved.tensor, frozen, operation(node))
    return found, doubt


def _possible_copy(tensor: Tensor, frozen: Mapping[str, Tensor], kind: str) -> str:
    """Return why a tensor may be a copy of a frozen parameter in another floating type."""
    alike = [
        name
        for name, p in frozen.items()
        if p.numel() == tensor.numel() and p.dtype != tensor.dtype
    ]
    return _not_replaceable(alike[0], kind) if alike else ""


def _outside(start: Any, calls: Sequence[Call]) -> Iterator[Any]:
    """Yield the nodes outside of measured calls, and of what computes their weights."""
    inside = {call.output_edge.node: call.input_edge for call in calls}
    seen, stack = {start}, [start]
    while stack:
        node = stack.pop()
        if node in inside:
            edge = inside[node]
            below = [] if edge is None else [edge.node]
        else:
            yield node
            below = [following for following, _ in node.next_functions]
        for following in below:
            if following is not None and following not in seen:
                seen.add(following)
                stack.append(following)


def refuse_weights_above(start: Any, calls: Sequence[Call], model: nn.Module) -> None:
    """Refuse weights between the loss and the last layers: the error would not be seen.

    Args:
        start: Autograd node of the loss.
        calls: Measured calls.
        model: The model, for the names of its parameters.

    Raises:
        MeasurementError: Names the first such parameter.
    """
    above = set(walk(start, {call.output_edge.node for call in calls}))
    for use in other_uses(start, calls, model):
        if use.node in above:
            msg = (
                f"The parameter {use.owner!r} acts as a weight behind the last measured layer, so "
                "the error at the output is not seen; put it into a Linear or convolution "
                "module (--plain-model SPEC)."
            )
            raise MeasurementError(msg)


def refuse_hidden_weights(start: Any, calls: Sequence[Call], model: nn.Module) -> None:
    """Refuse graphs in which a weight acts that no exchange can replace.

    Args:
        start: Autograd node of the loss.
        calls: Measured calls.
        model: The model, for the names of its parameters.

    Raises:
        MeasurementError: Names the operation and a parameter.
    """
    names = {id(p): plain_name(name) for name, p in model.named_parameters()}
    known = {use.node for use in other_uses(start, calls, model)}
    activations = {call.output_edge.node for call in calls} | known
    for node in _outside(start, calls):
        kind = operation(node)
        if kind in _RECURRENT:
            msg = (
                f"The weights of {kind} are kept in a buffer of its own and cannot be replaced; "
                "run the model on the CPU or without that kernel "
                "(torch.backends.cudnn.flags(enabled=False))."
            )
            raise MeasurementError(msg)
        if node in known or not (kind in PRODUCTS or kind in _OPAQUE):
            continue
        for following, _ in node.next_functions:
            leaf = None if following is None else _weight_behind(following, activations, names)
            if leaf is not None:
                raise MeasurementError(_not_replaceable(names[id(leaf)], kind))


def _not_replaceable(name: str, kind: str) -> str:
    return (
        f"The parameter {name!r} acts as a weight in {kind} in another form than its own and "
        "cannot be replaced there; a rule that replaces weights needs a plain product with the "
        "parameter (direct feedback does not)."
    )


def _weight_behind(start: Any, activations: set[Any], names: dict[int, str]) -> Tensor | None:
    """Return a parameter from which an operand is computed, unless an activation is in it too."""
    leaves = []
    for node in walk(start, activations):
        if node in activations or operation(node) in _LOOKUPS:
            return None
        leaf = getattr(node, "variable", None)
        if leaf is not None and leaf.dim() > 1 and id(leaf) in names:
            leaves.append(leaf)
    return next(iter(leaves), None)


def _edge(node: Any, index: int) -> GradientEdge | None:
    following, number = node.next_functions[index]
    return None if following is None else GradientEdge(following, number)


def traced(edge: GradientEdge) -> GradientEdge:
    """Return the edge of the tensor of which an operand is a view or a copy."""
    node, number = edge.node, edge.output_nr
    while operation(node) in _VIEWS and len(node.next_functions) == 1:
        following, number_below = node.next_functions[0]
        if following is None:
            break
        node, number = following, number_below
    return GradientEdge(node, number)

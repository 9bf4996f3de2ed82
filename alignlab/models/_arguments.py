"""What sizes a network can be built with; every refusal is one line."""

from __future__ import annotations

from collections.abc import Sequence

from alignlab.errors import InputError

__all__ = ["convolved", "fraction", "margin", "positive", "sizes"]


def positive(value: object, name: str) -> int:
    """Return a whole number of at least one.

    Example:
        >>> positive(3, "classes")
        3
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        message = f"{name} is {value!r}; it must be a whole number of at least 1."
        raise InputError(message)
    return value


def sizes(value: object, name: str, *, empty: bool = True) -> tuple[int, ...]:
    """Return one or several whole numbers of at least one as a tuple.

    Args:
        value: A number or a sequence of them.
        name: Of the argument, for the error's text.
        empty: Whether none at all may be given.

    Returns:
        The numbers.

    Raises:
        InputError: Anything else.

    Example:
        >>> sizes(64, "widths"), sizes([64, 32], "widths")
        ((64,), (64, 32))
    """
    if isinstance(value, int):
        return (positive(value, name),)
    if isinstance(value, str) or not isinstance(value, Sequence) or not (value or empty):
        message = f"{name} is {value!r}; write whole numbers of at least 1, such as 64,32."
        raise InputError(message)
    return tuple(positive(entry, name) for entry in value)


def fraction(value: object, name: str) -> float:
    """Return a number in [0, 1).

    Example:
        >>> fraction(0.5, "dropout")
        0.5
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        message = f"{name} is {value!r}; it must be at least 0 and below 1."
        raise InputError(message)
    return float(value)


def convolved(size: int, kernel: int, *, padding: int, stride: int = 1, name: str) -> int:
    """Return the edge of an image after a convolution or a pooling.

    Args:
        size: Edge before.
        kernel: Edge of the kernel.
        padding: On each side.
        stride: Step.
        name: Of the layer, for the error's text.

    Returns:
        Pixels, at least one.

    Raises:
        InputError: Nothing would be left of the image.

    Example:
        >>> convolved(8, 3, padding=1, name="conv1"), convolved(8, 2, padding=0, stride=2, name="")
        (8, 4)
    """
    left = (size + 2 * padding - kernel) // stride + 1
    if left < 1:
        message = (
            f"Nothing is left of the image at {name}: {size} pixels, kernel {kernel}, padding "
            f"{padding}. Give larger images, a smaller kernel, more padding or fewer layers."
        )
        raise InputError(message)
    return left


def margin(padding: object, kernel: int) -> int:
    """Return the padding of a convolution in pixels; ``"same"`` keeps the image's size.

    Example:
        >>> margin("same", 5), margin(0, 5)
        (2, 0)
    """
    if padding == "same" and kernel % 2:
        return kernel // 2
    if isinstance(padding, int) and not isinstance(padding, bool) and padding >= 0:
        return padding
    message = (
        f"padding is {padding!r} with kernels of {kernel}; it must be a number of pixels, or "
        "'same' with odd kernels."
    )
    raise InputError(message)

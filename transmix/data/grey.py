"""Greyscale of more than 8 bits: its conversion to 8 bits, and the notes about it."""

from typing import Any, Literal, NamedTuple

import numpy as np

GreyRange = tuple[float, float]
"""The stored values that become black and white."""

EACH_IMAGE: Literal["each image"] = "each image"
"""Scale each image by itself, as old runs without a saved range did."""

Grey = GreyRange | Literal["each image"] | None
"""How greyscale of more than 8 bits is scaled; None: not known, such images are refused."""

GIVE_RANGE = "give the values for black and white: --grey-range LOW HIGH"
"""What to do where no range is known."""

SAMPLED = 2**16
"""So many pixels of an image tell the usual values."""


def as_grey(found: Any) -> Grey:
    """Convert the JSON value of a grey range.

    Raises:
        ValueError: it is not a grey range.
    """
    if found is None or found == EACH_IMAGE:
        return found
    if isinstance(found, list | tuple) and len(found) == 2 and all(isinstance(one, int | float) for one in found):
        return float(found[0]), float(found[1])
    raise ValueError(f"expected two numbers, null or {EACH_IMAGE!r}, not {found!r}")


def as_range(grey: GreyRange) -> str:
    """Write a range: '900 to 1399'."""
    return f"{grey[0]:.6g} to {grey[1]:.6g}"


class DeepValues(NamedTuple):
    """The values of an image of more than 8 bits a channel.

    Attributes:
        colour: Whether the image is colour (values are the upper 8 bits); else values are as stored.
        low: Minimum.
        high: Maximum.
        usual: 1st and 99th percentile.
    """

    colour: bool
    low: float
    high: float
    usual: tuple[float, float]


def deep_values(stored: np.ndarray, colour: bool) -> DeepValues:
    """Summarise the values of an image, (H, W) or (H, W, C) of any number type.

    Raises:
        ValueError: If one is not finite.
    """
    if not np.isfinite(stored).all():
        raise ValueError("pixels are not finite")
    some = stored.reshape(-1)[:: max(1, stored.size // SAMPLED)]
    usual = np.percentile(some, [1, 99])
    return DeepValues(colour, float(stored.min()), float(stored.max()), (float(usual[0]), float(usual[1])))


def to_8_bit(stored: np.ndarray, grey: GreyRange | Literal["each image"], bits: int = 16) -> np.ndarray:
    """Rescale greyscale of more than 8 bits: (H, W) of any number type to (H, W) uint8.

    With a range (low, high): round(255 * (x - low) / (high - low)), clipped to 0..255.

    Args:
        stored: The values as stored.
        grey: The range, or "each image".
        bits: Bits per value; only used for "each image".

    Raises:
        ValueError: If a value is not finite.
    """
    if not np.isfinite(stored).all():
        raise ValueError("pixels are not finite")
    if grey == EACH_IMAGE:
        return _by_itself(stored << (16 - bits) if bits < 16 else stored)
    return _between(stored, float(grey[0]), float(grey[1]))


def _between(stored: np.ndarray, low: float, high: float) -> np.ndarray:
    span = max(high - low, np.finfo(np.float64).tiny)
    return np.rint(np.clip((stored.astype(np.float64) - low) / span, 0, 1) * 255).astype(np.uint8)


def _by_itself(stored: np.ndarray) -> np.ndarray:
    """Scale an image by its own values.

    Integers in the 16-bit range keep their upper byte. Floats are assumed to range from 0 to 1, 255 or 65535, whichever
    is the smallest that fits. Otherwise the minimum becomes black and the maximum white.
    """
    low, high = float(stored.min()), float(stored.max())
    if stored.dtype.kind != "f" and low >= 0 and high <= 65535:
        return (stored // 256).astype(np.uint8)
    if stored.dtype.kind == "f" and low >= 0 and high <= 65535:
        low, high = 0.0, next(scale for scale in (1.0, 255.0, 65535.0) if high <= scale)
    return _between(stored, low, high)

"""timm's RandAugment: its policy, and the same policy as tables of numbers, for batches.

Every argument in the tables is what timm's own function gives for a magnitude, so the two cannot drift apart.
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from transmix.data.philox import below, chance
from transmix.data.seeding import global_generators
from transmix.data.settings import Augmentation
from transmix.error import RecipeError

NOTHING, MOVE, INVERT, POSTERIZE, SOLARIZE, SOLARIZE_ADD, AUTO_CONTRAST, EQUALIZE = range(8)
COLOUR, CONTRAST, BRIGHTNESS, SHARPNESS = range(8, 12)
"""Operations on a batch: geometry, then those that are a lookup table, then blends."""

OPERATIONS = {
    "Rotate": MOVE,
    "Shear": MOVE,
    "Translate": MOVE,
    "Invert": INVERT,
    "Posterize": POSTERIZE,
    "SolarizeAdd": SOLARIZE_ADD,
    "Solarize": SOLARIZE,
    "AutoContrast": AUTO_CONTRAST,
    "Equalize": EQUALIZE,
    "Color": COLOUR,
    "Contrast": CONTRAST,
    "Brightness": BRIGHTNESS,
    "Sharpness": SHARPNESS,
}
"""How timm's name begins -> the operation; the first that fits."""

QUANTILES = 256
"""So many magnitudes stand for their distribution."""

UNIT = 1 << 30
"""Matrices are multiples of 1 / UNIT: positions are then integers, the same on every device."""

FACTOR = 4096
"""Factors of blends are multiples of 1/4096: a factor times a difference of pixels is then exact in float32."""

NEGATED, KEPT = 0, 1
"""Seeds with which timm's `random.random() > 0.5` is true, and is not."""


@dataclass(frozen=True, eq=False)
class Policy:
    """RandAugment as tables.

    Attributes:
        layers: L, number of operations that are drawn for an image.
        probability: of applying a drawn operation.
        operations: (m,) int64, the operations to draw from, one of `OPERATIONS` each.
        arguments: (m, 2, QUANTILES, 6) int64, of each operation, sign and magnitude. An affine matrix in multiples of
            1 / UNIT; or first the bits, threshold or summand of a lookup table, or a blend's factor times FACTOR.
    """

    layers: int
    probability: float
    operations: Tensor
    arguments: Tensor

    def draw(self, words: Tensor) -> tuple[Tensor, Tensor]:
        """Return operations (n, L) int64 and their arguments (n, L, 6) int64, of random words (n, L, 4)."""
        applied, which, magnitude, sign = words.unbind(2)
        which = below(which, len(self.operations))
        arguments = self.arguments[which, below(sign, 2), below(magnitude, QUANTILES)]
        return self.operations[which] * chance(applied, self.probability), arguments


def timm_policy(settings: Augmentation, size: int, of_masks: bool = False) -> Any:
    """Return timm's RandAugment for images of size x size; what comes in from outside a mask is black.

    Raises:
        ValueError: an unknown policy.
    """
    from timm.data.auto_augment import rand_augment_transform

    hparams = {
        "translate_const": int(size * 0.45),
        "img_mean": (0, 0, 0) if of_masks else fill_of(settings),
        "interpolation": Image.Resampling.BICUBIC,
    }
    try:
        return rand_augment_transform(settings.rand_augment or "", hparams)
    except (AssertionError, ValueError) as error:
        raise ValueError(f"timm does not know the policy rand_augment {settings.rand_augment!r}") from error


def fill_of(settings: Augmentation) -> tuple[int, ...]:
    """Return the colour of what comes in from outside an image."""
    return tuple(round(255 * mean) for mean in settings.mean)


def batch_policy(settings: Augmentation, size: int, device: torch.device | str) -> Policy:
    """Return timm's policy as tables on a device, for images of size x size.

    Raises:
        RecipeError: an unknown policy, an operation that batches lack, or operations drawn by weight.
    """
    try:
        policy = timm_policy(settings, size)
    except ValueError as error:
        raise RecipeError(str(error)) from error
    missing = [one.name for one in policy.ops if not one.name.startswith(tuple(OPERATIONS))]
    if missing or policy.choice_weights is not None:
        what = f"the operation {missing[0]}" if missing else "operations drawn by weight"
        raise RecipeError(
            f"rand_augment {settings.rand_augment!r} has {what}, which batches on the device lack; give "
            "--augment-on cpu (and leave --on-device out), or a policy without 't'"
        )
    with global_generators(0):  # timm draws the sign from the global one
        arguments = [[_arguments(one, sign, size) for sign in (NEGATED, KEPT)] for one in policy.ops]
    codes = [OPERATIONS[next(filter(one.name.startswith, OPERATIONS))] for one in policy.ops]
    return Policy(
        policy.num_layers,
        policy.ops[0].prob,
        torch.tensor(codes, device=device),
        torch.tensor(arguments, device=device),
    )


def _arguments(operation: Any, sign: int, size: int) -> list[list[int]]:
    """Return the six integers of `Policy.arguments` for each quantile of the magnitude."""
    known: dict[float, list[int]] = {}
    for magnitude in (found := _magnitudes(operation)):
        if magnitude not in known:
            random.seed(sign)
            levels = () if operation.level_fn is None else operation.level_fn(magnitude, operation.hparams)
            known[magnitude] = _integers(operation.name, *levels, size=size)
    return [known[magnitude] for magnitude in found]


def _magnitudes(operation: Any) -> list[float]:
    """Return the quantiles of an operation's magnitude, as timm draws and clips it."""
    middle = (torch.arange(QUANTILES, dtype=torch.float64) + 0.5) / QUANTILES
    if operation.magnitude_std == math.inf:
        drawn = middle * operation.magnitude
    else:
        drawn = operation.magnitude + torch.special.ndtri(middle) * operation.magnitude_std
    return drawn.clamp(0, operation.magnitude_max or 10).tolist()


def _integers(name: str, level: float = 0.0, *, size: int) -> list[int]:
    """Return the six integers of an operation's argument."""
    matrix = next((make for start, make in MATRICES.items() if name.startswith(start)), None)
    if matrix is not None:
        return [round(UNIT * value) for value in matrix(level, size)]
    blend = OPERATIONS[next(filter(name.startswith, OPERATIONS))] >= COLOUR
    return [round(FACTOR * level) if blend else int(level), 0, 0, 0, 0, 0]


def _rotation(degrees: float, size: int) -> tuple[float, ...]:
    """Return the matrix by which Pillow rotates an image around its middle."""
    cos, sin, middle = math.cos(math.radians(degrees)), -math.sin(math.radians(degrees)), size / 2
    return cos, sin, middle - middle * (cos + sin), -sin, cos, middle - middle * (cos - sin)


MATRICES: dict[str, Callable[[float, int], tuple[float, ...]]] = {
    "Rotate": _rotation,
    "ShearX": lambda level, _: (1, level, 0, 0, 1, 0),
    "ShearY": lambda level, _: (1, 0, 0, level, 1, 0),
    "TranslateXRel": lambda level, size: (1, 0, level * size, 0, 1, 0),
    "TranslateYRel": lambda level, size: (1, 0, 0, 0, 1, level * size),
    "TranslateX": lambda level, _: (1, 0, level, 0, 1, 0),
    "TranslateY": lambda level, _: (1, 0, 0, 0, 1, level),
}
"""How timm's name begins -> where the pixel at (x, y) comes from, as (a, b, c, d, e, f): ax + by + c, dx + ey + f."""

"""The embedded data set: real handwritten digits on real textures, so that a box can be empty background.

Nothing is downloaded or cached: scikit-learn's wheel carries the digits (1,797 of 8 x 8 pixels) and two
photographs (an old Chinese building and a flower, 427 x 640 pixels); images are rendered in memory from the
seed. Every random choice is drawn first, as a `Sketch` per image; rendering a sketch is then a pure function.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

from transmix.data.dataset import ImageData, Split

# Columns of each photograph that a split may take textures from, as shares of its width.
TEXTURE_COLUMNS = {"train": (0.0, 0.6), "val": (0.6, 1.0)}
TEXTURE_SIDE = (32, 161)  # pixels of the photograph across one texture, before it is resized; end excluded
# Brightness between stroke and background, of 255; at most 127, so that one side always fits.
CONTRAST = (80.0, 127.0)
STROKE_FROM = 0.35  # ink (0 to 1) from which a pixel belongs to the stroke


class Sources(NamedTuple):
    """The data that scikit-learn contains."""

    ink: np.ndarray  # (1797, 8, 8) float32, 0 to 1
    labels: np.ndarray  # (1797,) int64
    photos: list[np.ndarray]  # two of (427, 640, 3) uint8


@dataclass(frozen=True)
class Sketch:
    """All random choices behind one image: digit, position, photograph and crop."""

    original: int  # row of `Sources.ink`
    photo: int  # index in `Sources.photos`
    texture: tuple[int, int, int]  # left, top, side of the piece, in pixels of the photograph
    channels: tuple[int, ...]  # order in which the texture's colour channels are used
    digit: tuple[int, int, int]  # left, top, side of the digit's square, in pixels of the image
    contrast: float  # how much lighter the stroke is than what it covers; darker instead where that leaves the range
    tint: tuple[float, ...]  # added to the stroke's three channels


def digits_on_textures(
    seed: int = 0,
    *,
    image_size: int = 32,
    train_copies: int = 8,
    val_copies: int = 3,
    val_share: float = 0.2,
    scale: tuple[float, float] = (0.6, 0.9),
) -> ImageData:
    """Render handwritten digits on crops of photographs, each with the mask of its stroke.

    The splits share no data: every digit of scikit-learn is used in one split only, and each split has its own part
    of the photographs. Validation images do not depend on `train_copies`. Global random state is neither
    read nor changed.

    Args:
        seed: fixes the split and all images.
        image_size: height and width of the images, in pixels.
        train_copies: images per training digit.
        val_copies: images per validation digit.
        val_share: fraction of each class's digits for validation.
        scale: smallest and largest side of the digit, as fractions of the image side.

    Returns:
        Classes '0' to '9'; in each split images (N, image_size, image_size, 3) uint8, labels (N,) int64 and
        masks (N, image_size, image_size) bool, true where the stroke is.

    Raises:
        ValueError: if `scale` is not a range within 0 to 1, or a digit could have fewer than 8 pixels a side.

    Example:
        >>> digits_on_textures(image_size=32).train.images.shape
        (11504, 32, 32, 3)
    """
    if not 0 < scale[0] <= scale[1] <= 1 or round(image_size * scale[0]) < 8:
        raise ValueError(f"no room to draw digits of 8 x 8 pixels: image_size {image_size}, scale {scale}")
    sources = load_sources()
    originals = split_originals(sources.labels, val_share, np.random.default_rng([seed, 0]))
    splits = {}
    for number, (part, copies) in enumerate({"train": train_copies, "val": val_copies}.items(), start=1):
        rng = np.random.default_rng([seed, number])  # one stream a split: val stays if train grows
        rows = np.tile(originals[part], copies)
        sketches = [sketch(int(row), part, sources, image_size, scale, rng) for row in rows]
        images, masks = zip(*(render(drawing, sources, image_size) for drawing in sketches), strict=True)
        splits[part] = Split(np.stack(images), sources.labels[rows], np.stack(masks))
    return ImageData(name="digits_on_textures", classes=tuple("0123456789"), **splits)


def load_sources() -> Sources:
    """Read digits and photographs from the installed scikit-learn."""
    from sklearn.datasets import load_digits, load_sample_images  # here, because it takes seconds to import

    pixels, labels = load_digits(return_X_y=True)
    ink = (np.asarray(pixels).reshape(-1, 8, 8) / 16).astype(np.float32)
    return Sources(ink, np.asarray(labels, dtype=np.int64), list(load_sample_images().images))


def split_originals(labels: np.ndarray, val_share: float, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Split the rows of each class into "train" and "val", with `val_share` of each class in val; rows ascend."""
    val = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        val[rows[: round(val_share * len(rows))]] = True
    return {"train": np.flatnonzero(~val), "val": np.flatnonzero(val)}


def sketch(
    original: int, part: str, sources: Sources, size: int, scale: tuple[float, float], rng: np.random.Generator
) -> Sketch:
    """Draw position, scale, texture and colour for one image of a digit; `part` is "train" or "val"."""
    photo = int(rng.integers(len(sources.photos)))
    height, width = sources.photos[photo].shape[:2]
    first, last = (round(share * width) for share in TEXTURE_COLUMNS[part])
    piece = int(rng.integers(*TEXTURE_SIDE))
    side = round(size * rng.uniform(*scale))
    return Sketch(
        original=original,
        photo=photo,
        texture=(int(rng.integers(first, last - piece + 1)), int(rng.integers(height - piece + 1)), piece),
        channels=tuple(rng.permutation(3).tolist()),
        digit=(int(rng.integers(size - side + 1)), int(rng.integers(size - side + 1)), side),
        contrast=float(rng.uniform(*CONTRAST)),
        tint=tuple(rng.normal(0.0, 25.0, size=3).tolist()),
    )


def render(drawing: Sketch, sources: Sources, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Render one sketch: image (size, size, 3) uint8 and mask (size, size) bool, true where the stroke is."""
    background = render_background(drawing, sources, size).astype(np.float32)
    left, top, side = drawing.digit
    ink = np.zeros((size, size), dtype=np.float32)
    digit = Image.fromarray(sources.ink[drawing.original]).resize((side, side), Image.Resampling.BILINEAR)
    ink[top : top + side, left : left + side] = np.asarray(digit)
    mask = ink >= STROKE_FROM
    under = background[mask].mean(axis=0)
    fits = 0 <= under.mean() + drawing.contrast <= 255
    colour = np.clip(under + (drawing.contrast if fits else -drawing.contrast) + drawing.tint, 0, 255)
    cover = np.where(mask, np.minimum(1.5 * ink, 1.0), 0.0)[..., None]
    return (background + cover * (colour - background)).round().astype(np.uint8), mask


def render_background(drawing: Sketch, sources: Sources, size: int) -> np.ndarray:
    """Crop the sketch's texture from its photograph: (size, size, 3) uint8."""
    left, top, side = drawing.texture
    piece = sources.photos[drawing.photo][top : top + side, left : left + side, list(drawing.channels)]
    return np.asarray(Image.fromarray(piece).resize((size, size), Image.Resampling.BILINEAR))

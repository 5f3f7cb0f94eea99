"""From an image file of any common kind to (H, W, 3) uint8 pixels, or an error that names the file."""

import io
import os
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from transmix.data.dataset import DataError

BACKGROUND = (255, 255, 255)
"""What shows through transparent pixels: white, as on paper and on most web pages."""

ImageSource = str | os.PathLike[str] | bytes | BinaryIO

_UPRIGHT_BY = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode_image(file_or_bytes: ImageSource, where: str) -> np.ndarray:
    """Decode an image to red, green and blue in 8 bits, the way a person would see it.

    The EXIF orientation is applied. Transparent pixels are laid over `BACKGROUND`. Greyscale of more than
    8 bits is rescaled, never clipped (see `_to_8_bit`). Palette, greyscale, black-and-white, CMYK and YCbCr
    images are converted. Of an animation, the first frame is taken. Pillow's limit against decompression
    bombs stays as it is.

    Damage that the format cannot detect (a flipped byte in a JPEG, mostly) yields wrong pixels, not an error.

    Args:
        file_or_bytes: A path, an open binary file or the encoded bytes.
        where: Where the image comes from, for the message.

    Returns:
        (H, W, 3) uint8, a fresh and writable array.

    Raises:
        DataError: If the image cannot be read.
    """
    try:
        with _open(file_or_bytes) as image:
            image.load()
            turn = _UPRIGHT_BY.get(_orientation(image))
            upright = image.transpose(turn) if turn is not None else image
            return _to_rgb(upright)
    except Exception as error:  # Pillow's readers raise nearly anything on damaged files
        raise _unreadable(where, error) from error


def image_size(file_or_bytes: ImageSource, where: str) -> tuple[int, int]:
    """Read the (height, width) that `decode_image` would return, from the header alone.

    A PNG that stores its EXIF data behind the pixels counts as upright here.

    Args:
        file_or_bytes: A path, an open binary file or the encoded bytes.
        where: Where the image comes from, for the message.

    Raises:
        DataError: If the header cannot be read.
    """
    try:
        with _open(file_or_bytes) as image:
            # Pillow reports the size of a TIFF as already turned
            lies_on_its_side = _orientation(image) in (5, 6, 7, 8) and image.format != "TIFF"
            return (image.width, image.height) if lies_on_its_side else (image.height, image.width)
    except Exception as error:
        raise _unreadable(where, error) from error


def _open(file_or_bytes: ImageSource) -> Image.Image:
    return Image.open(io.BytesIO(file_or_bytes) if isinstance(file_or_bytes, bytes) else file_or_bytes)


def _unreadable(where: str, error: Exception) -> DataError:
    if isinstance(error, UnidentifiedImageError):
        reason = "not an image, or of a kind that Pillow does not know"
    else:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return DataError(f"{where}: cannot read the image ({reason}); replace or remove it")


def _orientation(image: Image.Image) -> int:
    """Read the EXIF orientation, 1 (upright) where there is none or it is damaged."""
    try:
        # the base class's method, because that of PNG decodes the pixels to look behind them
        return Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    except Exception:  # sound pixels with damaged metadata are common and usable
        return 1


def _to_rgb(image: Image.Image) -> np.ndarray:
    """Convert a loaded image of any mode to (H, W, 3) uint8."""
    if image.mode.startswith("I") or image.mode == "F":
        grey = _to_8_bit(np.asarray(image))
        if image.mode.startswith("I") and "transparency" in image.info:
            grey[np.asarray(image) == image.info["transparency"]] = BACKGROUND[0]
        return np.stack([grey] * 3, axis=-1)
    if image.has_transparency_data:
        pixels = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", pixels.size, BACKGROUND), pixels)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _to_8_bit(grey: np.ndarray) -> np.ndarray:
    """Rescale greyscale of more than 8 bits: (H, W) of any number to (H, W) uint8, darkest stays darkest.

    Integers in the 16-bit range keep their upper byte, which undoes either way of widening 8 bits to 16.
    Fractions are taken to reach from 0 to the smallest of 1, 255 and 65535 that holds them all. Anything else
    has no scale to go by: its own least value becomes black and its greatest white.

    Raises:
        ValueError: If a value is not finite.
    """
    if not np.isfinite(grey).all():
        raise ValueError("pixels are not finite")
    low, high = float(grey.min()), float(grey.max())
    if grey.dtype.kind != "f" and low >= 0 and high <= 65535:
        return (grey // 256).astype(np.uint8)
    if grey.dtype.kind == "f" and low >= 0 and high <= 65535:
        low, high = 0.0, next(scale for scale in (1.0, 255.0, 65535.0) if high <= scale)
    span = max(high - low, np.finfo(np.float64).tiny)
    return np.rint((grey.astype(np.float64) - low) / span * 255).astype(np.uint8)

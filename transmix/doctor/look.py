"""One image: a fingerprint of its pixels, and what is odd about it."""

import hashlib
import io
import os
import stat
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from transmix.data.dataset import DataError
from transmix.data.decode import FORMATS, decode_image, orientation

SUFFIXES_OF = {
    "JPEG": {".jpg", ".jpeg", ".jpe", ".jfif"},
    "MPO": {".jpg", ".jpeg", ".jpe", ".jfif"},
    "PNG": {".png", ".apng"},
    "WEBP": {".webp"},
    "GIF": {".gif"},
    "BMP": {".bmp"},
    "TIFF": {".tif", ".tiff"},
    "PPM": {".ppm", ".pgm", ".pbm", ".pnm", ".pfm"},
    "AVIF": {".avif"},
    "JPEG2000": {".jp2", ".j2k"},
    "ICO": {".ico"},
}
"""Pillow's names of formats, and how files of each are called."""

SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"RIFF", b"P5\n", b"P6\n")


class Look(NamedTuple):
    """What one image looks like.

    Attributes:
        pixels: a fingerprint that images of the same decoded pixels share; None if it cannot be decoded.
        oddities: (kind of finding, detail).
    """

    pixels: bytes | None
    oddities: tuple[tuple[str, str], ...] = ()


def look_at_pixels(image: np.ndarray) -> Look:
    """Look at a decoded image, (H, W, 3) uint8."""
    digest = hashlib.blake2b(repr(image.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(image).data)
    return Look(digest.digest())


def look_at_file(path: Path) -> Look:
    """Look at an image file, or at what bears the name of one."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return Look(None, (("not-a-file", "a folder, pipe, socket or device"),))
        content = path.read_bytes()
    except OSError as error:
        return Look(None, (("not-a-file", error.strerror or str(error)),))
    return look_at_content(content, path.suffix.lower())


def look_at_content(content: bytes, suffix: str | None = None) -> Look:
    """Look at an encoded image; `suffix` is what its name ends in, None if it has none."""
    if not content:
        return Look(None, (("empty-file", ""),))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's about large images and odd metadata: they become findings
        try:
            image = decode_image(content, where="")
        except DataError as error:
            return Look(None, (_refusal(content, error),))
        return Look(look_at_pixels(image).pixels, tuple(_oddities(content, suffix)))


def starts_like_an_image(path: Path) -> bool:
    """Tell from its first bytes whether a file is an image of a common kind."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False
        with path.open("rb") as file:
            start = file.read(32)
    except OSError:
        return False
    return start.startswith(SIGNATURES) or start[4:8] == b"ftyp" or start[4:12] == b"jP  \r\n\x87\n"


def _refusal(content: bytes, error: DataError) -> tuple[str, str]:
    cause = error.__cause__
    reason = getattr(error, "reason", "") or str(error)
    if isinstance(cause, Image.DecompressionBombError):
        return "huge", str(cause)
    if "truncated" in str(cause) or isinstance(cause, EOFError) or _ends_early(content):
        return "truncated", reason
    return "unreadable", reason


def _ends_early(content: bytes) -> bool:
    """Tell whether the mark is missing with which a sound file ends, or bytes that its header counts."""
    if content.startswith(b"\xff\xd8\xff"):
        return b"\xff\xd9" not in content[-64:]
    if content.startswith(b"\x89PNG"):
        return b"IEND" not in content[-64:]
    if content.startswith(b"RIFF"):
        return len(content) < 8 + int.from_bytes(content[4:8], "little")
    return content.startswith(b"GIF8") and b";" not in content[-2:]


def _oddities(content: bytes, suffix: str | None) -> list[tuple[str, str]]:
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        stored = _stored_as(image)
        limit = Image.MAX_IMAGE_PIXELS or float("inf")
        return [
            oddity
            for oddity, holds in {
                ("wrong-extension", f"is {image.format}"): suffix is not None
                and suffix not in SUFFIXES_OF.get(image.format or "", {suffix}),
                ("16-bit", f"mode {stored}"): ";16" in stored or ";12" in stored or stored[:1] in ("I", "F"),
                ("cmyk", ""): image.mode == "CMYK",
                ("palette", ""): image.mode in ("P", "PA"),
                ("alpha", ""): image.has_transparency_data,
                ("rotated", f"orientation {orientation(image)}"): orientation(image) in range(2, 9),
                ("animated", ""): _has_more_frames(image),
                ("large", f"{image.width} x {image.height}"): image.width * image.height > limit,
            }.items()
            if holds
        ]


def _has_more_frames(image: Any) -> bool:
    """Tell whether there is an animation or a second page; a camera's preview (MPO) counts as neither."""
    try:
        return image.format != "MPO" and getattr(image, "is_animated", False)
    except Exception:  # a second frame that is damaged, where the first is sound
        return False


def _stored_as(image: Any) -> str:
    """Return the layout of pixels in the file, where Pillow tells: 'RGB;16B'; else the mode."""
    arguments = image.tile[0][3] if getattr(image, "tile", None) else None
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else image.mode

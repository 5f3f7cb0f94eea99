"""One image: a fingerprint of its pixels, and its findings."""

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
from transmix.data.decode import decode_image, orientation, stored_as
from transmix.data.formats import FORMAT_OF, FORMATS
from transmix.data.grey import EACH_IMAGE, Grey


class Look(NamedTuple):
    """Result of checking one image.

    Attributes:
        pixels: fingerprint of the decoded pixels; equal for equal pixels; None if it cannot be decoded.
        oddities: (kind of finding, detail).
    """

    pixels: bytes | None
    oddities: tuple[tuple[str, str], ...] = ()


def look_at_pixels(image: np.ndarray) -> Look:
    """Check a decoded image, (H, W, 3) uint8."""
    digest = hashlib.blake2b(repr(image.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(image).data)
    return Look(digest.digest())


def look_at_file(path: Path, grey: Grey = EACH_IMAGE) -> Look:
    """Check an image file, or another entry with an image suffix; `grey` as in `decode_image`."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return Look(None, (("not-a-file", "a folder, pipe, socket or device"),))
        content = path.read_bytes()
    except OSError as error:
        return Look(None, (("not-a-file", error.strerror or str(error)),))
    return look_at_content(content, path.suffix.lower(), grey)


def look_at_content(content: bytes, suffix: str | None = None, grey: Grey = EACH_IMAGE) -> Look:
    """Check an encoded image; `suffix` of its name, or None; `grey` as in `decode_image`."""
    if not content:
        return Look(None, (("empty-file", ""),))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's about large images and odd metadata: they become findings
        try:
            image = decode_image(content, "", grey)
        except DataError as error:
            return Look(None, (_refusal(content, error),))
        return Look(look_at_pixels(image).pixels, tuple(_oddities(content, suffix)))


def _refusal(content: bytes, error: DataError) -> tuple[str, str]:
    cause = error.__cause__
    reason = getattr(error, "reason", "") or str(error)
    if isinstance(cause, Image.DecompressionBombError):
        return "huge", str(cause)
    if "truncated" in str(cause) or isinstance(cause, EOFError) or _ends_early(content):
        return "truncated", reason
    return "unreadable", reason


def _ends_early(content: bytes) -> bool:
    """Whether the end marker is missing, or the file is shorter than its header says."""
    if content.startswith(b"\xff\xd8\xff"):
        return b"\xff\xd9" not in content[-64:]
    if content.startswith(b"\x89PNG"):
        return b"IEND" not in content[-64:]
    if content.startswith(b"RIFF"):
        return len(content) < 8 + int.from_bytes(content[4:8], "little")
    return content.startswith(b"GIF8") and b";" not in content[-2:]


def _oddities(content: bytes, suffix: str | None) -> list[tuple[str, str]]:
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        stored = stored_as(image)
        limit = Image.MAX_IMAGE_PIXELS or float("inf")
        return [
            oddity
            for oddity, holds in {
                ("wrong-extension", f"is {image.format}"): suffix is not None
                and FORMAT_OF.get(suffix, image.format) != ("JPEG" if image.format == "MPO" else image.format),
                ("16-bit", f"mode {stored}"): ";16" in stored or ";12" in stored or stored[:1] in ("I", "F"),
                ("bands", f"{stored}"): image.format == "TIFF" and stored.startswith(("RGBX", "RGBAX")),
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
    """Whether there is an animation or a second page; a camera's preview image (MPO) does not count."""
    try:
        return image.format != "MPO" and getattr(image, "is_animated", False)
    except Exception:  # a second frame that is damaged, where the first is sound
        return False

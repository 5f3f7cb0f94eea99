"""One image of a data set as it is packed: as it was, or resized and encoded as JPEG."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from transmix.data.dataset import DataError, UnreadableImageError
from transmix.data.decode import GAP, decode_image, decode_larger, read_encoded
from transmix.data.grey import EACH_IMAGE
from transmix.data.masks import BACKGROUND, TRIMAP

LONGEST = 65500
"""Longest side of a JPEG in pixels."""

SUBSAMPLING = "4:2:0"
"""Colour at half the resolution, as cameras store it."""

SHALLOW = (b"\xff\xd8\xff", b"RIF", b"GIF")
"""What an image of no more than 8 bits per channel begins with."""


class Task(NamedTuple):
    """An image to pack.

    Attributes:
        source: Its file, its encoded bytes, or decoded (H, W, 3) uint8; the error of one that cannot be read already.
        where: Its name, for messages.
        mask: Its foreground mask (H, W) uint8, as `open_masks` gives it; None without.
    """

    source: Path | bytes | np.ndarray | UnreadableImageError
    where: str
    mask: np.ndarray | None = None


class PackedImage(NamedTuple):
    """An image as it is packed.

    Attributes:
        content: Encoded image; empty if it cannot be read.
        source_bytes: Bytes in the source.
        resized: Whether it is smaller than in the source.
        mask: Encoded mask of the same size; None without.
        reason: Why it cannot be read; '' if it can.
        failure: What else went wrong (memory, disk); '' if nothing did.
    """

    content: bytes = b""
    source_bytes: int = 0
    resized: bool = False
    mask: bytes | None = None
    reason: str = ""
    failure: str = ""

    @property
    def deep(self) -> bool:
        """Whether it may have more than 8 bits per channel, judging by its first bytes."""
        return not self.content.startswith(SHALLOW)


@dataclass(frozen=True)
class Packing:
    """Indexed by a `Task`, gives its `PackedImage`; it is the data set of the loader whose workers pack.

    Attributes:
        short_side: Larger images are resized to this shorter side, in pixels; None: none is.
        quality: JPEG quality of resized images.
    """

    short_side: int | None
    quality: int

    def __getitem__(self, task: Task) -> PackedImage:
        try:
            return self._pack(task)
        except UnreadableImageError as error:
            return PackedImage(reason=error.reason or str(error))
        except DataError as error:
            return PackedImage(failure=str(error))

    def _pack(self, task: Task) -> PackedImage:
        if isinstance(task.source, UnreadableImageError):
            raise task.source
        if isinstance(task.source, np.ndarray):
            content, smaller, size = b"", self._of_pixels(task.source), task.source.nbytes
        else:
            content = read_encoded(task.source, task.where)
            smaller, size = self._smaller(content, task.where), len(content)
        if smaller is not None:
            buffer = io.BytesIO()
            smaller.save(buffer, "JPEG", quality=self.quality, subsampling=SUBSAMPLING)
            mask = None if task.mask is None else encode_mask(task.mask, smaller.size)
            return PackedImage(buffer.getvalue(), size, True, mask)
        if isinstance(task.source, np.ndarray):
            content = encode_pixels(task.source)
        else:
            decode_image(content, task.where, EACH_IMAGE)  # what cannot be read is found now
        return PackedImage(content, size, False, None if task.mask is None else encode_mask(task.mask))

    def _smaller(self, content: bytes, where: str) -> Image.Image | None:
        """Decode and resize an encoded image; None if it is packed as it is."""
        found = None if self.short_side is None else decode_larger(content, where, self.short_side)
        return None if found is None or max(found[1]) > LONGEST else resize(*found)

    def _of_pixels(self, pixels: np.ndarray) -> Image.Image | None:
        """Resize a decoded image; None if it is packed as it is."""
        height, width = pixels.shape[:2]
        if self.short_side is None or min(height, width) <= self.short_side:
            return None
        size = (round(side * self.short_side / min(height, width)) for side in (width, height))
        return resize(as_image(pixels), (next(size), next(size)))


def resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Make an image smaller: (width, height), Lanczos."""
    return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=GAP)


def as_image(pixels: np.ndarray) -> Image.Image:
    """Return pixels (H, W, 3) uint8 as an image, grey if its three channels are equal."""
    is_grey = np.array_equal(pixels[..., 0], pixels[..., 1]) and np.array_equal(pixels[..., 0], pixels[..., 2])
    return Image.fromarray(np.ascontiguousarray(pixels[..., 0] if is_grey else pixels))


def encode_pixels(pixels: np.ndarray) -> bytes:
    """Encode pixels (H, W, 3) uint8 without loss, as PNG."""
    buffer = io.BytesIO()
    as_image(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def encode_mask(mask: np.ndarray, size: tuple[int, int] | None = None) -> bytes:
    """Encode a mask (H, W) uint8 as a trimap (PNG); resized to (width, height) by nearest neighbour if given."""
    stored = {value: key for key, value in TRIMAP.items()}
    trimap = Image.fromarray(np.array([stored[value] for value in range(BACKGROUND, len(stored))], np.uint8)[mask])
    buffer = io.BytesIO()
    (trimap if size is None else trimap.resize(size, Image.Resampling.NEAREST)).save(buffer, "PNG")
    return buffer.getvalue()

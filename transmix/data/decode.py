"""Decode an image file of any common format to (H, W, 3) uint8 pixels, or raise an error that names the file."""

import errno
import io
import os
import stat
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from math import ceil
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import ExifTags, Image, ImageFile, TiffImagePlugin, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from transmix.data.boxes import Box
from transmix.data.dataset import DataError, UnreadableImageError
from transmix.data.formats import FORMATS
from transmix.data.grey import GIVE_RANGE, DeepValues, Grey, deep_values, to_8_bit
from transmix.error import one_line

BACKGROUND = (255, 255, 255)
"""What shows through transparent pixels: white, as on paper and on most web pages."""

GAP = 2.0
"""An image that is made smaller is decoded and averaged to no less than so many times its new size before resampling,
as Pillow's thumbnails are."""

ImageSource = str | os.PathLike[str] | bytes | BinaryIO

_TURNS = "FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90"
_UPRIGHT_BY = {number: Image.Transpose[name] for number, name in enumerate(_TURNS, start=2)}
"""EXIF orientation -> what turns the image upright."""

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Samples a pixel of a PNG by colour type."""

_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""The passes of an interlaced PNG: first column and row, and the steps to the next ones."""

_SAMPLE_FORMAT = 339
"""TIFF tag: 1 unsigned, 2 signed, 3 float."""

_KINDS = {1: "bits", 2: "bits, signed", 3: "bits, floating point"}
"""By that tag."""


def decode_image(file_or_bytes: ImageSource, where: str, grey: Grey = None) -> np.ndarray:
    """Decode an image to 8-bit RGB, as an image viewer shows it.

    The EXIF orientation is applied. Transparency is blended with `BACKGROUND`. Greyscale of more than
    8 bits is scaled by `grey`, the range of its data set; colour of 16 bits a channel keeps the upper 8 bits. Palette,
    greyscale, black-and-white, CMYK and YCbCr images are converted; colour profiles are not applied. An animation gives
    its first frame. Pillow's limit against decompression bombs is not changed.

    Damage that the format cannot detect gives wrong pixels, not an error: for example a flipped byte in a JPEG, or a
    truncated JPEG with a new end marker (the rest is grey).

    Args:
        file_or_bytes: A path, an open binary file or the encoded bytes.
        where: Where the image comes from, for the message.
        grey: Scale for greyscale of more than 8 bits: (low, high), the stored values for black and white; None: raise
            an error, because one image does not give the scale of the data set.

    Returns:
        (H, W, 3) uint8, a fresh and writable array.

    Raises:
        UnreadableImageError: If the image cannot be read.
        DataError: A temporary failure (memory, open files, disk); or greyscale of more than 8 bits and `grey` is None.
    """
    with _opened(file_or_bytes, where) as image:
        return _pixels(image, file_or_bytes, where, grey)


def decode_part(
    file_or_bytes: ImageSource, where: str, choose: Callable[[int, int], Box], grey: Grey = None
) -> np.ndarray:
    """Decode a part of an image: of a JPEG at the reduced size that will do, of other images in full size.

    Args:
        file_or_bytes: As `decode_image`; so are `where` and `grey`.
        where: Where the image comes from, for the message.
        choose: Height and width of the upright image -> the part that is needed.
        grey: Scale for greyscale of more than 8 bits.

    Returns:
        (h, w, 3) uint8; with a box that has `reduce` 1 these pixels are bit-equal to `box.cut(decode_image(...))`.

    Raises:
        UnreadableImageError, DataError: As `decode_image`.
    """
    with _opened(file_or_bytes, where) as image:
        if isinstance(image, JpegImageFile) and (image.format, image.mode) == ("JPEG", "RGB"):
            return _jpeg_part(image, file_or_bytes, choose)
        pixels = _pixels(image, file_or_bytes, where, grey)
    return choose(*pixels.shape[:2]).cut(pixels)


def _pixels(image: Image.Image, source: ImageSource, where: str, grey: Grey) -> np.ndarray:
    """Decode all of an opened image, as `decode_image`."""
    _check_tiles(image)
    _scale_transparent_colour(image)
    image.load()
    _check_rows(image, source)
    turn = _UPRIGHT_BY.get(orientation(image))
    shallow = _shallow(image, where, grey)
    return _to_rgb(shallow.transpose(turn) if turn is not None else shallow)


def _jpeg_part(image: JpegImageFile, source: ImageSource, choose: Callable[[int, int], Box]) -> np.ndarray:
    """Decode a part of an opened JPEG of three channels, as `decode_part`."""
    turn = _UPRIGHT_BY.get(orientation(image))
    box = choose(*_upright_size(image))
    if box.reduce == 1 and turn is None:
        # Pillow says what is wrong with a damaged file, and reads all where torchvision has given its decoder up
        with suppress(ImportError, RuntimeError, DeprecationWarning), _file(source) as file:
            return box.cut(_whole_jpeg(file.read()))
    stored, step = image.size, box.reduce
    if turn is None or not any(side % step for side in stored):  # else the last, incomplete step would come first
        image.draft(None, (stored[0] // step, stored[1] // step))
    upright = image.transpose(turn) if turn is not None else image
    if image.size == stored:
        return box.cut(np.asarray(upright))
    return np.asarray(upright.crop((box.left, box.top, box.left + box.width, box.top + box.height)))


def _whole_jpeg(content: bytes) -> np.ndarray:
    """Decode a JPEG with torchvision, which takes three quarters of Pillow's time for the same pixels."""
    from torchvision.io import ImageReadMode, decode_jpeg

    pixels: Any = decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8), ImageReadMode.RGB)
    return pixels.permute(1, 2, 0).numpy()


def read_deep_values(file_or_bytes: ImageSource, where: str, colour: bool = True) -> DeepValues | None:
    """Read the values of an image with more than 8 bits per channel; None for other images (only the header is read).

    Args:
        file_or_bytes: A path, an open binary file or the encoded bytes.
        where: Where the image comes from, for the message.
        colour: Include colour images.

    Raises:
        UnreadableImageError, DataError: As `decode_image`.
    """
    with _opened(file_or_bytes, where) as image:
        is_grey = _is_deep_grey(image)
        if not (is_grey or (colour and ";16" in stored_as(image))):
            return None
        image.load()
        return deep_values(_stored(image) if is_grey else np.asarray(image), not is_grey)


def image_size(file_or_bytes: ImageSource, where: str) -> tuple[int, int]:
    """Read the (height, width) that `decode_image` would return, from the header alone.

    The EXIF orientation of a PNG is ignored if it is stored after the pixels.

    Args:
        file_or_bytes: A path, an open binary file or the encoded bytes.
        where: Where the image comes from, for the message.

    Raises:
        UnreadableImageError, DataError: As `decode_image`, for the header.
    """
    with _opened(file_or_bytes, where) as image:
        return _upright_size(image)


def _upright_size(image: Image.Image) -> tuple[int, int]:
    # Pillow reports the size of a TIFF as already turned
    lies_on_its_side = orientation(image) in (5, 6, 7, 8) and image.format != "TIFF"
    return (image.width, image.height) if lies_on_its_side else (image.height, image.width)


@contextmanager
def _opened(source: ImageSource, where: str) -> Iterator[Image.Image]:
    """Open an image in a context; errors inside it are re-raised with the image's name."""
    try:
        if isinstance(source, str | os.PathLike) and not stat.S_ISREG(os.stat(source).st_mode):
            raise OSError("not a regular file")  # opening a FIFO would wait for ever, and a device may never end
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as image:
            yield image
    except DataError:
        raise
    except Exception as error:  # Pillow's readers raise nearly anything on damaged files
        raise _unreadable(where, error, source) from error


def _unreadable(where: str, error: Exception, source: ImageSource) -> DataError:
    """Describe a decoding error: permanent (unreadable image) or temporary."""
    reason = one_line(error, named=True)
    if isinstance(error, UnidentifiedImageError):
        reason = _describe_tiff(source) or "not an image, or of a kind that is not read"
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno not in _LASTING):
        return DataError(f"{where}: cannot read the image now ({reason})")
    return UnreadableImageError(where, reason)


def _describe_tiff(source: ImageSource) -> str | None:
    """Describe a TIFF that Pillow cannot open, with a remedy; None if it is no TIFF.

    That is bands, or numbers of kinds that Pillow does not know: 'TIFF with 13 bands of 16 bits: write one of them as
    grey, or three as RGB of 8 bits'.
    """
    try:
        with _file(source) as file:
            head = file.read(8)
            if head[:4] in (b"II+\0", b"MM\0+"):  # BigTIFF
                head += file.read(8)
            tags: Any = TiffImagePlugin.ImageFileDirectory_v2(head)
            file.seek(tags.next)
            tags.load(file)  # of the first page
        bands = int(tags.get(ExifTags.Base.SamplesPerPixel, 1))
        bits = max(tags.get(ExifTags.Base.BitsPerSample, (1,)))
        kind = _KINDS.get(tags.get(_SAMPLE_FORMAT, (1,))[0], "bits of an unknown kind")
    except Exception:  # no TIFF, or a damaged one
        return None
    remedy = "write it as grey" if bands == 1 else "write one of them as grey, or three as RGB"
    return f"TIFF with {bands} band{'s' if bands > 1 else ''} of {bits} {kind}: {remedy} of 8 bits"


_LASTING = (None, errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
"""Numbers of system errors that say something of the file; None is what Pillow's own have."""


def orientation(image: Image.Image) -> int:
    """Read the EXIF orientation; 1 (upright) if it is missing or damaged."""
    try:
        # the base class's method, because that of PNG decodes the pixels to look behind them
        return Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    except Exception:  # sound pixels with damaged metadata are common and usable
        return 1


def _check_tiles(image: Image.Image) -> None:
    """Raise an error for a TIFF without data for its last rows, which Pillow would show black. Call before loading.

    Raises:
        ValueError: It does not hold all its pixels.
    """
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        ends = [tile.extents[2:] for tile in image.tile if tile.extents is not None]
        size = image.tag_v2[ExifTags.Base.ImageWidth], image.tag_v2[ExifTags.Base.ImageLength]
        if any(max(reached) < length for reached, length in zip(zip(*ends, strict=True), size, strict=True)):
            raise ValueError("pixels are missing at the end")


def _check_rows(image: Image.Image, source: ImageSource) -> None:
    """Raise an error for a truncated PNG. The check is slow, so it runs only if the last rows are black.

    Raises:
        ValueError: It does not hold all its pixels.
    """
    if image.format != "PNG":
        return
    rows = range(max(0, image.height - 2), image.height)
    if image.info.get("interlace") or any(_is_blank(image, row) for row in rows):
        with _file(source) as file:
            if _lacks_pixels(file.read()):
                raise ValueError("pixels are missing at the end")


def _is_blank(image: Image.Image, row: int) -> bool:
    if np.any(image.getpixel((0, row))):  # one pixel tells most rows, and costs nothing
        return False
    return image.crop((0, row, image.width, row + 1)).getbbox() is None


def _file(source: ImageSource) -> AbstractContextManager[BinaryIO]:
    """Open a source at its first byte; an open file stays open."""
    if isinstance(source, str | os.PathLike):
        return open(source, "rb")
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    file.seek(0)
    return nullcontext(file)


def _lacks_pixels(content: bytes) -> bool:
    """Whether a PNG's data inflates to fewer bytes than its header needs.

    Pillow does not notice if the data stops at an earlier row.
    """
    width, height, bits, colour, _, _, interlace = struct.unpack(">IIBBBBB", content[16:29])
    sizes = [
        (-(-(width - left) // right), -(-(height - top) // down))
        for left, top, right, down in (_ADAM7 if interlace else ((0, 0, 1, 1),))
    ]
    asked = sum(high * (1 + -(-wide * bits * _CHANNELS[colour] // 8)) for wide, high in sizes if wide > 0 and high > 0)
    position, found, inflate = 8, 0, zlib.decompressobj()
    while position + 8 <= len(content):
        length, kind = struct.unpack(">I4s", content[position : position + 8])
        data = content[position + 8 : position + 8 + length] if kind == b"IDAT" else b""
        while data and found < asked:
            found += len(inflate.decompress(data, 1 << 20))
            data = inflate.unconsumed_tail
        position += 12 + length
    return found < asked


def _scale_transparent_colour(image: Image.Image) -> None:
    """Convert a PNG's transparent colour to 8 bits per channel, as Pillow does with the pixels. Call before loading."""
    if image.format != "PNG" or "transparency" not in image.info or not isinstance(image, ImageFile.ImageFile):
        return
    colour, stored = image.info["transparency"], str(image.tile[0][3])
    if stored in ("L;2", "L;4"):
        image.info["transparency"] = colour * 255 // (2 ** int(stored[2:]) - 1)
    elif stored == "RGB;16B":
        image.info["transparency"] = tuple(channel >> 8 for channel in colour)


def _is_deep_grey(image: Image.Image) -> bool:
    return image.mode.startswith("I") or image.mode == "F"


def _shallow(image: Image.Image, where: str, grey: Grey) -> Image.Image:
    """Convert greyscale of more than 8 bits a pixel to 8 bits; return other images unchanged.

    Pillow returns these values as stored, so the TIFF header's conversions are applied here.

    Raises:
        ValueError: The values have no scale.
        DataError: There is no grey range.
    """
    tags: Any = getattr(image, "tag_v2", {})
    if image.mode == "L" and _is_signed(tags):
        raise ValueError("signed 8-bit pixels, which have no usual scale")
    if not _is_deep_grey(image):
        return image
    stored = _stored(image)
    if grey is None:
        what = "grey of more than 8 bits, and its value range is unknown"
        raise DataError(f"{where}: {what}; {GIVE_RANGE}")
    pixels = to_8_bit(stored, grey, tags.get(ExifTags.Base.BitsPerSample, (16,))[0])
    if tags.get(ExifTags.Base.PhotometricInterpretation) == 0:
        pixels = 255 - pixels
    if image.mode.startswith("I") and "transparency" in image.info:
        pixels[stored == image.info["transparency"]] = BACKGROUND[0]
    return Image.fromarray(pixels)


def _stored(image: Image.Image) -> np.ndarray:
    """Return the values of a loaded greyscale image with more than 8 bits: (H, W)."""
    values, unsigned = np.asarray(image), not _is_signed(getattr(image, "tag_v2", {}))
    return values.view(np.uint32) if image.mode == "I" and image.format == "TIFF" and unsigned else values


def _is_signed(tags: Any) -> bool:
    return tags.get(_SAMPLE_FORMAT, (1,))[0] == 2


def stored_as(image: Any) -> str:
    """Return the pixel layout of the file ('RGB;16B') if Pillow knows it, else the mode. Call before loading."""
    arguments = image.tile[0][3] if getattr(image, "tile", None) else None
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else image.mode


def _to_rgb(image: Image.Image) -> np.ndarray:
    """Convert a loaded image of 8 bits a channel to (H, W, 3) uint8."""
    if image.has_transparency_data:
        pixels = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", pixels.size, BACKGROUND), pixels)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def read_encoded(source: os.PathLike[str] | bytes, where: str) -> bytes:
    """Return an image's encoded bytes.

    Args:
        source: The path of its file, or its bytes.
        where: Where the image comes from, for the message.

    Raises:
        UnreadableImageError, DataError: As `decode_image`, for the file.
    """
    if isinstance(source, bytes):
        return source
    try:
        if not stat.S_ISREG(os.stat(source).st_mode):
            raise OSError("not a regular file")
        with open(source, "rb") as file:
            return file.read()
    except OSError as error:
        raise _unreadable(where, error, source) from error


def decode_larger(content: bytes, where: str, short_side: int) -> tuple[Image.Image, tuple[int, int]] | None:
    """Decode an image to be made smaller, at a half, a quarter or an eighth of its size where a JPEG allows it.

    The result has at least `GAP` times the asked size then. Otherwise as `decode_image`, but greyscale stays grey.

    Args:
        content: The encoded image.
        where: Where the image comes from, for the message.
        short_side: The shorter side that it will get, in pixels.

    Returns:
        The upright image in mode RGB or L, and the (width, height) to resize it to. None if its shorter side is not
        longer than `short_side`, or if it has more than 8 bits per channel.

    Raises:
        UnreadableImageError, DataError: As `decode_image`.
    """
    with _opened(content, where) as image:
        if min(image.size) <= short_side or _is_deep_grey(image) or ";16" in stored_as(image):
            return None
        width, height = image.size
        is_grey = image.mode in ("1", "L", "LA")
        if isinstance(image, JpegImageFile):
            factor = GAP * short_side / min(width, height)
            image.draft(image.mode, (ceil(width * factor), ceil(height * factor)))
        upright = _pixels(image, content, where, None)
    if (upright.shape[1] < upright.shape[0]) != (width < height):
        width, height = height, width
    shorter = min(width, height)
    size = round(width * short_side / shorter), round(height * short_side / shorter)
    return Image.fromarray(upright[..., 0] if is_grey else upright), size

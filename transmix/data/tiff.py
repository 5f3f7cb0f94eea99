"""What a TIFF holds that Pillow cannot open: bands, and numbers of kinds that it does not know."""

import io
import os
from pathlib import Path
from typing import Any, BinaryIO

from PIL import ExifTags, TiffImagePlugin

_SAMPLE_FORMAT = 339
_KINDS = {1: "bits", 2: "bits, signed", 3: "bits, floating point"}


def describe_tiff(source: str | os.PathLike[str] | bytes | BinaryIO) -> str | None:
    """Say what is in a TIFF that could not be opened, and what to do; None if it is no TIFF.

    Example:
        >>> describe_tiff(Path("sentinel.tif"))  # doctest: +SKIP
        'TIFF with 13 bands of 16 bits: write one of them as grey, or three as RGB of 8 bits'
    """
    try:
        if isinstance(source, str | os.PathLike):
            with Path(source).open("rb") as file:
                tags = _first_tags(file)
        else:
            tags = _first_tags(io.BytesIO(source) if isinstance(source, bytes) else source)
        bands = int(tags.get(ExifTags.Base.SamplesPerPixel, 1))
        bits = max(tags.get(ExifTags.Base.BitsPerSample, (1,)))
        kind = _KINDS.get(tags.get(_SAMPLE_FORMAT, (1,))[0], "bits of an unknown kind")
    except Exception:  # no TIFF, or a damaged one
        return None
    remedy = "write it as grey" if bands == 1 else "write one of them as grey, or three as RGB"
    return f"TIFF with {bands} band{'s' if bands > 1 else ''} of {bits} {kind}: {remedy} of 8 bits"


def _first_tags(file: BinaryIO) -> Any:
    """Read the tags of the first page."""
    file.seek(0)
    head = file.read(8)
    if head[:4] in (b"II+\0", b"MM\0+"):  # BigTIFF
        head += file.read(8)
    tags = TiffImagePlugin.ImageFileDirectory_v2(head)
    file.seek(tags.next)
    tags.load(file)
    return tags

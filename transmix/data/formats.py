"""Image file formats: supported suffixes, and files that look like images but are not supported."""

import importlib.util
import os
import stat
from pathlib import Path

from PIL import Image, features

if importlib.util.find_spec("pillow_heif") is not None:
    import pillow_heif  # type: ignore[import-not-found]

    pillow_heif.register_heif_opener()

Image.init()

_HEIF = ("HEIF",) if "HEIF" in Image.OPEN else ()
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000", "ICO", *_HEIF)
"""What is read, in Pillow's names; HEIF where the package pillow-heif is installed. Not the rest: EPS would run
Ghostscript, and others (TGA, SPIDER, ...) have no signature, so that a file of something else may pass for one."""

_LIBRARY = {"JPEG": "jpg", "PNG": "zlib", "WEBP": "webp", "AVIF": "avif", "JPEG2000": "jpg_2000"}
"""What Pillow must have been built with, in the names of `PIL.features`."""


def _suffixes() -> dict[str, str]:
    """Return suffix -> format of everything that the installed Pillow can decode and `FORMATS` names."""
    able = {name for name in FORMATS if name in Image.OPEN and (name not in _LIBRARY or features.check(_LIBRARY[name]))}
    known = {suffix: "JPEG" if name == "MPO" else name for suffix, name in Image.registered_extensions().items()}
    return {suffix: name for suffix, name in known.items() if name in able}


FORMAT_OF = _suffixes()
"""Suffix -> format, in Pillow's names, of files that are read: '.jpg' -> 'JPEG'."""

SUFFIXES = frozenset(FORMAT_OF)
"""The files that count as images, whatever the case of the letters; others are skipped."""

SHALLOW = tuple(end for end, name in FORMAT_OF.items() if name in ("JPEG", "WEBP", "GIF", "BMP", "AVIF", "ICO", "HEIF"))
"""Suffixes of files that hold no more than 8 bits a channel, or of which Pillow gives no more."""

PICTURES = frozenset(Image.registered_extensions()) - {".h5", ".hdf", ".pdf", ".mpg", ".mpeg"} | {
    ".heic", ".heif", ".avif", ".jxl", ".jxr", ".svg", ".dcm", ".nii", ".exr", ".hdr",
    ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".raw",
}  # fmt: skip
"""Suffixes of images of any kind, read or not."""

_TEXT = frozenset([".txt", ".json", ".xml", ".csv", ".yaml", ".yml", ".md", ".html", ".cls"])
"""What often lies beside each image: not opened to see whether it is one."""

JPEG = b"\xff\xd8\xff"
"""What a JPEG file begins with."""

_SIGNATURES = (JPEG, b"\x89PNG\r\n", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"RIFF", b"P5\n", b"P6\n")


def has_suffix(name: str) -> bool:
    """Whether a file has the suffix of a supported image format."""
    return os.path.splitext(name)[1].lower() in SUFFIXES


def looks_like_an_image(path: Path) -> bool:
    """Whether a file with an unsupported suffix is an image anyway."""
    suffix = path.suffix.lower()
    return suffix in PICTURES or (suffix not in _TEXT and _starts_like_an_image(path))


def _starts_like_an_image(path: Path) -> bool:
    """Whether the first bytes of a file are those of a common image format."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False
        with path.open("rb") as file:
            start = file.read(32)
    except OSError:
        return False
    return start.startswith(_SIGNATURES) or start[4:8] == b"ftyp" or start[4:12] == b"jP  \r\n\x87\n"

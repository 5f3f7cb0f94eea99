"""Uploaded images: read within size limits, or rejected with a message."""

import filecmp
from collections.abc import Mapping
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from transmix.data.dataset import DataError, printable
from transmix.data.decode import decode_image, image_size
from transmix.data.grey import Grey

LARGEST_FILE = 32 * 2**20
LARGEST_IMAGE = 50_000_000
"""Pixels: 150 MB once decoded."""

SAMPLES = ("china.jpg", "flower.jpg")
"""The photographs that come with scikit-learn (CC BY, see its images/README.txt)."""


def sample(name: str) -> Path:
    """Return the path of one of `SAMPLES`."""
    return Path(str(resources.files("sklearn.datasets.images") / name))


def is_sample(path: Path) -> bool:
    """Whether a file is one of `SAMPLES`, under its own name."""
    return path.name in SAMPLES and filecmp.cmp(path, sample(path.name), shallow=False)


def received(sent: Mapping[str, Any], folder: Path, grey: Grey = None) -> Path:
    """Return the path of an uploaded file after checking that it can be read.

    Args:
        sent: What drop.js reports: `path` of a received file, or `name` and `size` of a file that was not received.
        folder: Upload folder of the app.
        grey: As in `decode_image`.

    Raises:
        DataError: It was not received, or cannot be read.
    """
    if "path" not in sent:
        name, size = str(sent.get("name", "the file")), int(sent.get("size", 0))
        _check_bytes(name, size)
        raise DataError(f"{printable(name)}: the upload failed; upload it again")
    path = Path(str(sent["path"])).resolve()
    if not path.is_relative_to(folder.resolve()):  # a path that this page did not get from us
        raise DataError(f"{printable(path.name)}: not a file that was uploaded to this page")
    read_picture(path, grey)
    return path


@lru_cache(maxsize=8)
def read_picture(path: Path, grey: Grey = None) -> np.ndarray:
    """Decode an uploaded image, `grey` as in `decode_image`: (H, W, 3) uint8, read-only.

    Raises:
        DataError: It is no image, damaged, or too large; the message names the file, without its folder.
    """
    name = printable(path.name)
    try:
        size = path.stat().st_size
    except OSError as error:
        raise DataError(f"{name}: the file no longer exists; upload it again") from error
    if size == 0:
        raise DataError(f"{name}: the file is empty")
    _check_bytes(name, size)
    height, width = image_size(path, name)
    if height * width > LARGEST_IMAGE:
        raise DataError(
            f"{name}: {height} x {width} pixels are too many; up to {LARGEST_IMAGE // 10**6} million are read. "
            f"Make the image smaller"
        )
    pixels = decode_image(path, name, grey)
    pixels.flags.writeable = False
    return pixels


def _check_bytes(name: str, size: int) -> None:
    if size > LARGEST_FILE:
        most = LARGEST_FILE // 2**20
        raise DataError(f"{printable(name)}: {size / 2**20:.0f} MB are too much; up to {most} MB are read")

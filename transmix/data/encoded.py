"""Encoded images on disk, decoded on indexing: the result of every file reader."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from transmix.data.boxes import Box
from transmix.data.decode import decode_image, decode_part, image_size
from transmix.data.formats import JPEG, SHALLOW
from transmix.data.grey import Grey


class Files(Protocol):
    """A source of encoded images; rows are counted from 0."""

    def source(self, row: int) -> Path | bytes:
        """Return the encoded image: the path of its file, or its bytes."""
        ...

    def where(self, row: int) -> str:
        """Return the name of an image, for messages."""
        ...

    def may_be_deep(self) -> np.ndarray:
        """Return which images may have more than 8 bits per channel, without opening them: (rows,) bool."""
        ...


@dataclass(frozen=True, eq=False)
class EncodedImages:
    """N images that are decoded when indexed.

    Attributes:
        files: source of the images.
        rows: (N,) int64, row of each image in `files`.
        grey: how greyscale of more than 8 bits is scaled.
    """

    files: Files
    rows: np.ndarray
    grey: Grey = None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> np.ndarray:
        return decode_image(self.source(index), where=self.where(index), grey=self.grey)

    def part(self, index: int, choose: Callable[[int, int], Box]) -> np.ndarray:
        """Decode a part of an image, as `decode_part`: (h, w, 3) uint8."""
        return decode_part(self.source(index), self.where(index), choose, self.grey)

    def is_jpeg(self, index: int) -> bool:
        """Whether an image is a JPEG, by its first bytes; False if it cannot be read."""
        source = self.source(index)
        if isinstance(source, bytes):
            return source.startswith(JPEG)
        try:
            with open(source, "rb") as file:
                return file.read(len(JPEG)) == JPEG
        except OSError:
            return False

    def size(self, index: int) -> tuple[int, int]:
        """Read the (height, width) of an image from its header."""
        return image_size(self.source(index), where=self.where(index))

    def source(self, index: int) -> Path | bytes:
        """Return the encoded image: the path of its file, or its bytes."""
        return self.files.source(int(self.rows[index]))

    def where(self, index: int) -> str:
        """Return the file of an image, and its position there."""
        return self.files.where(int(self.rows[index]))

    def may_be_deep(self) -> np.ndarray:
        """Return the indices of images that may have more than 8 bits per channel."""
        return np.flatnonzero(self.files.may_be_deep()[self.rows])

    def take(self, positions: np.ndarray) -> "EncodedImages":
        """Return the images at the given indices, (n,) int64."""
        return replace(self, rows=self.rows[positions])


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """Images stored as separate files.

    Attributes:
        folder: The folder that the paths are relative to.
        paths: (N,) paths as bytes. One array instead of a million strings, because forked workers copy each
            string that they access.
        passed_over: number of skipped files that look like images.
    """

    folder: Path
    paths: np.ndarray
    passed_over: int = 0

    def source(self, row: int) -> Path:
        """Return the path of an image."""
        return self.folder / os.fsdecode(self.paths[row])

    def where(self, row: int) -> str:
        """Return the name of an image's file."""
        return str(self.source(row))

    def may_be_deep(self) -> np.ndarray:
        """Return which images may have more than 8 bits per channel, judging by their suffixes."""
        shallow = tuple(suffix.encode() for suffix in SHALLOW)
        return np.fromiter((not path.lower().endswith(shallow) for path in self.paths), bool, len(self.paths))


def image_files(folder: Path, paths: Iterable[str], passed_over: int = 0) -> EncodedImages:
    """Return image files from their paths relative to a folder."""
    encoded = np.array([os.fsencode(path) for path in paths], dtype="S")
    return EncodedImages(ImageFiles(folder, encoded, passed_over), np.arange(len(encoded)))

"""The image files to predict: files, folders, globs, or a list on standard input."""

import glob
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from transmix.data.dataset import DataError
from transmix.data.formats import looks_like_an_image
from transmix.data.tree import walk

STDIN = "-"
"""The word for a list on standard input, one path a line."""


def check_words(words: Sequence[str]) -> None:
    """Check that every word names something.

    Raises:
        DataError: there is no word, or one is no file, an empty folder, or a glob without a match.
    """
    if not words:
        raise DataError("no images: give files, folders, globs in quotes ('photos/*.jpg'), or - for a list on stdin")
    for word in words:
        if word == STDIN:
            continue
        if os.path.lexists(word):
            if os.path.isdir(word) and next(_files(word)) == word:
                raise DataError(
                    f"{word}: no images in this folder; a data set in other files: transmix evaluate --data"
                )
        elif not glob.has_magic(word):
            raise DataError(f"{word}: no such file or folder")
        elif next(glob.iglob(word, recursive=True), None) is None:
            raise DataError(f"{word}: no file has such a name")


def image_paths(words: Sequence[str]) -> Iterator[str]:
    """Yield the path of every image file, in the order of the words; a path given twice comes twice.

    A folder gives the images in it, then those of its subfolders, sorted by name. As in training, names that begin with
    a dot are left out; other than there, a file that looks like an image is taken whatever its name, so that one that
    cannot be read is an error and not missing.

    Raises:
        DataError: a folder cannot be listed.
    """
    for word in words:
        if word == STDIN:
            for line in sys.stdin.buffer:
                if path := os.fsdecode(line.rstrip(b"\r\n")):
                    yield from _files(path)
        elif os.path.lexists(word):
            yield from _files(word)
        else:
            for path in sorted(glob.iglob(word, recursive=True)):
                yield from _files(path)


def _files(path: str) -> Iterator[str]:
    """Yield the images of a folder; the path itself if it is a file, or a folder without any."""
    count = 0
    if os.path.isdir(path):
        for entry, kind in walk(Path(path)):
            if kind == "image" or (kind == "other" and looks_like_an_image(Path(entry.path))):
                count += 1
                yield entry.path
    if not count:
        yield path

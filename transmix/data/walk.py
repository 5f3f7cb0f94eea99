"""The files in a folder and the folders below it, links followed: which are images, and why the others are not."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from transmix.data.dataset import DataError
from transmix.data.formats import has_suffix

Kind = Literal["image", "other", "hidden", "loop"]
"""What an entry is: an image by its name; a file that is none; hidden, as its name begins with a dot; a link to a
folder that holds the link."""

Refuse = Callable[[Path, OSError], None]


def refuse(folder: Path, error: OSError) -> None:
    """Raise a DataError for a folder that cannot be listed."""
    raise DataError(f"{folder}: cannot list the folder ({error.strerror}); make it readable, or remove it") from error


def walk(top: Path, unlisted: Refuse = refuse) -> Iterator[tuple[os.DirEntry, Kind]]:
    """Yield every file in a folder and the folders below it, and every hidden entry and loop.

    Links to folders are followed, but for those that lead back to a folder that holds them, which would never end.

    Args:
        top: the folder.
        unlisted: called with a folder that cannot be listed and the error.

    Raises:
        DataError: a folder cannot be listed, unless `unlisted` does something else.
    """
    waiting: list[tuple[Path, tuple[str, ...]]] = [(top, (os.path.realpath(top),))]
    while waiting:
        folder, passed = waiting.pop()
        for entry in entries_of(folder, unlisted):
            if entry.name.startswith("."):
                yield entry, "hidden"
            elif not is_folder(entry):
                yield entry, "image" if has_suffix(entry.name) else "other"
            elif not entry.is_symlink():
                waiting.append((Path(entry.path), (*passed[:-1], os.path.join(passed[-1], entry.name))))
            elif any(_holds(target := os.path.realpath(entry.path), one) for one in passed):
                yield entry, "loop"
            else:
                waiting.append((Path(entry.path), (*passed, target)))


def entries_of(folder: Path, unlisted: Refuse = refuse) -> list[os.DirEntry]:
    """List a folder, sorted by name; arguments and errors as `walk`."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        unlisted(folder, error)
        return []


def is_folder(entry: os.DirEntry) -> bool:
    """Tell whether an entry is a folder, or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def leads_back(entry: os.DirEntry) -> bool:
    """Tell whether an entry is a link to a folder that holds it."""
    return entry.is_symlink() and _holds(os.path.realpath(entry.path), os.path.realpath(os.path.dirname(entry.path)))


def _holds(outer: str, inner: str) -> bool:
    """Tell whether a folder is another or holds it; both without links."""
    return inner == outer or inner.startswith(os.path.join(outer, ""))

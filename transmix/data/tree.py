"""Walk a folder tree: images, other files, hidden entries, links that lead back."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from transmix.data.dataset import DataError
from transmix.data.formats import has_suffix

Kind = Literal["image", "other", "hidden", "loop"]
"""What an entry is: an image by its name; a file that is none; hidden, by its name; a link to a folder that holds the
link."""

Refuse = Callable[[Path, OSError], None]

LITTER = frozenset(["__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"])
"""Folders that systems leave behind; their images are copies, thumbnails or deleted."""


def is_hidden(name: str) -> bool:
    """Whether an entry is skipped for its name: it begins with a dot, or an operating system left it behind."""
    return name.startswith(".") or name in LITTER


def refuse(folder: Path, error: OSError) -> None:
    """Raise a DataError for a folder that cannot be listed."""
    raise DataError(f"{folder}: cannot list the folder ({error.strerror}); make it readable, or remove it") from error


def walk(top: Path, unlisted: Refuse = refuse) -> Iterator[tuple[os.DirEntry, Kind]]:
    """Yield every file in a folder, then those in its subfolders, sorted by name; and every hidden entry and link loop.

    Links to folders are followed, except those to a parent folder, which would never end.

    Args:
        top: the folder.
        unlisted: called with a folder that cannot be listed and the error.

    Raises:
        DataError: a folder cannot be listed, unless `unlisted` handles it.
    """
    waiting: list[tuple[Path, tuple[str, ...]]] = [(top, (os.path.realpath(top),))]
    while waiting:
        folder, passed = waiting.pop()
        below: list[tuple[Path, tuple[str, ...]]] = []
        for entry in entries_of(folder, unlisted):
            if is_hidden(entry.name):
                yield entry, "hidden"
            elif not is_folder(entry):
                yield entry, "image" if has_suffix(entry.name) else "other"
            elif not entry.is_symlink():
                below.append((Path(entry.path), (*passed[:-1], os.path.join(passed[-1], entry.name))))
            elif any(_holds(target := os.path.realpath(entry.path), one) for one in passed):
                yield entry, "loop"
            else:
                below.append((Path(entry.path), (*passed, target)))
        waiting += reversed(below)


def entries_of(folder: Path, unlisted: Refuse = refuse) -> list[os.DirEntry]:
    """List a folder, sorted by name; arguments and errors as `walk`."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        unlisted(folder, error)
        return []


def is_folder(entry: os.DirEntry) -> bool:
    """Whether an entry is a folder, or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def leads_back(entry: os.DirEntry) -> bool:
    """Whether an entry is a link to one of its parent folders."""
    return entry.is_symlink() and _holds(os.path.realpath(entry.path), os.path.realpath(os.path.dirname(entry.path)))


def _holds(outer: str, inner: str) -> bool:
    """Whether a folder equals or contains another; both without links."""
    return inner == outer or inner.startswith(os.path.join(outer, ""))


def subfolders(folder: Path) -> list[str]:
    """List the names of the folders in a folder, without hidden ones and links that lead back."""
    return [
        entry.name
        for entry in entries_of(folder)
        if is_folder(entry) and not is_hidden(entry.name) and not leads_back(entry)
    ]


def holds_images(folder: Path) -> bool:
    """Whether a folder itself has a file that is an image by its name."""
    return any(has_suffix(entry.name) and not is_hidden(entry.name) for entry in entries_of(folder))


def below_own_name(folder: Path) -> Path:
    """Return the folder in which an archive was unpacked to a folder of its own name: 'train/train' for 'train'."""
    inside = subfolders(folder)
    if len(inside) == 1 and inside[0].lower() == folder.name.lower() and not holds_images(folder / inside[0]):
        return folder / inside[0]
    return folder

"""Class folders: `train/<class>/*.jpg` and `val/<class>/*.jpg`, the layout of ImageNet."""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from transmix.data.class_names import class_names, positions
from transmix.data.dataset import DataError, ImageData, Split, listing, printable
from transmix.data.encoded import image_files
from transmix.data.formats import has_suffix, looks_like_an_image
from transmix.data.parts import TRAIN, USUAL, Choice, choose_parts

Kind = Literal["image", "other", "hidden", "loop"]
"""What an entry is: an image by its name; a file that is none; hidden, as its name begins with a dot; a link to a
folder that holds the link."""

Refuse = Callable[[Path, OSError], None]


def holds_class_folders(root: str | os.PathLike[str]) -> bool:
    """Whether a folder has a subfolder `train`, in upper or lower case."""
    return any(name.lower() in TRAIN for name in part_folders(Path(root)))


def part_folders(root: Path) -> list[str]:
    """List the subfolders of a data set's folder: its possible parts."""
    return [entry.name for entry in entries_of(root) if is_folder(entry) and not entry.name.startswith(".")]


def read_folder(root: str | os.PathLike[str], choice: Choice = USUAL) -> ImageData:
    """Read a data set with one folder per class, under `train` and `val` (or `valid`, `validation`, ..., or `test`).

    The classes are the names of the folders in `train`, sorted; the other split is matched by name and may lack
    classes. Names are compared in Unicode's form NFC. Class folders are searched recursively, links included. Names
    that begin with a dot are ignored. A file counts as an image if the installed Pillow reads its suffix, in upper or
    lower case; other files that look like images are counted in the data set's notes. Files are sorted by path and
    decoded on indexing.

    Args:
        root: The folder with `train` and `val`.
        choice: Which part to hold out.

    Raises:
        DataError: If a split is missing, a class folder of `train` has no image, the held-out part has a class that
            `train` lacks, or class names are not UTF-8 or equal.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    present = part_folders(root)
    train, parts = choose_parts(present, choice, root, "folder '{}'")
    folders = class_folders(root / train)
    classes = tuple(folders)
    val = None if parts.held_out == train else _read_held_out(root / parts.held_out, classes)
    of_train = read_split(root / train, tuple(folders.values()))
    val = of_train if val is None else val
    unused = tuple(name for name in parts.unused if any(map(is_class_folder, entries_of(root / name))))
    notes = passed_over_note(root, of_train, val)
    return ImageData(root.resolve().name, classes, of_train, val, notes, parts=replace(parts, unused=unused))


def _read_held_out(folder: Path, classes: tuple[str, ...]) -> Split:
    """List the images of the held-out part; labels are indices into the classes; it may lack classes."""
    folders = class_folders(folder)
    if extra := [name for name in folders if name not in classes]:
        remedy = "remove their folders here, or add images to train"
        raise DataError(f"{folder}: not among the classes of train: {listing(map(printable, extra))}; {remedy}")
    split = read_split(folder, tuple(folders.values()), may_be_empty=True)
    if not len(split):
        raise DataError(f"{folder}: no images; put the images to validate on in {folder.name}/<class>/")
    return replace(split, labels=positions(folders, classes)[split.labels])


def passed_over_note(root: Path, *splits: Split) -> tuple[str, ...]:
    """Return a note on skipped files that look like images; empty if there are none."""
    images: Any = {split.images for split in splits}
    count = sum(one.files.passed_over for one in images)
    files = "file that looks like an image" if count == 1 else "files that look like images"
    return (f"skipped {count} {files}; transmix doctor {root} names each",) if count else ()


def class_folders(folder: Path) -> dict[str, str]:
    """List the folders in a folder: class name -> name of its folder, sorted by class name.

    Raises:
        DataError: there is no folder, a name is not UTF-8, or two are equal as class names.
    """
    written = [entry.name for entry in entries_of(folder) if is_class_folder(entry)]
    if not written:
        raise DataError(f"{folder}: no class folders; put the images in {folder.name}/<class>/")
    return dict(sorted(class_names(written, folder).items()))


def is_class_folder(entry: os.DirEntry) -> bool:
    """Whether an entry of a split's folder is a class: a folder, or a link to one that does not contain the link."""
    return is_folder(entry) and not entry.name.startswith(".") and not leads_back(entry)


def read_split(folder: Path, classes: tuple[str, ...], may_be_empty: bool = False) -> Split:
    """List the images in the given class folders; labels are indices into the list of folders.

    Raises:
        DataError: a class folder is empty and `may_be_empty` is false, or a folder cannot be listed.
    """
    files = [_image_files(folder, name) for name in classes]
    without = [name for name, (paths, _) in zip(classes, files, strict=True) if not paths]
    if without and not may_be_empty:
        raise DataError(f"{folder}: no images in class folder {listing(without)}; add some or remove the folder")
    labels = np.repeat(np.arange(len(classes), dtype=np.int64), [len(paths) for paths, _ in files])
    beside = sum(in_no_class(entry) for entry in entries_of(folder))
    passed_over = beside + sum(count for _, count in files)
    return Split(image_files(folder, (path for paths, _ in files for path in paths), passed_over), labels)


def in_no_class(entry: os.DirEntry) -> bool:
    """Whether an entry next to the class folders is an image, or looks like one."""
    if entry.name.startswith(".") or is_folder(entry):
        return False
    return has_suffix(entry.name) or looks_like_an_image(Path(entry.path))


def _image_files(folder: Path, name: str) -> tuple[list[str], int]:
    """List the images of a class, as paths relative to the split's folder; count other files that look like images."""
    found, passed_over = [], 0
    for entry, kind in walk(folder / name):
        if kind == "image":
            found.append(os.path.relpath(entry.path, folder))
        elif kind == "other":
            passed_over += looks_like_an_image(Path(entry.path))
    return sorted(found), passed_over


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
            if entry.name.startswith("."):
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

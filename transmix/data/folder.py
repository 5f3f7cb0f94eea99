"""Folders of image files: class folders (`train/<class>/*.jpg`, as ImageNet) and label lists."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from transmix.data.class_names import class_names, positions
from transmix.data.dataset import DataError, ImageData, Parts, Split, listing, printable
from transmix.data.encoded import image_files
from transmix.data.formats import has_suffix, looks_like_an_image
from transmix.data.listed_images import CLS_LOC, ListedImages, columns_remedy, find_lists
from transmix.data.parts import USUAL, WHOLE, Choice, NoHeldOutError, affixed, choose_parts, remedy, split_of
from transmix.data.tree import (
    below_own_name,
    entries_of,
    holds_images,
    is_folder,
    is_hidden,
    subfolders,
    walk,
)


@dataclass(frozen=True)
class FolderPart:
    """One part of a data set's folder.

    Attributes:
        folder: The folder with its class folders, or with its images.
        listed: Its images by a label list; None: class folders.
    """

    folder: Path
    listed: ListedImages | None = None

    def read(self, may_lack: bool) -> tuple[tuple[str, ...], Split]:
        """Return the classes and the images; with `may_lack`, a class folder may be empty.

        Raises:
            DataError: There are no class folders and no list, or the list does not fit.
        """
        if self.listed is not None:
            return self.listed.read()
        folders = class_folders(self.folder)
        return tuple(folders), read_split(self.folder, tuple(folders.values()), may_lack)

    def layout(self, root: Path) -> str:
        """Describe how the part is labelled: 'class folders in train'."""
        if self.listed is None:
            inside = os.path.relpath(self.folder, root)
            return "class folders" + (f" in {inside}" if inside != "." else "")
        columns = self.listed.source.columns
        named = f" (columns {columns[0]} and {columns[1]})" if columns else ""
        return f"label list {os.path.relpath(self.listed.source.path, root)}{named}"


@dataclass(frozen=True)
class FolderParts:
    """The parts of a data set's folder.

    Attributes:
        parts: Name -> part.
        unlisted: Paths of images that are in no label list, where there is one.
        unused: Label lists that are not used, because class folders are.
    """

    parts: dict[str, FolderPart]
    unlisted: Sequence[str] = ()
    unused: Sequence[Path] = ()


NO_CLASSES = frozenset(["images", "image", "imgs", "img", "jpegimages", "photos", "pictures", "masks", "annotations"])
"""Folders that are no classes, if they are called so beside others: images without labels."""


def holds_class_folders(root: str | os.PathLike[str]) -> bool:
    """Whether a folder has a subfolder `train`, in upper or lower case, or one such as `seg_train`."""
    return any(split_of(name) == "train" for name in split_folders(Path(root)))


def part_folders(root: Path) -> list[str]:
    """List the subfolders of a data set's folder: its possible parts."""
    return [entry.name for entry in entries_of(root) if is_folder(entry) and not is_hidden(entry.name)]


def split_folders(root: Path) -> list[str]:
    """List the subfolders whose names say train, val or test: alone, or with the same around the word as another."""
    around = {name: rest for name in part_folders(root) for word, rest in [affixed(name)] if word}
    rests = list(around.values())
    return [name for name, rest in around.items() if rest == "{}" or split_of(name) == "train" or rests.count(rest) > 1]


def data_folder(root: Path) -> Path:
    """Return the folder with the data set: the only subfolder, where an archive was unpacked to one of its own."""
    if (root / CLS_LOC).is_dir():
        return root / CLS_LOC
    inside = subfolders(root)
    if len(inside) == 1 and not split_of(inside[0]) and not holds_images(root) and not holds_images(root / inside[0]):
        return root / inside[0]
    return root


def find_parts(root: Path, choice: Choice = USUAL, given: Path | None = None) -> FolderParts:
    """Find the parts of a data set's folder: its folders train, val, ..., and label lists; or all of it as one part.

    Where a part has two class folders or more, these say the classes, and no label list, unless the user named it.

    Args:
        root: The folder.
        choice: Names of the columns of label lists.
        given: A label list that the user named.

    Raises:
        DataError: A label list cannot be read, or two are for the same part.
    """
    splits, folders = split_folders(root), part_folders(root)
    count = {name: len(subfolders(below_own_name(root / name))) for name in splits}
    done = [name for name in splits if count[name] > 1] if given is None else []
    lists = find_lists(root, [name for name in splits if name not in done], done, choice, given)
    listed = {part: FolderPart(root, one) for part, one in lists.found.items()}
    parts: dict[str, FolderPart] = {}
    if splits:
        parts = {name: FolderPart(below_own_name(root / name)) for name in folders}
    elif not listed and class_folders_of_all(root, also_one=choice.for_evaluation):
        parts = {WHOLE: FolderPart(root)}
    return FolderParts(parts | listed, lists.unlisted, lists.unused)


def class_folders_of_all(root: Path, also_one: bool = False) -> list[str]:
    """Return the subfolders of a folder that is not divided into parts, if they look like classes; else nothing."""
    names = subfolders(root)
    if any(name.lower() in NO_CLASSES or split_folders(root / name) for name in names):
        return []
    with_images = [name for name in names if any(kind == "image" for _, kind in walk(root / name))]
    if len(with_images) == 1 and also_one and holds_images(root / with_images[0]):
        return with_images
    return with_images if len(with_images) > 1 else []


def read_folder(root: str | os.PathLike[str], choice: Choice = USUAL, given: Path | None = None) -> ImageData:
    """Read a data set of image files: one folder per class, or a label list, for each part or for all images.

    The parts are `train` and `val` (or `valid`, `validation`, ..., or `test`), in any case, also as `seg_train` and
    `seg_test`, and unpacked into a folder of their own name (`train/train`). The classes are those of `train`, sorted;
    the other part is matched by name and may lack classes. Names are compared in Unicode's form NFC. Class folders are
    searched recursively, links included. Names that begin with a dot, and folders that systems leave behind, are
    ignored. A file counts as an image if the installed Pillow reads its suffix, in upper or lower case; other files
    that look like images are counted in the data set's notes. Files are sorted by class and path, and decoded on
    indexing.

    Args:
        root: The folder with `train` and `val`, or with the class folders or label list of all images.
        choice: Which part to hold out, and the columns of label lists.
        given: A label list that the user named; it comes before class folders.

    Raises:
        DataError: If a split is missing, a class folder of `train` has no image, the held-out part has a class that
            `train` lacks, class names are not UTF-8 or equal, or a label list and the files do not fit.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    return read_parts(root, find_parts(root, choice, given), choice)


def read_parts(root: Path, found: FolderParts, choice: Choice) -> ImageData:
    """Read the training part and the held-out part of a folder; errors as `read_folder`."""
    if [*found.parts] == [WHOLE] and choice.val_fraction is None and not choice.for_evaluation:
        raise NoHeldOutError(_undivided(root, found.parts[WHOLE]))
    train, parts = choose_parts(found.parts, choice, root, "folder '{}'")
    used = {name: found.parts[name] for name in dict.fromkeys((train, parts.held_out))}
    for name, part in used.items():
        _require_labels(root, name, part, choice)
    classes, of_train = used[train].read(choice.for_evaluation)
    val = of_train if parts.held_out == train else _read_held_out(root, used[parts.held_out], classes)
    notes = (*passed_over_note(root, of_train, val), *_notes(root, found, used))
    return ImageData(root.resolve().name, classes, of_train, val, notes, parts=_about(root, found, used, parts))


def _undivided(root: Path, whole: FolderPart) -> str:
    """Return the message for a data set without parts, of which no fraction is held out."""
    what = f"its {whole.layout(root)} is of all images" if whole.listed else ""
    if whole.listed is None:
        what = f"these look like class folders ({listing(map(printable, subfolders(root)), 3)})"
        if split_of(root.name) and len(split_folders(root.resolve().parent)) > 1:
            return f"{root}: {what} of one part of {root.parent}; take all parts: --data {root.parent}"
    return f"{root}: {what}, not divided into train and val; {remedy(root)}"


def _require_labels(root: Path, name: str, part: FolderPart, choice: Choice) -> None:
    """Raise a DataError for a part without class folders and without a label list."""
    if part.listed is not None or subfolders(part.folder):
        return
    what = f"no class folders; put the images in {part.folder.name}/<class>/, or list them in {name}.csv"
    tables = [Path(entry.path) for entry in entries_of(root) if entry.name.lower().endswith((".csv", ".tsv"))]
    unclear = [f"; {table}: {how}" for table in tables if (how := columns_remedy(table, choice))]
    what += "".join(unclear[:1])
    raise DataError(f"{part.folder}: {what}" + ("" if split_of(name) == "train" else f"; {remedy(root)}"))


def _read_held_out(root: Path, part: FolderPart, classes: tuple[str, ...]) -> Split:
    """List the images of the held-out part; labels are indices into the classes; it may lack classes."""
    own, split = part.read(may_lack=True)
    where = part.folder if part.listed is None else part.listed.source.path
    position = positions(own, classes)
    if extra := [name for name, index in zip(own, position, strict=True) if index < 0]:
        what = f"not among the classes of train: {listing(map(printable, extra))}"
        how = "remove their folders here" if part.listed is None else "take their lines out"
        other = f"; {remedy(root)}" if len(extra) == len(own) else ""
        raise DataError(f"{where}: {what}; {how}, or add images to train{other}")
    if not len(split):
        raise DataError(f"{where}: no images; put the images to validate on in {part.folder.name}/<class>/")
    return replace(split, labels=position[split.labels])


def layout_of(root: Path, parts: dict[str, FolderPart]) -> str:
    """Describe how the parts of a folder are labelled, in words."""
    if WHOLE in parts:
        return f"{parts[WHOLE].layout(root)}, not divided into parts"
    if all(part.listed is None for part in parts.values()):
        return "class folders in " + " and ".join(os.path.relpath(part.folder, root) for part in parts.values())
    return "; ".join(f"{name}: {part.layout(root)}" for name, part in parts.items())


def _about(root: Path, found: FolderParts, used: dict[str, FolderPart], parts: Parts) -> Parts:
    """Return the parts with the layout, the columns of the training list, and unused parts that have labels."""
    columns = next((part.listed.source.columns for part in used.values() if part.listed is not None), None)
    labelled = lambda part: part.listed is not None or bool(subfolders(part.folder))  # noqa: E731
    unused, others = (
        tuple(name for name in names if labelled(found.parts[name])) for names in (parts.unused, parts.others)
    )
    return replace(parts, unused=unused, others=others, columns=columns, layout=layout_of(root, used))


def _notes(root: Path, found: FolderParts, used: dict[str, FolderPart]) -> tuple[str, ...]:
    """Return notes on label lists, on images in none, and on class folders that only look like such."""
    notes = [note for part in used.values() if part.listed is not None for note in part.listed.notes]
    if (count := len(found.unlisted)) and any(part.listed for part in used.values()):
        first = listing(map(printable, found.unlisted), 3)
        notes.append(f"{count} images are in no label list and are not used: {first}")
    why = "the folders say the classes" if not any(part.listed for part in used.values()) else "another list is"
    notes += [f"{path} is not used: {why}; --data {path} takes it" for path in found.unused]
    if WHOLE in used and used[WHOLE].listed is None:
        notes.append(f"classes are all folders in {root}: {listing(map(printable, subfolders(root)))}")
    return tuple(dict.fromkeys(notes))


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
    written = subfolders(folder)
    if not written:
        raise DataError(f"{folder}: no class folders; put the images in {folder.name}/<class>/")
    return dict(sorted(class_names(written, folder).items()))


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
    if is_hidden(entry.name) or is_folder(entry):
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

"""Class folders: `train/<class>/*.jpg` and `val/<class>/*.jpg`, the layout of ImageNet."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from transmix.data.dataset import VALIDATION_NAMES, DataError, ImageData, Split, class_difference, listing
from transmix.data.decode import decode_image, image_size
from transmix.data.formats import has_suffix, looks_like_an_image
from transmix.data.grey import Grey
from transmix.data.walk import entries_of, is_folder, leads_back, walk


@dataclass(frozen=True, eq=False)
class FolderImages:
    """Image files that are decoded when indexed.

    Attributes:
        folder: The folder that the paths are relative to.
        paths: (N,) paths as bytes. One array instead of a million strings, because workers that are forked
            would copy each string as soon as they touch it.
        passed_over: how many other files beside these look like images.
        grey: how greyscale of more than 8 bits is scaled.
    """

    folder: Path
    paths: np.ndarray
    passed_over: int = 0
    grey: Grey = None

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> np.ndarray:
        path = self.path(index)
        return decode_image(path, where=str(path), grey=self.grey)

    def where(self, index: int) -> str:
        """Name the file of an image."""
        return str(self.path(index))

    def size(self, index: int) -> tuple[int, int]:
        """Read the (height, width) of an image from its header."""
        path = self.path(index)
        return image_size(path, where=str(path))

    def path(self, index: int) -> Path:
        """Give the file of an image."""
        return self.folder / os.fsdecode(self.paths[index])


def holds_class_folders(root: str | os.PathLike[str]) -> bool:
    """Tell whether a folder has a folder `train` in it."""
    return (Path(root) / "train").is_dir()


def read_folder(root: str | os.PathLike[str]) -> ImageData:
    """Read a data set kept as one folder a class, under `train` and `val` (or `validation`, or `test`).

    The classes are the names of the folders in `train`, sorted; the other split is matched to them by name.
    Images may lie deeper inside a class folder, also behind links. Names that begin with a dot are ignored. An image is
    what is called as one that the installed Pillow reads, whatever the case of the letters; other files that look like
    images are counted in the data set's notes. Files are sorted by path and decoded when indexed.

    Args:
        root: The folder that holds `train` and `val`.

    Raises:
        DataError: If a split or a class is missing, a class folder has no image, or the classes differ.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    train_folder = root / "train"
    if not train_folder.is_dir():
        raise DataError(f"{root}: no folder 'train'; put the training images in train/<class>/")
    val_folder = next((root / name for name in VALIDATION_NAMES if (root / name).is_dir()), None)
    if val_folder is None:
        raise DataError(
            f"{root}: no folder {' or '.join(map(repr, VALIDATION_NAMES))}; "
            "put the images to validate on in val/<class>/"
        )

    classes = class_folders(train_folder)
    difference = class_difference(expected=classes, found=class_folders(val_folder))
    if difference:
        raise DataError(f"{val_folder}: classes differ from those of train ({difference})")
    train, val = read_split(train_folder, classes), read_split(val_folder, classes)
    return ImageData(root.resolve().name, classes, train, val, notes=passed_over_note(root, train, val))


def passed_over_note(root: Path, *splits: Split) -> tuple[str, ...]:
    """Say how many files beside the images of splits look like images; nothing where there are none."""
    count = sum(split.images.passed_over for split in splits if isinstance(split.images, FolderImages))
    files = "file that looks like an image" if count == 1 else "files that look like images"
    return (f"passed over {count} {files}; transmix doctor {root} names each",) if count else ()


def class_folders(folder: Path) -> tuple[str, ...]:
    """List the names of the folders in a folder, sorted; DataError if there is none."""
    names = [entry.name for entry in entries_of(folder) if is_class_folder(entry)]
    if not names:
        raise DataError(f"{folder}: no class folders; put the images in {folder.name}/<class>/")
    return tuple(names)


def is_class_folder(entry: os.DirEntry) -> bool:
    """Tell whether an entry of a split's folder is a class: a folder, or a link to one that does not hold the link."""
    return is_folder(entry) and not entry.name.startswith(".") and not leads_back(entry)


def read_split(folder: Path, classes: tuple[str, ...]) -> Split:
    """List the images in the class folders of a folder.

    Raises:
        DataError: if a class folder holds none, or a folder cannot be listed.
    """
    files = [_image_files(folder, name) for name in classes]
    empty = [name for name, (paths, _) in zip(classes, files, strict=True) if not paths]
    if empty:
        raise DataError(f"{folder}: no images in class folder {listing(empty)}; add some or remove the folder")
    labels = np.repeat(np.arange(len(classes), dtype=np.int64), [len(paths) for paths, _ in files])
    paths = np.array([os.fsencode(path) for paths, _ in files for path in paths])
    beside = sum(in_no_class(entry) for entry in entries_of(folder))
    return Split(FolderImages(folder, paths, beside + sum(count for _, count in files)), labels)


def in_no_class(entry: os.DirEntry) -> bool:
    """Tell whether an entry beside the class folders is an image, or looks like one."""
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

"""Class folders: `train/<class>/*.jpg` and `val/<class>/*.jpg`, the layout of ImageNet."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from transmix.data.dataset import VALIDATION_NAMES, DataError, ImageData, Split, class_difference, listing
from transmix.data.decode import decode_image, image_size

SUFFIXES = frozenset(
    [".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".avif"]
)
"""The files that count as images, whatever the case of the letters; others are passed over."""


@dataclass(frozen=True, eq=False)
class FolderImages:
    """Image files that are decoded when indexed.

    Attributes:
        folder: The folder that the paths are relative to.
        paths: (N,) paths as bytes. One array instead of a million strings, because workers that are forked
            would copy each string as soon as they touch it.
    """

    folder: Path
    paths: np.ndarray

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> np.ndarray:
        path = self.path(index)
        return decode_image(path, where=str(path))

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
    Images may lie deeper inside a class folder. Names that begin with a dot are ignored. Files are sorted by
    path and decoded when indexed.

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
    return ImageData(root.resolve().name, classes, read_split(train_folder, classes), read_split(val_folder, classes))


def class_folders(folder: Path) -> tuple[str, ...]:
    """List the names of the folders in a folder, sorted; DataError if there is none."""
    with os.scandir(folder) as entries:
        # not the entry's own is_dir, which raises on a link to itself
        names = sorted(entry.name for entry in entries if Path(entry).is_dir() and not entry.name.startswith("."))
    if not names:
        raise DataError(f"{folder}: no class folders; put the images in {folder.name}/<class>/")
    return tuple(names)


def read_split(folder: Path, classes: tuple[str, ...]) -> Split:
    """List the images in the class folders of a folder; DataError if one holds none."""
    files = [_image_files(folder, name) for name in classes]
    empty = [name for name, paths in zip(classes, files, strict=True) if not paths]
    if empty:
        raise DataError(f"{folder}: no images in class folder {listing(empty)}; add some or remove the folder")
    labels = np.repeat(np.arange(len(classes), dtype=np.int64), [len(paths) for paths in files])
    paths = np.array([os.fsencode(path) for paths in files for path in paths])
    return Split(FolderImages(folder, paths), labels)


def _image_files(folder: Path, name: str) -> list[str]:
    """List the images of a class, as paths relative to the split's folder."""
    found: list[str] = []
    for parent, folders, files in os.walk(folder / name):
        folders[:] = [inner for inner in folders if not inner.startswith(".")]
        found += (
            os.path.relpath(os.path.join(parent, file), folder)
            for file in files
            if not file.startswith(".") and os.path.splitext(file)[1].lower() in SUFFIXES
        )
    return sorted(found)

"""The Oxford-IIIT Pet data set as published: `images/*.jpg` and lists of names and labels in `annotations`."""

import os
from pathlib import Path

import numpy as np

from transmix.data.dataset import DataError, ImageData, Parts, Split, listing, require_every_class
from transmix.data.folder import FolderImages


def holds_oxford_pets(root: str | os.PathLike[str]) -> bool:
    """Tell whether a folder has the list of training images."""
    return (Path(root) / "annotations" / "trainval.txt").is_file()


def read_oxford_pets(root: str | os.PathLike[str]) -> ImageData:
    """Read the 37 breeds: `trainval` is the training split, `test` the other.

    A line of `annotations/trainval.txt` such as `american_bulldog_100 2 2 1` is the name of an image, its class from
    1 on, and two more numbers that are not used. The class is called as its images are, without their number.

    Args:
        root: The folder that holds `images` and `annotations`.

    Raises:
        DataError: If a list or an image is missing, a line is not understood, or a class has two names or no image.
    """
    root = Path(root)
    present = set(os.listdir(root / "images")) if (root / "images").is_dir() else set()
    train, val = (_read_list(root / "annotations" / f"{name}.txt", present) for name in ("trainval", "test"))
    names: dict[int, str] = {}
    for image, label in [*train, *val]:
        breed = image.rpartition("_")[0]
        if names.setdefault(label, breed) != breed:
            raise DataError(
                f"{root / 'annotations'}: class {label} is {names[label]} and {breed}; fetch the lists again"
            )
    classes = tuple(names[label] for label in sorted(names))
    train_split, val_split = (_split(root, rows, sorted(names)) for rows in (train, val))
    require_every_class(train_split.labels, classes, str(root / "annotations"))
    return ImageData(root.resolve().name, classes, train_split, val_split, parts=Parts("test"))


def _read_list(path: Path, present: set[str]) -> list[tuple[str, int]]:
    """Read the names and labels of a split, and check that the images are there."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot read the list of images ({error}); unpack annotations.tar.gz again") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        words = line.split()
        if len(words) < 2 or not words[1].isdecimal() or "/" in words[0]:
            raise DataError(f"{path} line {number}: not an image's name and its class; unpack annotations.tar.gz again")
        rows.append((words[0], int(words[1])))
    if not rows:
        raise DataError(f"{path}: no images in it; unpack annotations.tar.gz again")
    absent = [f"{name}.jpg" for name, _ in rows if f"{name}.jpg" not in present]
    if absent:
        raise DataError(f"{path.parent.parent / 'images'}: no {listing(absent)}; unpack images.tar.gz again")
    return rows


def _split(root: Path, rows: list[tuple[str, int]], numbers: list[int]) -> Split:
    position = {number: index for index, number in enumerate(numbers)}
    labels = np.array([position[label] for _, label in rows], dtype=np.int64)
    return Split(FolderImages(root / "images", np.array([f"{name}.jpg".encode() for name, _ in rows])), labels)

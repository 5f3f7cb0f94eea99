"""CIFAR-10 and CIFAR-100 in the binary files that their author publishes."""

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from transmix.data.dataset import DataError, ImageData, Parts, Split, require_every_class

PIXEL_BYTES = 3 * 32 * 32

BATCHES = [f"data_batch_{number}.bin" for number in range(1, 6)]
SETS = {
    "cifar10": ("cifar-10-batches-bin", BATCHES, "test_batch.bin", "batches.meta.txt", 1),
    "cifar100": ("cifar-100-binary", ["train.bin"], "test.bin", "fine_label_names.txt", 2),
}
"""Name -> published folder, training files, test file, file of class names, label bytes before an image."""


def holds_cifar(root: str | os.PathLike[str]) -> bool:
    """Whether a folder, or the published folder inside it, has a training file of CIFAR."""
    return bool(_find(Path(root)))


def _find(root: Path) -> dict[str, Path]:
    """Return name -> folder of the CIFAR sets that were found."""
    folders = {name: folders_with(root, published, train) for name, (published, train, *_) in SETS.items()}
    return {name: found[0] for name, found in folders.items() if found}


def read_cifar(root: str | os.PathLike[str]) -> ImageData:
    """Read CIFAR-10 or CIFAR-100 from the published binary files.

    CIFAR-10 is `data_batch_1.bin` to `data_batch_5.bin`, `test_batch.bin` and `batches.meta.txt`, with one
    label byte before the 3,072 bytes of an image. CIFAR-100 is `train.bin`, `test.bin` and
    `fine_label_names.txt`, with a coarse and a fine label byte; the fine one is used.

    Args:
        root: Folder with these files, or the parent folder of `cifar-10-batches-bin` or `cifar-100-binary`.

    Returns:
        The data set, its images as (N, 32, 32, 3) uint8 arrays. The published test part is `val`.

    Raises:
        DataError: If a file is missing, cut off or holds a label that has no name, or a class has no image.
    """
    root = Path(root)
    found = _find(root)
    if len(found) > 1:
        raise DataError(f"{root}: holds both CIFAR-10 and CIFAR-100; name {' or '.join(map(str, found.values()))}")
    if not found:
        raise DataError(f"{root}: no data_batch_1.bin (CIFAR-10) or train.bin (CIFAR-100) here")
    [(name, folder)] = found.items()
    _, train, test, names, label_bytes = SETS[name]
    if absent := [file for file in (*train, test, names) if not (folder / file).is_file()]:
        raise DataError(f"{folder}: no file {', '.join(absent)}; unpack the published archive again")
    text = (folder / names).read_text(encoding="utf-8", errors="replace")
    classes = tuple(line.strip() for line in text.splitlines() if line.strip())
    of_train, val = (_read_split(folder, files, label_bytes, classes) for files in (train, [test]))
    require_every_class(of_train.labels, classes, str(folder / "train"))
    return ImageData(name, classes, of_train, val, parts=Parts("test"))


def folders_with(root: Path, published: str, files: Iterable[str]) -> list[Path]:
    """Return the folders among `root` and `root/published` that hold one of the files."""
    return [folder for folder in (root, root / published) if any((folder / file).is_file() for file in files)]


def _read_split(folder: Path, files: list[str], label_bytes: int, classes: tuple[str, ...]) -> Split:
    parts = [_read_records(folder / file, label_bytes, classes) for file in files]
    images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return Split(np.ascontiguousarray(images), labels)


def _read_records(path: Path, label_bytes: int, classes: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Read one file to images (N, 32, 32, 3) uint8 and labels (N,) int64."""
    record = label_bytes + PIXEL_BYTES
    content = np.fromfile(path, dtype=np.uint8)
    if content.size == 0 or content.size % record:
        remedy = "the file is truncated or of another kind; unpack the published archive again"
        raise DataError(f"{path}: {content.size} bytes are not a whole number of records of {record} bytes; {remedy}")
    rows = content.reshape(-1, record)
    labels = rows[:, label_bytes - 1].astype(np.int64)
    beyond = np.flatnonzero(labels >= len(classes))
    if beyond.size:
        row = int(beyond[0])
        raise DataError(f"{path} record {row}: label {labels[row]}, but only {len(classes)} classes have a name")
    # stored are (N, 3072): all red before all green before all blue
    return rows[:, label_bytes:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels

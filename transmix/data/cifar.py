"""CIFAR-10 and CIFAR-100 in the binary files that their author publishes."""

import os
from pathlib import Path

import numpy as np

from transmix.data.dataset import DataError, ImageData, Parts, Split, require_every_class

PIXEL_BYTES = 3 * 32 * 32

CIFAR10_TRAIN = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
CIFAR10_FOLDER = "cifar-10-batches-bin"
CIFAR100_FOLDER = "cifar-100-binary"


def holds_cifar(root: str | os.PathLike[str]) -> bool:
    """Tell whether a folder, or the published folder inside it, has a training file of CIFAR."""
    return bool(folders_with(Path(root), CIFAR10_FOLDER, CIFAR10_TRAIN)) or bool(
        folders_with(Path(root), CIFAR100_FOLDER, ("train.bin",))
    )


def read_cifar(root: str | os.PathLike[str]) -> ImageData:
    """Read CIFAR-10 or CIFAR-100, whichever is there, from its binary version.

    CIFAR-10 is `data_batch_1.bin` to `data_batch_5.bin`, `test_batch.bin` and `batches.meta.txt`, with one
    label byte before the 3,072 bytes of an image. CIFAR-100 is `train.bin`, `test.bin` and
    `fine_label_names.txt`, with a coarse and a fine label byte; the fine one is used.

    Args:
        root: The folder with these files, or the one that holds `cifar-10-batches-bin` or `cifar-100-binary`.

    Returns:
        The data set, its images as (N, 32, 32, 3) uint8 arrays. The published test part is `val`.

    Raises:
        DataError: If a file is missing, cut off or holds a label that has no name, or a class has no image.
    """
    root = Path(root)
    tens = folders_with(root, CIFAR10_FOLDER, CIFAR10_TRAIN)
    hundreds = folders_with(root, CIFAR100_FOLDER, ("train.bin",))
    if tens and hundreds:
        raise DataError(f"{root}: holds both CIFAR-10 and CIFAR-100; name {tens[0]} or {hundreds[0]}")
    if tens:
        return _read(tens[0], "cifar10", CIFAR10_TRAIN, "test_batch.bin", "batches.meta.txt", 1)
    if hundreds:
        return _read(hundreds[0], "cifar100", ("train.bin",), "test.bin", "fine_label_names.txt", 2)
    raise DataError(f"{root}: no data_batch_1.bin (CIFAR-10) or train.bin (CIFAR-100) here")


def folders_with(root: Path, published: str, files: tuple[str, ...]) -> list[Path]:
    """Give those of `root` and `root/published` that hold one of the files."""
    return [folder for folder in (root, root / published) if any((folder / file).is_file() for file in files)]


def _read(folder: Path, name: str, train: tuple[str, ...], test: str, names: str, label_bytes: int) -> ImageData:
    absent = [file for file in (*train, test, names) if not (folder / file).is_file()]
    if absent:
        raise DataError(f"{folder}: no file {', '.join(absent)}; unpack the published archive again")
    text = (folder / names).read_text(encoding="utf-8", errors="replace")
    classes = tuple(line.strip() for line in text.splitlines() if line.strip())
    of_train = join_parts([_read_records(folder / file, label_bytes, classes) for file in train])
    require_every_class(of_train.labels, classes, str(folder / "train"))
    val = join_parts([_read_records(folder / test, label_bytes, classes)])
    return ImageData(name, classes, of_train, val, parts=Parts("test"))


def _read_records(path: Path, label_bytes: int, classes: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Read one file to images (N, 32, 32, 3) uint8 and labels (N,) int64."""
    record = label_bytes + PIXEL_BYTES
    content = np.fromfile(path, dtype=np.uint8)
    if content.size == 0 or content.size % record:
        raise DataError(
            f"{path}: {content.size} bytes are not a whole number of records of {record} bytes; "
            "the file is cut off or of another kind, unpack the published archive again"
        )
    rows = content.reshape(-1, record)
    labels = rows[:, label_bytes - 1].astype(np.int64)
    beyond = np.flatnonzero(labels >= len(classes))
    if beyond.size:
        row = int(beyond[0])
        raise DataError(f"{path} record {row}: label {labels[row]}, but only {len(classes)} classes have a name")
    return planes_to_images(rows[:, label_bytes:]), labels


def planes_to_images(rows: np.ndarray) -> np.ndarray:
    """View (N, 3072) uint8, all red before all green before all blue, as images (N, 32, 32, 3)."""
    return rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def join_parts(parts: list[tuple[np.ndarray, np.ndarray]]) -> Split:
    """Put the images (N, 32, 32, 3) and labels (N,) of several files one behind another."""
    images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return Split(np.ascontiguousarray(images), labels)

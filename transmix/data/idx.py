"""idx files, the format of MNIST: one file of grey images and one of labels for each split, gzipped or not."""

import gzip
import math
import os
import re
import zlib
from pathlib import Path

import numpy as np

from transmix.data.class_names import read_class_names
from transmix.data.dataset import DataError, ImageData, Parts, Split, require_every_class

FILE_NAME = re.compile(r"(?:(emnist-\w+)-)?(train|t10k|test)-(images[-.]idx3|labels[-.]idx1)-ubyte(\.gz)?")
"""The names of MNIST (`train-images-idx3-ubyte.gz`) and EMNIST (`emnist-letters-train-images-idx3-ubyte.gz`)."""

FOLDERS = ("", "raw", "gzip")
"""Where the files may be: in the folder itself, where torchvision puts them, where EMNIST's archive does."""

KINDS = {9: "signed bytes", 11: "16-bit integers", 12: "32-bit integers", 13: "32-bit floats", 14: "64-bit floats"}
"""What the third byte of an idx file says of its values, where they are not unsigned bytes (8)."""

HELD_OUT = ("t10k", "test")
"""What the held-out part is called, the first that is there: MNIST's test images, and EMNIST's."""

LARGEST_BYTES = 2**32
BEST_DEFLATE_RATIO = 1032  # of zlib's format: no stream decompresses to more


def holds_idx(root: str | os.PathLike[str]) -> bool:
    """Whether a folder, or `raw` or `gzip` inside it, has training images as an idx file."""
    return _find(Path(root)) is not None


def read_idx_files(root: str | os.PathLike[str]) -> ImageData:
    """Read idx files with the names of MNIST, Fashion-MNIST, KMNIST or EMNIST.

    Grey is expanded to RGB without more memory. EMNIST's files hold transposed images; here they are upright
    (torchvision returns them transposed).

    Class names come from `classnames.txt` or `classes.txt` in the folder; for EMNIST from
    `emnist-...-mapping.txt` ('A', or 'Aa' if both cases are one class); else '0', '1', ...

    Args:
        root: Folder with the files, or with a subfolder `raw` or `gzip` that has them.

    Returns:
        The data set, its images a read-only view (N, H, W, 3) uint8. The held-out part is `t10k` or `test`.

    Raises:
        DataError: If a file is missing, cut off, too long or of another kind, there are more labels than images or
            fewer, a label has no name, or a class has no image.
    """
    root = Path(root)
    if (files := _find(root)) is None:
        raise DataError(f"{root}: no training images such as train-images-idx3-ubyte here")
    folder = next(iter(files.values())).parent
    series = sorted({prefix for prefix, _, _ in files})
    if len(series) > 1:
        listed = ", ".join(name or "MNIST" for name in series)
        raise DataError(f"{folder}: files of more than one data set ({listed}); put each in a folder of its own")
    prefix = series[0]
    held_out = next((name for _, name, _ in sorted(files) if name in HELD_OUT), None)
    train_images, train_labels = _read_split(files, folder, prefix, ("train",))
    val_images, val_labels = _read_split(files, folder, prefix, (held_out,) if held_out else HELD_OUT)

    numbers, classes = _classes(folder, prefix, train_labels)
    train = Split(train_images, _positions(train_labels, numbers, folder, "train"))
    val = Split(val_images, _positions(val_labels, numbers, folder, "held-out"))
    require_every_class(train.labels, classes, f"{folder} training images")
    return ImageData(prefix or root.resolve().name, classes, train, val, parts=Parts(held_out or ""))


Files = dict[tuple[str, str, str], Path]
"""(prefix, split, 'images' or 'labels') -> file."""


def _find(root: Path) -> Files | None:
    """List the idx files of the first folder with training images; plain files are preferred to gzipped ones."""
    for folder in (root / name for name in FOLDERS if (root / name).is_dir()):
        names = sorted(os.listdir(folder), key=len, reverse=True)
        matches = [match for name in names if (match := FILE_NAME.fullmatch(name))]
        files = {(match[1] or "", match[2], match[3][:6]): folder / match.string for match in matches}
        if any(key[1:] == ("train", "images") for key in files):
            return files
    return None


def _read_split(files: Files, folder: Path, prefix: str, splits: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Read one split to images (N, H, W, 3) and labels (N,), both uint8."""
    for what in ("images-idx3", "labels-idx1"):
        if (prefix, splits[0], what[:6]) not in files:
            expected = " or ".join(f"{prefix and prefix + '-'}{split}-{what}-ubyte" for split in splits)
            raise DataError(f"{folder}: no file {expected}, gzipped or not; complete the download")
    images_file, labels_file = (files[prefix, splits[0], what] for what in ("images", "labels"))
    images, labels = read_idx(images_file, 3), read_idx(labels_file, 1)
    if len(images) != len(labels):
        raise DataError(f"{labels_file}: {len(labels)} labels for the {len(images)} images of {images_file.name}")
    if prefix:
        images = images.transpose(0, 2, 1)
    return np.broadcast_to(images[..., None], (*images.shape, 3)), labels


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Read an idx file of unsigned bytes: (N,) or (N, H, W) uint8.

    Decompression stops at the size in the header, and that size is checked against the file size.

    Raises:
        DataError: If the file is cut off, longer than the header says, damaged, or of another kind.
    """
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            header = file.read(4 + 4 * dimensions)
            shape = _shape(path, header, dimensions)
            content = file.read(math.prod(shape) + 1)
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(f"{path}: truncated or damaged ({error}); fetch it again") from error
    if len(content) != math.prod(shape):
        amount = "more" if len(content) > math.prod(shape) else f"only {len(content)}"
        raise DataError(f"{path}: {math.prod(shape)} values are announced, {amount} are there; fetch it again")
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)


def _shape(path: Path, header: bytes, dimensions: int) -> tuple[int, ...]:
    """Read the shape from a header: two zero bytes, 8 for unsigned bytes, the number of dimensions, and each."""
    if len(header) >= 4 and header[:2] == b"\0\0" and header[2] in KINDS and header[3] == dimensions:
        remedy = "write the images as 16-bit PNG or float TIFF in class folders, which --grey-range scales"
        raise DataError(f"{path}: holds {KINDS[header[2]]}, but idx files of unsigned bytes alone are read; {remedy}")
    if header[:4] != bytes([0, 0, 8, dimensions]) or len(header) != 4 + 4 * dimensions:
        usual = f"00 00 08 {dimensions:02x} as an idx file of {dimensions}-dimensional bytes does"
        raise DataError(f"{path}: begins with {header[:4].hex(' ') or 'nothing'}, not with {usual}; fetch it again")
    shape = tuple(int(length) for length in np.frombuffer(header[4:], dtype=">u4"))
    can_hold = path.stat().st_size * (BEST_DEFLATE_RATIO if path.suffix == ".gz" else 1)
    if not 0 < math.prod(shape) <= min(can_hold, LARGEST_BYTES):
        size = " x ".join(map(str, shape))
        raise DataError(f"{path}: {size} bytes are announced, which it cannot hold; fetch it again")
    return shape


def _classes(folder: Path, prefix: str, labels: np.ndarray) -> tuple[list[int], tuple[str, ...]]:
    """Return the labels that occur in the files, and the class names in the same order."""
    if names := read_class_names(folder):
        return list(range(len(names))), names
    if prefix and (mapping := folder / f"{prefix}-mapping.txt").is_file():
        return _mapping(mapping)
    numbers = list(range(int(labels.min()), int(labels.max()) + 1))  # EMNIST's letters are numbered from 1
    return numbers, tuple(map(str, numbers))


def _mapping(path: Path) -> tuple[list[int], tuple[str, ...]]:
    """Read EMNIST's table: a label, and the character codes that it stands for, a line."""
    try:
        rows = [[int(word) for word in line.split()] for line in path.read_text().splitlines() if line.strip()]
        characters = ["".join(map(chr, codes)) for _, *codes in rows]
    except (OSError, ValueError, OverflowError) as error:
        raise DataError(f"{path}: not a table of labels and character codes ({error}); fetch it again") from error
    if not rows or not all(characters):
        raise DataError(f"{path}: a label without character codes; fetch it again")
    return [row[0] for row in rows], tuple(characters)


def _positions(labels: np.ndarray, numbers: list[int], folder: Path, what: str) -> np.ndarray:
    """Convert labels (N,) of the file to indices into the class list."""
    position = {number: index for index, number in enumerate(numbers)}
    found = np.array([position.get(label, -1) for label in range(256)], dtype=np.int64)[labels]
    if (found < 0).any():
        image = int(np.argmax(found < 0))
        label = f"label {labels[image]}, which none of the {len(numbers)} classes has"
        raise DataError(f"{folder} {what} image {image}: {label}")
    return found

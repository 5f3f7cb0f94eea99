"""CIFAR-10 and CIFAR-100 in the python version that their author publishes: pickles, read without trusting them."""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from transmix.data.cifar import PIXEL_BYTES, folders_with, join_parts, planes_to_images
from transmix.data.dataset import DataError, ImageData, Parts, require_every_class

CIFAR10_TRAIN = tuple(f"data_batch_{number}" for number in range(1, 6))
CIFAR10_FOLDER = "cifar-10-batches-py"
CIFAR100_FOLDER = "cifar-100-python"
LARGEST_BYTES = 2**28
"""No file of CIFAR is larger than 156 MB."""


def holds_cifar_python(root: str | os.PathLike[str]) -> bool:
    """Tell whether a folder, or the published folder inside it, has a training file of CIFAR's python version."""
    return bool(_tens(Path(root)) or _hundreds(Path(root)))


def read_cifar_python(root: str | os.PathLike[str]) -> ImageData:
    """Read CIFAR-10 or CIFAR-100, whichever is there, from its python version.

    CIFAR-10 is `data_batch_1` to `data_batch_5`, `test_batch` and `batches.meta`; CIFAR-100 is `train`, `test` and
    `meta`, of which the fine labels are used.

    A pickle is a program that its reader runs. Here it can build dicts, lists, texts, bytes, whole numbers and arrays
    of bytes, and nothing else: what it asks for by name is looked up among a few stand-ins of our own, so that not
    even NumPy's code is run with what a file says.

    Args:
        root: The folder with these files, or the one that holds `cifar-10-batches-py` or `cifar-100-python`.

    Returns:
        The data set, its images as (N, 32, 32, 3) uint8 arrays. The published test part is `val`.

    Raises:
        DataError: If a file is missing, cut off, asks for anything that CIFAR's files do not, or holds other counts,
            sizes or labels than it should, or a class has no image.
    """
    root = Path(root)
    tens, hundreds = _tens(root), _hundreds(root)
    if tens and hundreds:
        raise DataError(f"{root}: holds both CIFAR-10 and CIFAR-100; name {tens[0]} or {hundreds[0]}")
    if tens:
        return _read(tens[0], "cifar10", CIFAR10_TRAIN, "test_batch", "batches.meta", ("labels", "label_names"))
    if hundreds:
        return _read(hundreds[0], "cifar100", ("train",), "test", "meta", ("fine_labels", "fine_label_names"))
    raise DataError(f"{root}: no data_batch_1 (CIFAR-10) or train (CIFAR-100) here")


def _tens(root: Path) -> list[Path]:
    return folders_with(root, CIFAR10_FOLDER, CIFAR10_TRAIN)


def _hundreds(root: Path) -> list[Path]:
    return folders_with(root, CIFAR100_FOLDER, ("train",))


def _read(folder: Path, name: str, train: tuple[str, ...], test: str, names: str, keys: tuple[str, str]) -> ImageData:
    absent = [file for file in (*train, test, names) if not (folder / file).is_file()]
    if absent:
        raise DataError(f"{folder}: no file {', '.join(absent)}; unpack the published archive again")
    label_key, names_key = keys
    classes = _class_names(folder / names, names_key)
    parts = {file: _read_batch(folder / file, label_key, classes) for file in (*train, test)}
    of_train = join_parts([parts[file] for file in train])
    require_every_class(of_train.labels, classes, str(folder / "train"))
    return ImageData(name, classes, of_train, join_parts([parts[test]]), parts=Parts("test"))


def _class_names(path: Path, key: str) -> tuple[str, ...]:
    names = _entry(load_pickle(path), key, list, path)
    if not names or not all(isinstance(name, bytes | str) for name in names):
        raise DataError(f"{path}: {key} must be a list of names; unpack the published archive again")
    return tuple(name.decode(errors="replace") if isinstance(name, bytes) else name for name in names)


def _read_batch(path: Path, label_key: str, classes: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Read one file to images (N, 32, 32, 3) uint8 and labels (N,) int64."""
    content = load_pickle(path)
    pixels = _entry(content, "data", _Array, path).pixels
    labels = _entry(content, label_key, list, path)
    if pixels is None or pixels.shape != (len(labels), PIXEL_BYTES):
        found = "no" if pixels is None else " x ".join(map(str, pixels.shape))
        raise DataError(
            f"{path}: {found} bytes of pixels for {len(labels)} labels; {len(labels)} x {PIXEL_BYTES} are expected, "
            "unpack the published archive again"
        )
    for record, label in enumerate(labels):
        if type(label) is not int or not 0 <= label < len(classes):
            raise DataError(f"{path} record {record}: label {label!r}, but only {len(classes)} classes have a name")
    return planes_to_images(pixels), np.array(labels, dtype=np.int64)


def _entry(content: Any, key: str, kind: type, path: Path) -> Any:
    """Look up a key that Python 2 wrote as bytes and Python 3 as text."""
    value = content.get(key.encode(), content.get(key)) if isinstance(content, dict) else None
    if not isinstance(value, kind):
        what = "array" if kind is _Array else kind.__name__
        raise DataError(f"{path}: no {what} {key!r} in it; is this a file of CIFAR's python version?")
    return value


def load_pickle(path: Path) -> Any:
    """Load a pickle of dicts, lists, texts, bytes, whole numbers and arrays of bytes.

    Raises:
        DataError: If it asks for anything else, by name or otherwise, is cut off, or is no pickle.
    """
    size = path.stat().st_size
    if size > LARGEST_BYTES:
        raise DataError(f"{path}: {size} bytes, more than any file of CIFAR has; unpack the published archive again")
    try:
        with path.open("rb") as file:
            return _Unpickler(file, encoding="bytes").load()
    except _RefusedError as error:
        raise DataError(f"{path}: refused, because it {error}; fetch it again from where CIFAR is published") from error
    except Exception as error:  # a damaged pickle raises nearly anything
        reason = " ".join(str(error).split())
        raise DataError(
            f"{path}: cut off or not a pickle ({type(error).__name__}: {reason}); unpack the published archive again"
        ) from error


class _RefusedError(Exception):
    """What a pickle asked for that CIFAR's files do not, as the rest of a sentence."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str) -> Any:
        if (module_name, global_name) not in STAND_INS:
            raise _RefusedError(f"asks for {module_name}.{global_name}, which no file of CIFAR needs")
        return STAND_INS[module_name, global_name]


# Instances without attributes, not functions or classes: a pickle could change the attributes of those.


class _Reconstruct:
    """Stands in for NumPy's function that makes an empty array, to be filled by `__setstate__`."""

    __slots__ = ()

    def __call__(self, *_: object) -> "_Array":
        return _Array()


class _MakeDtype:
    """Stands in for numpy.dtype."""

    __slots__ = ()

    def __call__(self, code: object, *_: object) -> "_Dtype":
        if code not in (b"u1", "u1"):
            raise _RefusedError(f"holds an array of {code!r} instead of bytes")
        return _Dtype()


class _Encode:
    """Stands in for _codecs.encode, with which Python 3 writes bytes into pickles that Python 2 can read."""

    __slots__ = ()

    def __call__(self, text: object, codec: object) -> bytes:
        if not isinstance(text, str) or codec != "latin1":
            raise _RefusedError(f"encodes as {codec!r} instead of latin1")
        return text.encode("latin1")


class _Dtype:
    """The type of an array of bytes."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        pass  # byte order and alignment, which mean nothing for single bytes


class _Array:
    """An array of bytes as a pickle describes it; `pixels` is None until it has."""

    __slots__ = ("pixels",)

    def __init__(self) -> None:
        self.pixels: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, columns_first, raw = state
        if not isinstance(dtype, _Dtype) or not isinstance(raw, bytes):
            raise _RefusedError("holds an array of something else than bytes")
        self.pixels = np.frombuffer(raw, dtype=np.uint8).reshape(shape, order="F" if columns_first else "C")


STAND_INS = {
    ("numpy.core.multiarray", "_reconstruct"): _Reconstruct(),
    ("numpy._core.multiarray", "_reconstruct"): _Reconstruct(),
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): _MakeDtype(),
    ("_codecs", "encode"): _Encode(),
}
"""What a file of CIFAR may ask for by module and name, and what it gets."""

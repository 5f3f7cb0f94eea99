"""Class names: how they are compared, and how they are read from a file if a data set only numbers its classes."""

import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from transmix.data.dataset import DataError, printable

CLASS_FILES = ("classnames.txt", "classes.txt")
"""What that file may be called; the first that is there is used."""


def class_name(name: str) -> str:
    """Return a class name in Unicode's form NFC: names that look the same are equal on all systems."""
    return unicodedata.normalize("NFC", name)


def positions(names: Iterable[str], classes: Sequence[str]) -> np.ndarray:
    """Return the index of each name in a class list, (len(names),) int64; -1 if it is missing."""
    position = {class_name(one): index for index, one in enumerate(classes)}
    return np.array([position.get(class_name(one), -1) for one in names], dtype=np.int64)


def is_utf8(name: str) -> bool:
    """Whether a file name is UTF-8; Python decodes other bytes as lone surrogates."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def class_names(names: Iterable[str], where: object) -> dict[str, str]:
    """Return class name -> name on disk, in the given order.

    Args:
        names: names on disk.
        where: their location, for the message.

    Raises:
        DataError: a name is not UTF-8, or two names are equal as class names.
    """
    found: dict[str, str] = {}
    for written in names:
        if not is_utf8(written):
            remedy = "rename it, for example with convmv -f cp437 -t utf8"
            raise DataError(f"{printable(str(where))}: the class name '{printable(written)}' is not UTF-8; {remedy}")
        name = class_name(written)
        if name in found:
            both = f"{found[name]!a} and {written!a}"  # so that letters that look alike are told apart
            raise DataError(f"{where}: {both} are the same class name, {printable(name)}; rename one or join them")
        found[name] = written
    return found


def odd_names(names: Iterable[str]) -> list[tuple[tuple[str, ...], str]]:
    """Return (names, problem) for class names that are easily confused or contain line breaks."""
    found: list[tuple[tuple[str, ...], str]] = []
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(name.casefold(), []).append(name)
        if printable(name) != name:
            found.append(((name,), "control characters or letters that do not show"))
        elif name != name.strip():
            found.append(((name,), "spaces at the start or the end"))
    return found + [(tuple(same), "differ in the case of letters alone") for same in alike.values() if len(same) > 1]


def read_class_names(folder: Path) -> tuple[str, ...] | None:
    """Read the names of the classes 0, 1, ... from a file in a folder, None if there is no such file.

    Raises:
        DataError: If the file is not UTF-8 text, a line before the last is empty, or a name appears twice.
    """
    path = next((folder / name for name in CLASS_FILES if (folder / name).is_file()), None)
    if path is None:
        return None
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8").rstrip().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot read the class names ({error}); write one name a line, in UTF-8") from error
    lines: dict[str, int] = {}
    for number, name in enumerate(names, start=1):
        if not name:
            raise DataError(f"{path} line {number}: no name; write one class name a line")
        if (first := lines.setdefault(name, number)) != number:
            raise DataError(f"{path}: {name} is the name in line {first} and in line {number}; rename one")
    if not names:
        raise DataError(f"{path}: no class names; write one a line or remove the file")
    return tuple(class_names(names, path))

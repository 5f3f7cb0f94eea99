"""Names for classes that a data set only numbers: a text file beside it, one name a line."""

from pathlib import Path

from transmix.data.dataset import DataError

CLASS_FILES = ("classnames.txt", "classes.txt")
"""What that file may be called; the first that is there is used."""


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
        if name in lines:
            raise DataError(f"{path}: {name} is the name in line {lines[name]} and in line {number}; rename one")
        lines[name] = number
    if not names:
        raise DataError(f"{path}: no class names; write one a line or remove the file")
    return tuple(names)

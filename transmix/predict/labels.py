"""Labels of image files: from a list, or from the names of their folders."""

import csv
import difflib
import os
from collections.abc import Collection
from pathlib import Path

from transmix.data.class_names import class_name
from transmix.data.dataset import DataError, printable

COLUMNS = ("image", "label")
"""The columns of a list that are read, as in the predictions themselves."""


class Labels:
    """Labels by path.

    Args:
        classes: class names of the model.
        path: CSV file with the columns `image` (path as the image is given, or absolute) and `label` (class name;
            empty: unknown). None: the name of the image's own folder, where it is a class.

    Raises:
        DataError: the list cannot be read, or a label is no class.
    """

    def __init__(self, classes: Collection[str], path: Path | None = None):
        self.names = {class_name(one): one for one in classes}
        self.listed = None if path is None else self._read(path)

    def of(self, path: str) -> str | None:
        """Return the label of an image; None if it is unknown."""
        if self.listed is not None:
            return self.listed.get(os.path.abspath(path))
        return self.names.get(class_name(os.path.basename(os.path.dirname(os.path.abspath(path)))))

    def _read(self, path: Path) -> dict[str, str]:
        found: dict[str, str] = {}
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                rows = csv.DictReader(file)
                if lacking := [name for name in COLUMNS if name not in (rows.fieldnames or ())]:
                    raise DataError(f"{path}: no column {' and '.join(lacking)}; its first line is: image,label")
                for row in rows:
                    image, label = (row[name] or "" for name in COLUMNS)
                    if label:
                        self._add(found, os.path.abspath(image), label, f"{path} line {rows.line_num}")
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{path}: cannot read the labels ({getattr(error, 'strerror', None) or error})") from error
        return found

    def _add(self, found: dict[str, str], image: str, label: str, where: str) -> None:
        name = self.names.get(class_name(label))
        if name is None:
            near = difflib.get_close_matches(label, self.names, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise DataError(f"{where}: {printable(label)} is no class of the model{hint}")
        if found.setdefault(image, name) != name:
            raise DataError(f"{where}: {image} has another label in a line before; keep one")

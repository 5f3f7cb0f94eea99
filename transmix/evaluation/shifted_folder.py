"""Evaluation folders with class folders for some or all of a model's classes."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from transmix.data.class_names import class_name
from transmix.data.dataset import DataError, Split, listing
from transmix.data.folder import class_folders, read_split


@dataclass(frozen=True)
class ShiftedFolder:
    """A folder `<folder>/<class>/*.jpg`.

    Attributes:
        path: its path.
        folders: its class folders, sorted.
        classes: (n,) int64, the model's class of each folder.
    """

    path: Path
    folders: tuple[str, ...]
    classes: np.ndarray

    @property
    def subset(self) -> np.ndarray:
        """The model's classes that have a folder, ascending: (m,) int64, m <= n."""
        return np.unique(self.classes)

    def read(self) -> Split:
        """List the images; labels are indices into `subset`.

        Raises:
            DataError: a class folder has no image.
        """
        split = read_split(self.path, self.folders)
        return replace(split, labels=np.searchsorted(self.subset, self.classes)[split.labels])


def open_shifted(path: str | Path, classes: Sequence[str], class_map: Mapping[str, str]) -> ShiftedFolder:
    """Match class folders with a model's classes, by name or by a map from name to name.

    Raises:
        DataError: there is no such folder, it has no class folders, or the model has no such class.
    """
    path = Path(path)
    if not path.is_dir():
        raise DataError(f"{path}: no such folder")
    position = {class_name(name): index for index, name in enumerate(classes)}
    class_map = {class_name(folder): class_name(name) for folder, name in class_map.items()}
    written = class_folders(path)
    names = {folder: class_map.get(folder, folder) for folder in written}
    if unknown := [folder for folder, name in names.items() if name not in position]:
        raise DataError(
            f"{path}: the model has no class for the class folders {listing(unknown)}; its classes are "
            f"{listing(classes, 3)}; map folders to classes in a file: --class-map FILE"
        )
    positions = np.array([position[names[folder]] for folder in written], dtype=np.int64)
    return ShiftedFolder(path, tuple(written.values()), positions)


def read_class_map(path: str | Path | None) -> dict[str, str]:
    """Read the map from class folders to classes: JSON {folder: class}, or CSV with the columns folder and class.

    Raises:
        DataError: the file is missing, or has neither format.
    """
    if path is None:
        return {}
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")  # a spreadsheet writes a byte order mark
        is_csv = path.suffix.lower() == ".csv"
        rows = csv.DictReader(text.splitlines())
        found = {row["folder"]: row["class"] for row in rows} if is_csv else json.loads(text)
        if not isinstance(found, dict) or not all(isinstance(name, str) for name in found.values()):
            raise ValueError("expected a class name for every folder name")
    except OSError as error:
        raise DataError(f"{path}: cannot read the class map ({error.strerror})") from error
    except (ValueError, KeyError) as error:
        raise DataError(
            f'{path}: not a class map ({error}); write JSON {{"folder": "class"}}, or CSV with the header folder,class'
        ) from error
    return found

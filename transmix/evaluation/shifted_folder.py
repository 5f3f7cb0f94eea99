"""Folders of class folders made for evaluation, whose classes are some or all of a model's."""

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
        path: where it is.
        folders: its class folders, sorted.
        classes: (n,) int64, which of the model's classes each of them is.
    """

    path: Path
    folders: tuple[str, ...]
    classes: np.ndarray

    @property
    def subset(self) -> np.ndarray:
        """The model's classes that occur, ascending: (m,) int64, m <= n."""
        return np.unique(self.classes)

    def read(self) -> Split:
        """List the images; labels are positions in `subset`.

        Raises:
            DataError: a class folder has no image.
        """
        split = read_split(self.path, self.folders)
        return replace(split, labels=np.searchsorted(self.subset, self.classes)[split.labels])


def open_shifted(path: str | Path, classes: Sequence[str], class_map: Mapping[str, str]) -> ShiftedFolder:
    """Match the class folders in a folder with a model's classes, by name or through a map from name to name.

    Raises:
        DataError: there is no such folder, it has no class folders, or one of them is no class of the model.
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
            f"{listing(classes, 3)}; say which is which in a file: --class-map FILE"
        )
    positions = np.array([position[names[folder]] for folder in written], dtype=np.int64)
    return ShiftedFolder(path, tuple(written.values()), positions)


def read_class_map(path: str | Path | None) -> dict[str, str]:
    """Read which class of the model a class folder is: JSON {folder: class}, or CSV with the columns folder and class.

    Raises:
        DataError: the file is not there, or is neither.
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

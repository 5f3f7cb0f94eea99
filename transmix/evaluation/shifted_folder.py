"""Folders of class folders made for evaluation, whose classes are some or all of a model's; and ImageNet-C's.

ImageNet-C is fifteen corruptions at five severities. Source: Hendrycks and Dietterich, Benchmarking Neural Network
Robustness to Common Corruptions and Perturbations (ICLR 2019, arXiv 1903.12261). Its four extra corruptions
(speckle_noise, gaussian_blur, spatter, saturate) do not count.
"""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np

from transmix.data.class_names import class_name
from transmix.data.dataset import DataError, Split, class_difference, listing
from transmix.data.folder import class_folders, read_split

ALEXNET_ERRORS: dict[str, float] = json.loads(Path(__file__).with_name("alexnet_errors.json").read_text())
"""AlexNet's error for each corruption, the mean over its severities: the paper's baseline. The numbers are those that
google-research/augmix (imagenet.py) computes mCE with; they are good for ImageNet's 1,000 classes at 224 pixels."""

CORRUPTIONS = tuple(ALEXNET_ERRORS)

SEVERITIES = (1, 2, 3, 4, 5)


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
    text = _read(path, "the class map")
    try:
        rows = csv.DictReader(text.splitlines()) if str(path).lower().endswith(".csv") else None
        found = json.loads(text) if rows is None else {row["folder"]: row["class"] for row in rows}
        if not isinstance(found, dict) or not all(isinstance(name, str) for name in found.values()):
            raise ValueError("expected a class name for every folder name")
    except (ValueError, KeyError) as error:
        raise DataError(
            f'{path}: not a class map ({error}); write JSON {{"folder": "class"}}, or CSV with the header folder,class'
        ) from error
    return found


def holds_corruptions(folder: str | Path) -> bool:
    """Tell whether a folder holds corruptions by severity; class folders may be called `snow` or `frost` too."""
    return any((Path(folder) / name / str(severity)).is_dir() for name in CORRUPTIONS for severity in SEVERITIES)


def open_corruptions(
    folder: str | Path, classes: Sequence[str], class_map: Mapping[str, str]
) -> dict[str, list[ShiftedFolder]]:
    """Return for each corruption its folders by severity, 1 to 5, `<corruption>/<severity>/<class>`.

    Raises:
        DataError: a corruption, a severity, or in one of them a class is missing; all of them are named.
    """
    folder = Path(folder)
    places = {name: [folder / name / str(severity) for severity in SEVERITIES] for name in CORRUPTIONS}
    missing = [name for name in CORRUPTIONS if not (folder / name).is_dir()]
    every = chain.from_iterable(places[name] for name in places if name not in missing)
    missing += [str(place.relative_to(folder)) for place in every if not place.is_dir()]
    if missing:
        raise DataError(
            f"{folder}: fifteen corruptions at severities 1 to 5 are needed (<corruption>/<severity>/<class>); "
            f"missing: {listing(missing, 20)}"
        )
    opened = {name: [open_shifted(place, classes, class_map) for place in of_name] for name, of_name in places.items()}
    for place in chain.from_iterable(opened.values()):
        if difference := class_difference(classes, [classes[int(index)] for index in place.subset]):
            raise DataError(f"{place.path}: classes differ from the model's ({difference})")
    return opened


def read_baseline(path: str | Path | None) -> dict[str, float]:
    """Read the baseline's error for each corruption from JSON {corruption: error in 0..1}; AlexNet's without a file.

    Raises:
        DataError: the file is not there, is not JSON, lacks a corruption, or has an error outside (0, 1].
    """
    if path is None:
        return ALEXNET_ERRORS
    try:
        found = json.loads(_read(path, "the baseline's errors"))
    except ValueError as error:
        raise DataError(f"{path}: the baseline's errors are not JSON ({error})") from error
    if missing := [name for name in CORRUPTIONS if not isinstance(found, dict) or name not in found]:
        raise DataError(f"{path}: expected an error for each corruption; missing: {listing(missing, 20)}")
    if wrong := [name for name in CORRUPTIONS if not _is_error(found[name])]:
        raise DataError(
            f"{path}: an error is a number above 0 and up to 1, not {found[wrong[0]]!r} ({listing(wrong, 20)})"
        )
    return {name: float(found[name]) for name in CORRUPTIONS}


def _read(path: str | Path, what: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")  # a spreadsheet writes a byte order mark
    except OSError as error:
        raise DataError(f"{path}: cannot read {what} ({error.strerror})") from error


def _is_error(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 1


def corruption_errors(errors: Mapping[str, Sequence[float]], baseline: Mapping[str, float]) -> dict[str, float]:
    """Return CE of each corruption: the mean of its errors over severities, over the baseline's; mCE is their mean."""
    return {name: sum(by_severity) / len(by_severity) / baseline[name] for name, by_severity in errors.items()}

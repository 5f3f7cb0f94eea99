"""The suite 'shifts': images that differ from those of training: natural ones, corrupted ones, of no class at all.

They lie in class folders that name some or all of a model's classes. ImageNet-C is fifteen corruptions at five
severities. Source: Hendrycks and Dietterich, Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations (ICLR 2019, arXiv 1903.12261). Its four extra corruptions (speckle_noise, gaussian_blur, spatter,
saturate) do not count.
"""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from transmix.data.class_names import class_name
from transmix.data.dataset import DataError, ImageData, Split, class_difference, listing
from transmix.data.folder import class_folders, read_split
from transmix.evaluation.accumulators import Accuracy, CalibrationError, sum_over_ranks, top1
from transmix.evaluation.confidence import Confidences
from transmix.evaluation.evaluate import Evaluator, part_of
from transmix.evaluation.suites import Settings, Value
from transmix.metrics import Accumulator
from transmix.recipes import RecipeError

Named = Iterator[tuple[str, Value]]

ALEXNET_ERRORS: dict[str, float] = json.loads(Path(__file__).with_name("alexnet_errors.json").read_text())
"""AlexNet's error for each corruption, the mean over its severities: the paper's baseline. The numbers are those that
google-research/augmix (imagenet.py) computes mCE with; they are good for ImageNet's 1,000 classes at 224 pixels."""

CORRUPTIONS = tuple(ALEXNET_ERRORS)

SEVERITIES = (1, 2, 3, 4, 5)


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


def shifts(evaluator: Evaluator, data: ImageData, settings: Settings) -> Named:
    """Yield the scores of each folder, with the folder's name as prefix: 'imagenet-a/top1'.

    Raises:
        RecipeError: no folder is given.
        DataError: a folder or file is missing or does not fit, or two folders have the same name.
    """
    if not settings.shift_data and not settings.outlier_data:
        raise RecipeError("the suite 'shifts' needs images: --shift-data FOLDER ... or --outlier-data FOLDER ...")
    names = [Path(folder).resolve().name for folder in (*settings.shift_data, *settings.outlier_data)]
    if twice := {name for name in names if names.count(name) > 1}:
        raise DataError(f"two folders to evaluate on are called {listing(sorted(twice))}; rename one")
    class_map, classes = read_class_map(settings.class_map), evaluator.classes
    measured = []
    for folder in settings.shift_data:
        if holds_corruptions(folder):
            baseline = read_baseline(settings.baseline_errors)
            measured.append(_corrupted(evaluator, open_corruptions(folder, classes, class_map), baseline))
        else:
            measured.append(_natural(evaluator, open_shifted(folder, classes, class_map)))
    for folder in settings.outlier_data:
        outliers = open_shifted(folder, classes, class_map)
        inliers = np.flatnonzero(np.isin(data.val.labels, outliers.subset))
        if len(inliers) == 0:
            raise DataError(
                f"{data.name}: no validation image has a class of {folder}: there are no inliers to compare with"
            )
        measured.append(_outliers(evaluator, outliers, part_of(data.val, inliers)))
    return ((f"{name}/{score}", value) for name, found in zip(names, measured, strict=True) for score, value in found)


def _natural(evaluator: Evaluator, folder: ShiftedFolder) -> Named:
    """Accuracy and calibration among the classes of the folder.

    As published for ImageNet-A: the logits of the other classes are dropped before the softmax (Hendrycks et al.,
    Natural Adversarial Examples, CVPR 2021, and its code).
    """
    classes = len(folder.subset)
    accuracy, error = Accuracy(classes, evaluator.device), CalibrationError(classes, evaluator.device)
    confidences = Confidences(classes, evaluator.device)
    _add(evaluator, folder.read(), folder, accuracy, error, confidences)
    total = sum_over_ranks(accuracy)
    yield "images", int(total.count)
    yield "classes", classes
    yield from total.compute()
    yield from sum_over_ranks(error).compute()
    yield from confidences.compute()


def _corrupted(evaluator: Evaluator, opened: Mapping[str, list[ShiftedFolder]], baseline: dict[str, float]) -> Named:
    """Top-1 error of each corruption by severity, and divided by the baseline's; the mean of these is mCE."""
    errors: dict[str, list[float]] = {}
    for corruption, by_severity in opened.items():
        errors[corruption] = []
        for folder in by_severity:
            accuracy = Accuracy(len(evaluator.classes), evaluator.device)
            _add(evaluator, folder.read(), folder, accuracy)
            errors[corruption].append(1 - top1(accuracy))
        yield corruption, errors[corruption]
    ces = corruption_errors(errors, baseline)
    yield from ((f"CE_{corruption}", value) for corruption, value in ces.items())
    yield "mean_error", float(np.mean(list(errors.values())))
    yield "mCE", float(np.mean(list(ces.values())))


def _outliers(evaluator: Evaluator, folder: ShiftedFolder, inliers: Split) -> Named:
    """Area under the precision-recall curve for detecting outliers among images of the inlier classes.

    As published for ImageNet-O: an image's anomaly score is minus the highest softmax probability among the inlier
    classes, and outliers are the positives (Hendrycks et al., Natural Adversarial Examples, CVPR 2021, and its code).
    """
    inside, outside = (Confidences(len(folder.subset), evaluator.device) for _ in range(2))
    inliers = Split(inliers.images, np.searchsorted(folder.subset, inliers.labels), bad=inliers.bad)
    _add(evaluator, inliers, folder, inside)
    _add(evaluator, folder.read(), folder, outside)
    of_inliers, of_outliers = (one.gathered()[0] for one in (inside, outside))
    yield "images", len(of_outliers)
    yield "inliers", len(of_inliers)
    yield "aupr", average_precision(-of_outliers, -of_inliers)


def _add(evaluator: Evaluator, split: Split, folder: ShiftedFolder, *accumulators: Accumulator) -> None:
    """Update accumulators with logits (b, m) of a folder's m classes alone, and labels (b,) among them."""
    columns = torch.from_numpy(folder.subset).to(evaluator.device)
    for pixels, labels, _ in evaluator.batches(split, folder.path.name):
        logits = evaluator.logits(pixels)[:, columns]
        for one in accumulators:
            one.update(logits, labels)


def average_precision(positives: np.ndarray, negatives: np.ndarray) -> float:
    """Return the area under the precision-recall curve: sum over thresholds of (recall gained) * precision.

    Args:
        positives: (n,) scores, higher means more likely positive.
        negatives: (m,) scores. No threshold separates equal scores.

    Returns:
        In 0..1; nan without positives, or if a score is nan.
    """
    scores = np.concatenate([positives, negatives])
    if len(positives) == 0 or np.isnan(scores).any():
        return float("nan")
    distinct, group = np.unique(-scores, return_inverse=True)  # highest first
    is_positive = np.arange(len(scores)) < len(positives)
    found = np.cumsum(np.bincount(group, weights=is_positive, minlength=len(distinct)))
    taken = np.cumsum(np.bincount(group, minlength=len(distinct)))
    return float((np.diff(found, prepend=0) / len(positives) * found / taken).sum())


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
    text = _read(path, "the class map")
    try:
        rows = csv.DictReader(text.splitlines()) if str(path).lower().endswith(".csv") else None
        found = json.loads(text) if rows is None else {row["folder"]: row["class"] for row in rows}
        if not isinstance(found, dict) or not all(isinstance(name, str) for name in found.values()):
            raise ValueError("expected a class name for every folder name")
    except (ValueError, KeyError) as error:
        remedy = 'write JSON {"folder": "class"}, or CSV with the header folder,class'
        raise DataError(f"{path}: not a class map ({error}); {remedy}") from error
    return found


def holds_corruptions(folder: str | Path) -> bool:
    """Whether a folder holds corruptions by severity; the names alone do not tell, a class may be called `snow` too."""
    return any((Path(folder) / name / str(severity)).is_dir() for name in CORRUPTIONS for severity in SEVERITIES)


def open_corruptions(
    folder: str | Path, classes: Sequence[str], class_map: Mapping[str, str]
) -> dict[str, list[ShiftedFolder]]:
    """Return for each corruption its folders by severity, 1 to 5, `<corruption>/<severity>/<class>`.

    Raises:
        DataError: a corruption, severity or class is missing; the message lists all.
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
    """Read the baseline's error for each corruption from JSON {corruption: error in 0..1}; without a file, AlexNet's.

    Raises:
        DataError: the file is missing, is not JSON, lacks a corruption, or has an error outside (0, 1].
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
    """Return CE per corruption: its mean error over severities, divided by the baseline's. mCE is their mean."""
    return {name: sum(by_severity) / len(by_severity) / baseline[name] for name, by_severity in errors.items()}

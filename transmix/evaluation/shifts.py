"""The suite 'shifts': scores under distribution shift: natural images, corrupted images, and outliers."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch

from transmix.data.dataset import DataError, ImageData, Split, listing
from transmix.evaluation.accumulators import Accuracy, CalibrationError, sum_over_ranks, top1
from transmix.evaluation.confidence import Confidences
from transmix.evaluation.corruptions import corruption_errors, holds_corruptions, open_corruptions, read_baseline
from transmix.evaluation.evaluator import Evaluator, part_of
from transmix.evaluation.shifted_folder import ShiftedFolder, open_shifted, read_class_map
from transmix.evaluation.suites import Settings, Value
from transmix.metrics import Accumulator
from transmix.recipes import RecipeError

Named = Iterator[tuple[str, Value]]


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


def _corrupted(evaluator: Evaluator, folders: Mapping[str, list[ShiftedFolder]], baseline: dict[str, float]) -> Named:
    """Top-1 error of each corruption by severity, and divided by the baseline's; the mean of these is mCE."""
    errors: dict[str, list[float]] = {}
    for corruption, by_severity in folders.items():
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

"""ImageNet-C: fifteen corruptions at five severities, and the mean corruption error.

Source: Hendrycks and Dietterich, Benchmarking Neural Network Robustness to Common Corruptions and Perturbations (ICLR
2019, arXiv 1903.12261). Its four extra corruptions (speckle_noise, gaussian_blur, spatter, saturate) do not count.
"""

import json
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

from transmix.data.dataset import DataError, class_difference, listing
from transmix.evaluation.shifted_folder import ShiftedFolder, open_shifted

ALEXNET_ERRORS: dict[str, float] = json.loads(Path(__file__).with_name("alexnet_errors.json").read_text())
"""AlexNet's error for each corruption, the mean over its severities: the paper's baseline. The numbers are those that
google-research/augmix (imagenet.py) computes mCE with; they are good for ImageNet's 1,000 classes at 224 pixels."""

CORRUPTIONS = tuple(ALEXNET_ERRORS)

SEVERITIES = (1, 2, 3, 4, 5)


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
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot read the baseline's errors ({error.strerror})") from error
    except ValueError as error:
        raise DataError(f"{path}: the baseline's errors are not JSON ({error})") from error
    if missing := [name for name in CORRUPTIONS if not isinstance(found, dict) or name not in found]:
        raise DataError(f"{path}: expected an error for each corruption; missing: {listing(missing, 20)}")
    if wrong := [name for name in CORRUPTIONS if not _is_error(found[name])]:
        raise DataError(
            f"{path}: an error is a number above 0 and up to 1, not {found[wrong[0]]!r} ({listing(wrong, 20)})"
        )
    return {name: float(found[name]) for name in CORRUPTIONS}


def _is_error(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 1


def corruption_errors(errors: Mapping[str, Sequence[float]], baseline: Mapping[str, float]) -> dict[str, float]:
    """Return CE per corruption: its mean error over severities, divided by the baseline's. mCE is their mean."""
    return {name: sum(by_severity) / len(by_severity) / baseline[name] for name, by_severity in errors.items()}

"""What else was measured: class by class, how confidence goes with accuracy, and every further evaluation."""

import re
from collections.abc import Iterator
from typing import Any

from transmix.report.page import shorten
from transmix.report.read import RunFiles, number
from transmix.report.result import keeps_average
from transmix.report.words import NONE, decimal, percent, whole

MOST_CLASSES = 10
MOST_SCORES = 150
NAME = 60
"""Letters of a name; of a longer one the middle is left out."""

SCORES = {
    "images": "images",
    "top1": "top-1",
    "top5": "top-5",
    "loss": "loss",
    "calibration_error": "calibration error",
    "nonfinite_logits": "images without a finite prediction",
    "per_class_accuracy": "accuracy per class",
}
WEIGHTS = {"model": "weights as trained", "ema": "averaged weights (EMA)"}


def classes(found: RunFiles) -> dict[str, Any] | None:
    """Return the classes that are recognised worst and the most frequent confusions."""
    if found.confusion is None:
        return None
    names, images, right, wrong = found.confusion
    shown = [shorten(name, NAME) for name in names]
    seen = [at for at in range(len(names)) if images[at]]
    most = min(MOST_CLASSES, max(3, len(names) // 2))
    worst = sorted(seen, key=lambda at: (right[at] / images[at], at))[:most]
    taken = {true: predicted for _, true, predicted in reversed(wrong)}  # the most frequent comes last, and stays
    return {
        "number": whole(len(names)),
        "without": len(names) - len(seen),
        "seen": len(seen),
        "weights": WEIGHTS["ema" if keeps_average(found) else "model"],
        "worst": [
            (
                shown[at],
                percent(float(right[at] / images[at]), 1),
                whole(int(images[at])),
                shown[taken[at]] if at in taken else NONE,
            )
            for at in worst
        ],
        "wrong": [
            (shown[true], shown[predicted], whole(count), percent(float(count / images[true]), 1))
            for count, true, predicted in wrong[:most]
        ],
        "mistakes": whole(int(images.sum() - right.sum())),
        "images": whole(int(images.sum())),
    }


def evaluations(found: RunFiles) -> list[dict[str, Any]]:
    """Return every score and suite that stands in the folder's evaluations, whatever it is called, a table each."""
    tables = []
    for file, suite, evaluation, scores in _measured(found):
        columns = list(scores)[:4]
        flat = {column: dict(_flat(scores[column], ())) for column in columns}
        paths = list(dict.fromkeys(path for known in flat.values() for path in known if path[:1] != ("reliability",)))
        about = {name: value for name in ("data", "checkpoint") if (value := evaluation.get(name)) is not None}
        tables.append(
            {
                "file": file if suite is None else f"{file}: {suite}",
                "about": ", ".join(f"{name} {shorten(str(value), 120)}" for name, value in about.items()),
                "columns": [WEIGHTS.get(column, shorten(str(column), NAME)) for column in columns],
                "rows": [
                    [_score_name(path), *(_score(path, flat[column].get(path)) for column in columns)]
                    for path in paths[:MOST_SCORES]
                ],
                "left_out": max(len(paths) - MOST_SCORES, 0),
            }
        )
    return tables


def _measured(found: RunFiles) -> Iterator[tuple[str, str | None, dict[str, Any], dict[str, Any]]]:
    """Yield (file, suite or None, the whole, weights -> name -> value) of what `transmix evaluate` wrote."""
    for file, evaluation in found.evaluations.items():
        scores = evaluation.get("scores")
        yield file, None, evaluation, scores if isinstance(scores, dict) else {}
        for name, value in evaluation.items():
            if name != "scores" and isinstance(value, dict) and all(isinstance(one, dict) for one in value.values()):
                yield file, shorten(str(name), NAME), evaluation, value


def _flat(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the numbers and texts in nested scores with their names, and of a list of numbers (smallest, largest)."""
    if isinstance(value, dict) and len(path) < 6:
        for name, part in value.items():
            yield from _flat(part, (*path, shorten(str(name), NAME)))
    elif value is None or type(value) in (int, float, str):
        yield path, value
    elif isinstance(value, list) and (known := [one for one in map(number, value) if one is not None]):
        yield path, (len(known), min(known), max(known))


def _score_name(path: tuple[str, ...]) -> str:
    return " · ".join(SCORES.get(name, name.replace("_", " ")) for name in path) or "score"


def _score(path: tuple[str, ...], value: Any) -> str:
    if isinstance(value, str):
        return shorten(value, NAME)
    if isinstance(value, tuple):
        count, low, high = value
        return f"{_score(path, low)} to {_score(path, high)} ({count:,} values)"
    share = re.search(r"top\d|accuracy|error|auroc|share", " ".join(path)) and number(value) is not None
    return percent(value) if share and 0 <= value <= 1 else decimal(value)

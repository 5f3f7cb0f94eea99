"""Scores of the run: overall, per class, calibration, and all further evaluations."""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from transmix.metrics import FIGURES, METRICS, NONE, TRAINING_METRICS, Metric, added_metrics, says_something
from transmix.report.format import decimal, duration, percent, score, whole
from transmix.report.page import NO_BREAK, shorten
from transmix.runs.read import RunRecord, number
from transmix.runs.weights import NAMES, better_weights

MOST_CLASSES = 10
MOST_SCORES = 150
NAME = 60
"""Letters of a name; of a longer one the middle is left out."""

SHOWN = ("top1", "top5", "calibration_error")
"""Scores at the top of the page."""

WORDS = {"nonfinite_logits": "images without a finite prediction", "per_class_accuracy": "accuracy per class"}
"""What names in an evaluation are called that are no metric; others by themselves."""


def result(found: RunRecord) -> dict[str, Any]:
    """Return the main numbers; 'facts' are (name, value, which weights and what it is compared with)."""
    row, ema, facts, weights = last_scores(found), keeps_ema(found), [], shown_weights(found)
    if row is None:
        return {"facts": []}
    classes = len(found.confusion.images) if found.confusion else None
    shown = [name for name in SHOWN if classes is None or says_something(name, classes)]
    for name in shown:
        of = {"model": score(name, row.get(name)), "ema": score(name, row.get(f"ema_{name}"))}
        other = "model" if weights == "ema" else "ema"
        beside = f"; {NAMES[other]} {of[other]}" if ema else ""
        facts.append((METRICS[name].label, of[weights], f"of the {NAMES[weights]}{beside}"))
    if (best := best_epoch(found)) is not None:
        facts.append(("Best epoch", whole(best[0]), f"{NAMES[best[2]]}: {score('top1', best[1])}"))
    seconds, complete = found.training_time
    if seconds is not None:
        beside = "in its steps" + ("" if complete else "; a part is estimated")
        facts.append((TRAINING_METRICS["seconds"].label, duration(seconds), beside))
    return {
        "facts": facts,
        "meanings": [(METRICS[name].label, METRICS[name].meaning) for name in shown],
        "measure": METRICS["top1"].label,
        "epoch": whole(row.get("epoch")),
        "ema": ema,
        "weights": NAMES[weights],
    }


def last_scores(found: RunRecord) -> dict[str, Any] | None:
    """Return the last row of the log with scores, else the summary's scores."""
    last = found.summary.get("last")
    rows = [*([last] if isinstance(last, dict) else []), *found.epochs]
    return next((row for row in reversed(rows) if "top1" in row), None)


def keeps_ema(found: RunRecord) -> bool:
    """Whether the run has an EMA of its weights."""
    return "ema_top1" in (last_scores(found) or {})


def shown_weights(found: RunRecord) -> str:
    """Return the weights whose numbers the report shows: "ema", unless there is none or it is far below the model."""
    return better_weights(last_scores(found) or {})


def of_weights(found: RunRecord, name: str) -> str:
    """Return the name in the log of a score of the weights that the report shows."""
    return f"ema_{name}" if shown_weights(found) == "ema" else name


def best_epoch(found: RunRecord) -> tuple[int, float, str] | None:
    """Return the epoch with the best score, the score, and its weights: "model" or "ema"."""
    best = found.summary.get("best")
    if isinstance(best, dict) and number(best.get("score")) is not None and type(best.get("epoch")) is int:
        return best["epoch"], best["score"], best.get("weights", "ema" if keeps_ema(found) else "model")
    rows = [(row, better_weights(row)) for row in found.epochs]
    scores = [(number(row.get("ema_top1" if of == "ema" else "top1")), row.get("epoch"), of) for row, of in rows]
    known = [(epoch, score, of) for score, epoch, of in scores if score is not None and type(epoch) is int]
    return max(known, key=lambda one: (one[1], -one[0]), default=None)


def classes(found: RunRecord) -> dict[str, Any] | None:
    """Return the classes with the lowest accuracy and the most frequent confusions."""
    if found.confusion is None:
        return None
    names, images, right, wrong = found.confusion
    shown, accuracy = [shorten(name, NAME) for name in names], right / np.maximum(images, 1)
    seen = [at for at in range(len(names)) if images[at]]
    most = min(MOST_CLASSES, max(3, len(names) // 2))
    worst = sorted(seen, key=lambda at: (accuracy[at], at))[:most]
    # Of the pairs of a class the most frequent comes last, and stays.
    taken = {true: shown[predicted] for _, true, predicted in reversed(wrong)}
    return {
        "number": whole(len(names)),
        "without": len(names) - len(seen),
        "seen": len(seen),
        "weights": NAMES["ema" if keeps_ema(found) else "model"],
        "stands": shown_weights(found) == ("ema" if keeps_ema(found) else "model"),
        "worst": [
            (shown[at], percent(float(accuracy[at]), 1), whole(int(images[at])), taken.get(at, NONE)) for at in worst
        ],
        "wrong": [
            (shown[true], shown[predicted], whole(count), percent(float(count / images[true]), 1))
            for count, true, predicted in wrong[:most]
        ],
        "mistakes": whole(int(images.sum() - right.sum())),
        "images": whole(int(images.sum())),
    }


def evaluations(found: RunRecord) -> list[dict[str, Any]]:
    """Return one table for every score and suite in the folder's evaluations."""
    tables = []
    for file, suite, evaluation, scores in _measured(found):
        columns = list(scores)[:4]
        flat = {column: dict(_flat(scores[column])) for column in columns}
        paths = list(dict.fromkeys(path for known in flat.values() for path in known if path[:1] != ("reliability",)))
        about = {name: value for name in ("data", "checkpoint", "tta") if (value := evaluation.get(name)) is not None}
        metrics = FIGURES.get(suite or "", METRICS | added_metrics())
        rows = []
        for path in paths[:MOST_SCORES]:
            metric = metrics.get(path[-1].rpartition("/")[2]) if path else None
            rows.append([_name(path, metric), *(_score(path, metric, flat[column].get(path)) for column in columns)])
        tables.append(
            {
                "file": file if suite is None else f"{file}: {suite}",
                "about": ", ".join(f"{name} {shorten(str(value), 120)}" for name, value in about.items()),
                "columns": [NAMES.get(column, shorten(str(column), NAME)) for column in columns],
                "rows": rows,
                "left_out": max(len(paths) - MOST_SCORES, 0),
            }
        )
    return tables


def _measured(found: RunRecord) -> Iterator[tuple[str, str | None, dict[str, Any], dict[str, Any]]]:
    """Yield (file, suite or None, full content, weights -> name -> value) from the files of `transmix evaluate`."""
    for file, evaluation in found.evaluations.items():
        scores = evaluation.get("scores")
        if scores != {}:  # of other classes than the run's, suites of features alone
            yield file, None, evaluation, scores if isinstance(scores, dict) else {}
        for name, value in evaluation.items():
            if name != "scores" and isinstance(value, dict) and all(isinstance(one, dict) for one in value.values()):
                yield file, shorten(str(name), NAME), evaluation, value


def leaves(value: Any, depth: int, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield what nested dictionaries hold with the names that lead there, at most `depth` of them."""
    if isinstance(value, dict) and len(path) < depth:
        for name, part in value.items():
            yield from leaves(part, depth, (*path, shorten(str(name), NAME)))
    else:
        yield path, value


def _flat(scores: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the numbers and texts of nested scores with their names; a list of numbers gives (smallest, largest)."""
    for path, value in leaves(scores, 6):
        if value is None or type(value) in (int, float, str):
            yield path, value
        elif isinstance(value, list) and (known := [one for one in map(number, value) if one is not None]):
            yield path, (len(known), min(known), max(known))


def _name(path: tuple[str, ...], metric: Metric | None) -> str:
    words = [WORDS.get(name, name.replace("_", " ")) for name in path]
    if metric is not None:
        folder = path[-1].rpartition("/")[0]
        words[-1] = f"{folder}/{metric.label}" if folder else metric.label
    return " · ".join(words) or "score"


def _score(path: tuple[str, ...], metric: Metric | None, value: Any) -> str:
    if isinstance(value, str):
        return shorten(value, NAME)
    if isinstance(value, tuple):
        count, low, high = value
        return f"{_score(path, metric, low)} to {_score(path, metric, high)} ({count:,} values)"
    if metric is not None:
        return metric.write(value).replace(" ", NO_BREAK)
    share = re.search(r"top\d|accuracy|error|auroc|share", " ".join(path)) and number(value) is not None
    return percent(value) if share and 0 <= value <= 1 else decimal(value)

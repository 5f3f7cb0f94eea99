"""The verdict on a run: how good it is, of which weights, whether to trust it, and what to do next."""

import math
import shlex
from collections.abc import Sequence
from typing import Any

from transmix.metrics import METRICS
from transmix.report.format import percent, points, score, whole
from transmix.report.scores import best_epoch, last_scores, of_weights, shown_weights
from transmix.runs.read import RunRecord, number
from transmix.runs.weights import NAMES, ema_is_far_below

UNSURE = 0.02
"""A standard error of top-1 from which more validation images are asked for."""

LEAN = 0.05
"""A calibration error from which the confidence is called wrong."""


def verdict(found: RunRecord) -> dict[str, Any] | None:
    """Return the verdict: 'good', a sentence; 'doubts', a few words each; 'next' and 'command', what to do.

    None without a score.
    """
    row = last_scores(found)
    top1 = number((row or {}).get(of_weights(found, "top1")))
    if row is None or top1 is None or not 0 <= top1 <= 1:
        return None
    images = row.get("val_images") or (int(found.confusion.images.sum()) if found.confusion else 0)
    error = math.sqrt(top1 * (1 - top1) / images) if images else None
    about = f" of {whole(images)} validation images" if images else " of the validation images"
    spread = f", give or take {points(error)} from the choice of images (standard error)" if error is not None else ""
    blind, chance = _most_frequent(found), 2 * (error or 0.0)
    beside = "" if blind is None else f" Always naming the most frequent class would be right on {percent(blind, 1)}."
    doubts = _doubts(found, row, top1, error)
    if blind is not None and top1 <= blind + chance:
        doubts.append("it is no better than naming the most frequent class")
    return {
        "good": f"The {NAMES[shown_weights(found)]} is right on {percent(top1)}{about}{spread}.{beside}",
        "doubts": doubts,
        **_next(found, row, top1, error),
    }


def _most_frequent(found: RunRecord) -> float | None:
    """Return the share of the most frequent class among the validation images."""
    if found.confusion is None or not (images := found.confusion.images).sum():
        return None
    return float(images.max() / images.sum())


def _doubts(found: RunRecord, row: dict[str, Any], top1: float, error: float | None) -> list[str]:
    """Return reasons not to trust the number."""
    doubts = []
    if not found.finished:
        doubts.append("the run is not finished")
    if ema_is_far_below(row):
        doubts.append(f"the EMA, at {score('top1', row['ema_top1'])}, is far below the model")
    if skipped := int(sum(value for one in found.rows if (value := number(one.get("held_back"))) is not None)):
        doubts.append(f"steps skipped because they were not finite: {skipped}")
    if error is not None and error > UNSURE:
        doubts.append("it is measured on few images")
    calibration = number(row.get(of_weights(found, "calibration_error")))
    if calibration is not None and calibration > LEAN:
        doubts.append(f"its confidence is off by {percent(calibration, 1)} on average")
    if found.data.get("classes_not_held_out"):
        doubts.append("some classes have no validation image")
    return doubts


def still_rising(scores: Sequence[float], error: float) -> bool:
    """Whether a run of four epochs or more still rose at its end, by more than chance.

    The rise over the last tenth of the epochs, at least one, is above three standard errors of a difference: the noise
    of a validation set alone does so in about one of 700 runs.

    Args:
        scores: Of every evaluated epoch.
        error: Standard error of one score.
    """
    before = 1 + max(1, len(scores) // 10)
    return len(scores) >= 4 and scores[-1] - scores[-before] > 3 * math.sqrt(2) * error


def _next(found: RunRecord, row: dict[str, Any], top1: float, error: float | None) -> dict[str, str]:
    """Return what to do next, and the command."""
    run, best = shlex.quote(str(found.folder)), best_epoch(found)
    if (found.folder / "nonfinite").is_dir() and not found.finished:
        return {"next": "find out where the step went wrong", "command": f"transmix replay {run}"}
    if not found.finished:
        return {"next": "continue it", "command": f"transmix train --recipe {run}/recipe.yaml --out {run} --resume"}
    chance, blind = 2 * math.sqrt(2) * (error or 0.0), _most_frequent(found)
    if blind is not None and top1 <= blind + 2 * (error or 0.0):
        return {"next": "see whether it learned at all", "command": f"transmix show curves {run} --out curves.svg"}
    if best is not None and found.summary.get("stopped_early") and best[0] != row.get("epoch"):
        said = f"--patience stopped it, as it rose no more: take the weights of epoch {whole(best[0])}, the best"
        return {"next": said, "command": f"transmix evaluate {run} --checkpoint best"}
    if best is not None and best[1] - top1 > chance and best[0] != row.get("epoch"):
        said = (
            f"it was better after epoch {whole(best[0])} ({score('top1', best[1])}): take those weights, or train less"
        )
        return {"next": said, "command": f"transmix evaluate {run} --checkpoint best"}
    scores = [value for one in found.epochs if (value := number(one.get(of_weights(found, "top1")))) is not None]
    if still_rising(scores, error or 0.0) and not found.summary.get("stopped_early"):
        said = f"{METRICS['top1'].label} was still rising at the end: more epochs may help (--epochs, in a new --out)"
        return {"next": said, "command": f"transmix show curves {run} --out curves.svg"}
    return {"next": "it can be used as it is", "command": f"transmix export {run} --format timm"}

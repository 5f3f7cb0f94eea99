"""How good the run is: its state, its scores, and how they came about epoch by epoch."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from transmix.evaluation.metrics import added_metrics
from transmix.recipes.mixing import mix_and_labels
from transmix.report.page import shorten
from transmix.report.read import RunFiles, number
from transmix.report.words import decimal, duration, percent, plural, points, setting, whole
from transmix.runs.weights import better_weights

MOST_EPOCHS = 320
"""Rows of the table of epochs; of more, some are left out evenly."""

COLUMNS = {
    "epoch": ("epoch", whole),
    "loss": ("training loss", decimal),
    "val_loss": ("validation loss", decimal),
    "top1": ("top-1", percent),
    "top5": ("top-5", percent),
    "calibration_error": ("calibration error", percent),
    "ema_val_loss": ("EMA loss", decimal),
    "ema_top1": ("EMA top-1", percent),
    "ema_top5": ("EMA top-5", percent),
    "ema_calibration_error": ("EMA calibration error", percent),
    "mixed_accuracy": ("mixed accuracy", percent),
    "label_shift": ("label shift", points),
    "empty_boxes": ("empty boxes", percent),
    "images_per_second": ("images/s", whole),
}
"""Name in the log -> (heading, how it is written)."""

MIXING = {"none": "no mixing", "mixup": "Mixup", "cutmix": "CutMix", "mixup+cutmix": "Mixup and CutMix"}
"""How mixes are written; others by their name."""

LABELS = {"area": "labels by area", "attention": "the boxes’ labels by attention (TransMix)"}
"""How label rules are written; others by their name."""


def overview(found: RunFiles) -> dict[str, Any]:
    """Return the run's title, what it trained, and what keeps its numbers from being final."""
    mix, labels = ways(found)
    about = {
        "model": found.setting("model", "model"),
        "data": found.setting("data", "data"),
        "validated on": _held_out(found),
        "mixing": _mixing(mix, labels),
        "epochs": planned_epochs(found),
        "images a step": found.setting("optimization", "batch_size"),
        "seed": found.setting("run", "seed"),
    }
    return {
        "name": found.folder.resolve().name or str(found.folder),
        "about": [(name, setting(value)) for name, value in about.items() if value is not None],
        "mix": mix,
        "by_rule": labels != "area",
        "by": evidence_of(found),
        "state": _state(found),
        "final": found.summary.get("finished") is True,
    }


def ways(found: RunFiles) -> tuple[Any, Any]:
    """Return mix and label rule, (None, None) where the recipe does not say."""
    mix, labels = (found.setting("mixing", name) for name in ("mix", "labels"))
    if not isinstance(mix, str):
        return mix, None
    mix, labels = mix_and_labels(mix, labels if isinstance(labels, str) else None)
    return mix, labels or "area"


def _mixing(mix: Any, labels: Any) -> Any:
    if not isinstance(mix, str) or mix == "none":
        return MIXING.get(mix, mix) if isinstance(mix, str) else mix
    if mix == "mixup" and labels == "area":
        return MIXING[mix]
    return f"{MIXING.get(mix, mix)}, {LABELS.get(labels, f'labels by {labels}')}"


def _added_columns() -> dict[str, tuple[str, Callable[[Any], str]]]:
    """Return the columns of metrics that installed packages add."""
    added = {}
    for name, metric in added_metrics().items():
        write = percent if metric.unit == "%" else decimal
        added |= {name: (metric.label, write), f"ema_{name}": (f"EMA {metric.label}", write)}
    return added


def _held_out(found: RunFiles) -> str | None:
    """Say which part was held out, and of Parquet files which columns were read."""
    images, part, columns = (found.data.get(name) for name in ("images", "held_out", "columns"))
    if not (isinstance(images, dict) and isinstance(part, str)):
        return None
    columns = f", columns {' and '.join(map(str, columns))}" if isinstance(columns, list) else ""
    return shorten(f"{whole(images.get('held_out'))} images of {part}{columns}", 120)


def result(found: RunFiles) -> dict[str, Any]:
    """Return the few numbers that matter; 'facts' are (name, value, what it is compared to)."""
    row, ema = last_scores(found), keeps_average(found)
    if row is None:
        return {"facts": [], "images": None}

    def both(name: str) -> tuple[str, str]:
        return percent(row.get(name)), f"averaged weights: {percent(row.get(f'ema_{name}'))}" if ema else ""

    facts = [
        ("Top-1 accuracy", *both("top1")),
        ("Top-5 accuracy", *both("top5")),
        ("Calibration error", *both("calibration_error")),
    ]
    if (best := best_epoch(found)) is not None:
        score = f"{'averaged weights' if best[2] == 'ema' else 'top-1'}: {percent(best[1])}"
        facts.append(("Best epoch", whole(best[0]), score))
    seconds, whole_run = training_time(found)
    if seconds is not None:
        facts.append(
            ("Training time", duration(seconds), "in its steps" + ("" if whole_run else "; a part is not on record"))
        )
    images = int(found.confusion.images.sum()) if found.confusion is not None else 0
    top1, error = number(row.get("top1")), None
    if images and top1 is not None and 0 <= top1 <= 1:
        error = points(math.sqrt(top1 * (1 - top1) / images))
    return {"facts": facts, "epoch": whole(row.get("epoch")), "ema": ema, "images": whole(images), "error": error}


def epoch_table(found: RunFiles) -> dict[str, Any]:
    """Return the scores of every epoch as a table."""
    epochs = found.epochs
    columns = COLUMNS | _added_columns()
    known = [name for name in columns if any(name in row for row in epochs)]
    shown = spaced(epochs, MOST_EPOCHS)
    return {
        "columns": [columns[name][0] for name in known],
        "rows": [[columns[name][1](row.get(name)) for name in known] for row in shown],
        "left_out": len(epochs) - len(shown),
    }


def label_shift(found: RunFiles) -> dict[str, Any]:
    """Return how far attention moved labels, early, late and on average, or why it moved none."""
    rows = [row for row in found.epochs if number(row.get("label_shift")) is not None]
    if not rows:
        mix, labels = ways(found)
        if mix is None:
            return {"note": "Nothing is on record."}
        if mix == "none":
            return {"note": "This run mixes no images, so there are no labels to move."}
        if labels != "area":
            return {"note": "No epoch with boxes is on record yet."}
        return {"note": f"This run’s labels are by area (mix {mix}): attention moves none of them."}
    mean = {name: _mean([row.get(name) for row in rows]) for name in ("label_shift", "empty_boxes")}
    strongest = max(rows, key=lambda row: row["label_shift"])
    picked = [("first", rows[0]), ("strongest", strongest), ("last that mixes", rows[-1])]
    return {
        "mean": (points(mean["label_shift"]), percent(mean["empty_boxes"], 1)),
        "rows": [
            (
                f"{which} (epoch {whole(row.get('epoch'))})",
                points(row["label_shift"]),
                percent(row.get("empty_boxes"), 1),
            )
            for which, row in picked
        ]
        + [(f"mean of {plural(len(rows), 'epoch')}", points(mean["label_shift"]), percent(mean["empty_boxes"], 1))],
        "weight": percent(_weight(found), 0) if number(_weight(found)) is not None else None,
        "by": evidence_of(found),
    }


def evidence_of(found: RunFiles) -> str:
    """Return what a run's label rule looks at, in words: attention, or the rule's name."""
    labels = ways(found)[1]
    return "attention" if labels in ("attention", "area", None) else f"the rule “{labels}”"


def _weight(found: RunFiles) -> Any:
    """Return the share of the rule's evidence in the label, as recipes of today or of before say it."""
    options = found.setting("mixing", "labels_options")
    before = found.setting("mixing", "attention_weight")
    return options.get("weight", before) if isinstance(options, dict) else before


def planned_epochs(found: RunFiles) -> int | None:
    """Return how many epochs the recipe asks for."""
    epochs = [found.setting("optimization", name, 0) for name in ("epochs", "cooldown_epochs")]
    return sum(epochs) or None if all(type(one) is int for one in epochs) else None


def last_scores(found: RunFiles) -> dict[str, Any] | None:
    """Return the last row of the log, or else of the summary, that has scores."""
    last = found.summary.get("last")
    rows = [*([last] if isinstance(last, dict) else []), *found.epochs]
    return next((row for row in reversed(rows) if "top1" in row), None)


def keeps_average(found: RunFiles) -> bool:
    """Tell whether the run keeps an average of its weights (EMA)."""
    return "ema_top1" in (last_scores(found) or {})


def best_epoch(found: RunFiles) -> tuple[int, float, str] | None:
    """Return the epoch with the best score, the score, and whose it is: "ema" where an average stands for the run."""
    best = found.summary.get("best")
    if isinstance(best, dict) and number(best.get("score")) is not None and type(best.get("epoch")) is int:
        return best["epoch"], best["score"], best.get("weights", "ema" if keeps_average(found) else "model")
    rows = [(row, better_weights(row)) for row in found.epochs]
    scores = [(number(row.get("ema_top1" if of == "ema" else "top1")), row.get("epoch"), of) for row, of in rows]
    known = [(epoch, score, of) for score, epoch, of in scores if score is not None and type(epoch) is int]
    return max(known, key=lambda one: (one[1], -one[0]), default=None)


def steps_per_epoch(found: RunFiles) -> int | None:
    """Return how many steps an epoch has, if two ends of epochs are on record."""
    ends = sorted({row["step"] for row in found.epochs})
    return ends[1] - ends[0] if len(ends) > 1 else None


def training_time(found: RunFiles) -> tuple[float | None, bool]:
    """Return the seconds of all training steps, and whether every epoch is in them.

    From images per second, or from the seconds of each epoch where the log has those.
    """
    batch, before, seconds, complete = number(found.setting("optimization", "batch_size")), 0, 0.0, True
    for row in found.epochs:
        speed, steps = number(row.get("images_per_second")), row["step"] - before
        before = row["step"]
        if batch is None or not speed:
            complete = False
        else:
            seconds += steps * batch / speed
    return (seconds or None), complete


def spaced(rows: Sequence[Any], most: int) -> list[Any]:
    """Return at most `most` of the rows, evenly spaced, the first and the last among them."""
    if len(rows) <= most:
        return list(rows)
    return [rows[round(at * (len(rows) - 1) / (most - 1))] for at in range(most)]


def _state(found: RunFiles) -> str:
    step = found.summary.get("step", found.rows[-1]["step"] if found.rows else None)
    steps = f" after {whole(step)} steps" if step is not None else ""
    planned, epochs = planned_epochs(found), found.epochs
    done = f"{len(epochs)}" + (f" of {planned}" if planned else "") + " epochs"
    if found.summary.get("finished") is True:
        return f"Finished{steps}."
    if found.summary:
        return f"Stopped{steps} as asked, before the end of its schedule: {done} are on record."
    if not (found.folder / "summary.json").exists():
        return f"Not finished: {done} are on record{f', the last at step {whole(step)}' if step is not None else ''}."
    return f"Whether it finished cannot be told: {found.problems.get('summary.json', 'summary.json is empty')}."


def _mean(values: Sequence[Any]) -> Any:
    known = [value for value in map(number, values) if value is not None]
    return sum(known) / len(known) if known else None

"""History of the run: state, epochs, label shift, cost, incidents, settings, environment."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from statistics import fmean, median
from typing import Any

from transmix.data.bad_images import LIST
from transmix.metrics import TRAINING_METRICS, log_metrics
from transmix.recipes import Recipe
from transmix.recipes.mixing import mix_and_labels
from transmix.recipes.settings import meanings
from transmix.report.format import duration, percent, plural, score, setting, size, whole
from transmix.report.page import shorten
from transmix.report.scores import NAME, last_scores, leaves
from transmix.runs.read import RunRecord, number, read_file, tried
from transmix.runs.weights import ema_is_far_below, gap
from transmix.visual.attention import spaced

MOST_EPOCHS = 320
"""Rows of the table of epochs; of more, some are left out evenly."""

MIXING = {"none": "no mixing", "mixup": "Mixup", "cutmix": "CutMix", "mixup+cutmix": "Mixup and CutMix"}
"""How mixes are written; others by their name."""

LABELS = {"area": "labels by area", "attention": "the boxes’ labels by attention (TransMix)"}
"""How label rules are written; others by their name."""


def overview(found: RunRecord) -> dict[str, Any]:
    """Return the run's title, what it trained, and why its numbers are not final yet."""
    mix, labels = ways(found)
    images, part, columns = (found.data.get(name) for name in ("images", "held_out", "columns"))
    epochs = [found.setting("optimization", name, 0) for name in ("epochs", "cooldown_epochs")]
    held_out = None
    if isinstance(images, dict) and isinstance(part, str):
        columns = f", columns {' and '.join(map(str, columns))}" if isinstance(columns, list) else ""
        held_out = shorten(f"{whole(images.get('held_out'))} images of {part}{columns}", 120)
    mixing = MIXING.get(mix, mix) if isinstance(mix, str) else mix
    if isinstance(mix, str) and mix != "none" and (mix, labels) != ("mixup", "area"):
        mixing = f"{mixing}, {LABELS.get(labels, f'labels by {labels}')}"
    about = {
        "model": found.setting("model", "model"),
        "data": found.setting("data", "data"),
        "validated on": held_out,
        "mixing": mixing,
        "epochs": sum(epochs) or None if all(type(one) is int for one in epochs) else None,
        "images a step": found.setting("optimization", "batch_size"),
        "seed": found.setting("run", "seed"),
        "stopped early": found.summary.get("stopped_early"),
    }
    return {
        "name": found.folder.resolve().name or str(found.folder),
        "about": [(name, setting(value)) for name, value in about.items() if value is not None],
        "mix": mix,
        "by_rule": labels != "area",
        "by": evidence_of(found),
        "step": found.summary.get("step", found.rows[-1]["step"] if found.rows else None),
        "done": len(found.epochs),
        "planned": about["epochs"],
        "summary": found.summary or (None if (found.folder / "summary.json").exists() else {}),
        "final": found.summary.get("finished") is True,
    }


def ways(found: RunRecord) -> tuple[Any, Any]:
    """Return mix and label rule; (None, None) if the recipe has none."""
    mix, labels = (found.setting("mixing", name) for name in ("mix", "labels"))
    if not isinstance(mix, str):
        return mix, None
    mix, labels = mix_and_labels(mix, labels if isinstance(labels, str) else None)
    return mix, labels or "area"


def epoch_table(found: RunRecord) -> dict[str, Any]:
    """Return the scores of every epoch as a table."""
    metrics, epochs = log_metrics(), found.epochs
    known = [name for name in metrics if any(name in row for row in epochs)]
    shown = spaced(epochs, MOST_EPOCHS)
    return {
        "columns": ["epoch", *(metrics[name].label for name in known)],
        "rows": [[whole(row.get("epoch")), *(metrics[name].write(row.get(name)) for name in known)] for row in shown],
        "left_out": len(epochs) - len(shown),
    }


def label_shift(found: RunRecord) -> dict[str, Any]:
    """Return how much the label rule changed the labels: early, late and on average; for other runs, the mix."""
    names, (mix, labels) = ("label_shift", "empty_boxes"), ways(found)
    rows = [row for row in found.epochs if number(row.get("label_shift")) is not None]
    if not rows:
        return {"mix": mix, "labels": labels}
    strongest = max(rows, key=lambda row: row["label_shift"])
    picked = {
        f"{which} (epoch {whole(row.get('epoch'))})": row
        for which, row in (("first", rows[0]), ("strongest", strongest), ("last that mixes", rows[-1]))
    }
    means = {name: fmean(values) if (values := _numbers(rows, name)) else None for name in names}
    picked[f"mean of {plural(len(rows), 'epoch')}"] = means
    options = found.setting("mixing", "labels_options")
    before = found.setting("mixing", "attention_weight")  # recipes of before have it beside the rule
    weight = options.get("weight", before) if isinstance(options, dict) else before
    return {
        "heads": ["epochs", *(log_metrics()[name].label for name in names)],
        "mean": [score(name, means[name]) for name in names],
        "rows": [(which, *(score(name, row.get(name)) for name in names)) for which, row in picked.items()],
        "weight": percent(weight, 0) if number(weight) is not None else None,
        "by": evidence_of(found),
    }


def evidence_of(found: RunRecord) -> str:
    """Return the evidence of a run's label rule as text: attention, or the rule's name."""
    labels = ways(found)[1]
    return "attention" if labels in ("attention", "area", None) else f"the rule “{labels}”"


def cost(found: RunRecord) -> list[tuple[str, str, str]]:
    """Return (name, amount, source of the number)."""
    seconds, complete = found.training_time
    step = max((row["step"] for row in found.rows), default=None)
    batch = number(found.setting("optimization", "batch_size"))
    walls, speeds = (_numbers(found.epochs, name) for name in ("seconds", "images_per_second"))
    speeds, memory = list(filter(None, speeds)), _numbers(found.rows, "peak_memory")
    written = partial(TRAINING_METRICS["images_per_second"].write, unit=False)
    spread = f"median of the epochs; {written(min(speeds))} to {written(max(speeds))}" if speeds else ""
    in_steps = "images ÷ images per second; start-up, evaluation and saving are not in it"
    weights = found.folder / "model.safetensors"
    table = [
        (
            "time in training steps",
            seconds is not None and ("" if complete else "about ") + duration(seconds),
            in_steps,
        ),
        ("time of the epochs", walls and duration(sum(walls)), "with evaluation and saving"),
        ("images per second", speeds and written(median(speeds)), spread),
        ("optimizer steps", step is not None and whole(step), f"of {whole(batch)} images each" if batch else ""),
        ("training images seen", step is not None and batch and whole(step * batch), "each as often as it was shown"),
        ("peak memory of the device", memory and size(max(memory)), "as torch counts it"),
        ("weights on disk", weights.is_file() and size(weights.stat().st_size), "model.safetensors"),
    ]
    return [(what, how_much, known) for what, how_much, known in table if how_much]


def incidents(found: RunRecord) -> list[tuple[str, list[str]]]:
    """Return the incidents of the run, each with optional detail lines."""
    folder, happened = found.folder, []
    last = last_scores(found) or {}
    if ema_is_far_below(last):
        happened.append(("The EMA is far below the model, which stands for the run", [gap(last)]))
    notes = found.data.get("notes")
    happened += [(shorten(str(note), 600), []) for note in (notes if isinstance(notes, list) else [])[:10]]
    if count := int(sum(_numbers(found.rows, "held_back"))):
        happened.append((f"{plural(count, 'step')} skipped because loss or gradient was not finite", []))
    if dumps := _names(found, "nonfinite", "step-*"):
        text = "Training stopped at a step that was not finite; transmix replay runs it again and says where it began"
        happened.append((text, dumps))
    if (folder / LIST).exists():
        text = tried(found.problems, LIST, lambda: read_file(folder / LIST).decode(errors="replace"))
        bad = [line for line in (text or "").split("\n") if line]
        rest = [f"and {len(bad) - 10:,} more"] if len(bad) > 10 else []
        lines = [shorten(line.replace("\t", ": "), 240) for line in bad[:10]]
        happened.append((f"{plural(len(bad), 'image')} left out because unreadable ({LIST})", lines + rest))
    if damaged := _names(found, "checkpoints", "damaged-*"):
        happened.append((f"{plural(len(damaged), 'damaged checkpoint')} set aside", damaged))
    if partly := [row for row in found.epochs if "images_per_second" not in row]:
        epochs = ", ".join(whole(row.get("epoch")) for row in partly[:10])
        happened.append((f"Stopped and resumed at the end of epoch {epochs}", []))
    if "--resume" in str(found.environment.get("command", "")).split():
        happened.append(("The last start said --resume; earlier ones are not on record", []))
    return happened


def recipe(found: RunRecord) -> dict[str, Any] | None:
    """Return settings as (section, name, value, default, meaning), changed settings separate from defaults."""
    if not found.sections:
        return None
    defaults = dataclasses.asdict(Recipe())
    texts = {name: text for section in vars(Recipe()).values() for name, text in meanings(type(section)).items()}
    changed, same = [], []
    for section, values in list(found.sections.items())[:20]:
        for name, value in list(values.items())[:60] if isinstance(values, dict) else [("", values)]:
            known = section in defaults and name in defaults[section]
            default = setting(defaults[section][name]) if known else "not known to this version"
            row = (shorten(str(name), NAME), setting(value), default, texts.get(str(name), "").replace("`", ""))
            (same if setting(value) == default else changed).append(row)
    return {"changed": changed, "same": same}


def environment(found: RunRecord) -> list[tuple[str, str]]:
    """Return the environment of the run, with nested values flattened."""
    return [(" ".join(path).replace("_", " "), setting(value)) for path, value in leaves(found.environment, 4)][:60]


def _numbers(rows: Sequence[dict[str, Any]], name: str) -> list[float]:
    return [value for row in rows if (value := number(row.get(name))) is not None]


def _names(found: RunRecord, place: str, pattern: str) -> list[str]:
    paths = tried(found.problems, place, lambda: sorted((found.folder / place).glob(pattern))) or []
    return [path.name for path in paths[:10]]

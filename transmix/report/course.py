"""How the run went and from what: cost, incidents, settings, environment."""

import ast
import dataclasses
import inspect
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from statistics import median
from typing import Any

from transmix.data import settings as data_settings
from transmix.data.bad_images import LIST
from transmix.recipes import model as model_settings
from transmix.recipes import settings
from transmix.report.page import shorten
from transmix.report.read import RunFiles, number, read_file, tried
from transmix.report.result import last_scores, training_time
from transmix.report.words import duration, plural, setting, size, whole
from transmix.runs.weights import ema_is_far_below, gap

NAME = 60
"""Letters of a name; of a longer one the middle is left out."""


def cost(found: RunFiles) -> list[tuple[str, str, str]]:
    """Return (what, how much, how it is known)."""
    rows = found.epochs
    seconds, complete = training_time(found)
    speeds = [speed for row in rows if (speed := number(row.get("images_per_second")))]
    step = max((row["step"] for row in found.rows), default=None)
    batch = number(found.setting("optimization", "batch_size"))
    table = []
    if seconds is not None:
        known = "images ÷ images per second; start-up, evaluation and saving are not in it"
        table.append(("time in training steps", ("" if complete else "at least ") + duration(seconds), known))
    if walls := [wall for row in rows if (wall := number(row.get("seconds"))) is not None]:
        table.append(("time of the epochs", duration(sum(walls)), "with evaluation and saving"))
    if speeds:
        slow, fast = min(speeds), max(speeds)
        table.append(
            ("images per second", whole(median(speeds)), f"median of the epochs; {whole(slow)} to {whole(fast)}")
        )
    if step is not None:
        table.append(("optimizer steps", whole(step), f"of {whole(batch)} images each" if batch else ""))
        if batch:
            table.append(("training images seen", whole(step * batch), "each as often as it was shown"))
    if memory := [value for row in found.rows if (value := number(row.get("peak_memory"))) is not None]:
        table.append(("peak memory of the device", size(max(memory)), "as torch counts it"))
    weights = found.folder / "model.safetensors"
    if weights.is_file():
        table.append(("weights on disk", size(weights.stat().st_size), "model.safetensors"))
    return table


def incidents(found: RunFiles) -> list[tuple[str, list[str]]]:
    """Return what happened on the way, each with more lines if there are any."""
    folder, happened = found.folder, []
    last = last_scores(found) or {}
    if ema_is_far_below(last):
        text = "The averaged weights are far below the weights as trained, which stand for the run"
        happened.append((text, [gap(last)]))
    notes = found.data.get("notes")
    happened += [(shorten(str(note), 600), []) for note in (notes if isinstance(notes, list) else [])[:10]]
    held = [row for row in found.rows if number(row.get("held_back"))]
    if held:
        count = int(sum(row["held_back"] for row in held))
        happened.append((f"{plural(count, 'step')} held back because loss or gradient was not finite", []))
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
        happened.append((f"Stopped and gone on with at the end of epoch {epochs}", []))
    if "--resume" in str(found.environment.get("command", "")).split():
        happened.append(("The last start said --resume; earlier ones are not on record", []))
    return happened


def recipe(found: RunFiles) -> dict[str, Any] | None:
    """Return settings as (section, name, value, default, meaning), those that differ from the defaults apart."""
    if not found.recipe:
        return None
    defaults, meanings = dataclasses.asdict(settings.Recipe()), _meanings()
    changed, same = [], []
    for section, values in list(found.recipe.items())[:20]:
        for name, value in list(values.items())[:60] if isinstance(values, dict) else [("", values)]:
            known = section in defaults and name in defaults[section]
            default = setting(defaults[section][name]) if known else "not known to this version"
            row = (shorten(str(name), NAME), setting(value), default, meanings.get(str(name), ""))
            (same if setting(value) == default else changed).append(row)
    return {"changed": changed, "same": same}


def environment(found: RunFiles) -> list[tuple[str, str]]:
    """Return what else the result depends on, nested values with their names in a row."""
    return [(" ".join(path).replace("_", " "), setting(value)) for path, value in _leaves(found.environment, ())][:60]


def _names(found: RunFiles, place: str, pattern: str) -> list[str]:
    paths = tried(found.problems, place, lambda: sorted((found.folder / place).glob(pattern))) or []
    return [path.name for path in paths[:10]]


def _leaves(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, dict) and len(path) < 4:
        for name, part in value.items():
            yield from _leaves(part, (*path, shorten(str(name), NAME)))
    else:
        yield path, value


@cache
def _meanings() -> dict[str, str]:
    """Return what stands below each setting where it is defined."""
    meanings = {}
    sources = map(inspect.getsource, (data_settings, model_settings, settings))
    for part in [part for source in sources for part in ast.parse(source).body]:
        fields = part.body if isinstance(part, ast.ClassDef) else []
        for one, after in pairwise(fields):
            if isinstance(one, ast.AnnAssign) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                meanings[ast.unparse(one.target)] = " ".join(str(after.value.value).replace("`", "").split())
    return meanings

"""Read a run folder once; a missing or damaged file affects only its own values."""

import csv
import io
import json
import math
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from transmix.error import one_line
from transmix.recipes import Recipe
from transmix.recipes.file import LARGEST as LARGEST_RECIPE
from transmix.recipes.mixing import title
from transmix.recipes.settings import flat
from transmix.runs.error import RunError
from transmix.runs.folder import read_classes, read_recipe
from transmix.runs.log import read_rows

LARGEST = 100_000_000
"""Bytes of a file; larger ones are named and left out. A confusion matrix of 7,000 classes is as large."""

KNOWN = ("recipe.yaml", "metrics.jsonl", "summary.json", "environment.json")
"""A folder with none of these holds no run."""


class Damage(str):
    """The problem of a file that no run leaves so."""


class NoDamageError(ValueError):
    """A file that cannot be used, and yet is as a run may leave it."""


class Confusion(NamedTuple):
    """The non-zero entries of a (K, K) confusion matrix."""

    classes: list[str]
    images: np.ndarray  # (K,) int64, of each class
    right: np.ndarray  # (K,) int64
    wrong: list[tuple[int, int, int]]  # (count, true, predicted), the most frequent first


@dataclass(eq=False)
class RunRecord:
    """Content of a run folder; a value is None or empty if `problems` has the reason.

    Attributes:
        folder: run folder.
        sections: section -> setting -> value, as recipe.yaml has them.
        environment: versions, machine, command.
        rows: rows of the log.
        summary: summary of a finished run.
        data: held-out part, missing classes, notes; empty for an old run without the file.
        reliability: weights -> 'hits', 'confidence' (their sum) and 'count' of each bin.
        evaluations: file name -> results of `transmix evaluate`.
        confusion: confusion matrix of the last evaluation.
        problems: name of the file -> why it is not there to be used; `Damage` where no run leaves it so.
    """

    folder: Path
    sections: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    reliability: dict[str, Any] = field(default_factory=dict)
    evaluations: dict[str, dict[str, Any]] = field(default_factory=dict)
    confusion: Confusion | None = None
    problems: dict[str, str] = field(default_factory=dict)

    @property
    def epochs(self) -> list[dict[str, Any]]:
        """The rows of the log that end an epoch."""
        return [row for row in self.rows if row["kind"] == "epoch"]

    def damage(self, name: str) -> str:
        """Return the problem of a file, if an intact run cannot have it; else empty."""
        problem = self.problems.get(name)
        return problem if isinstance(problem, Damage) else ""

    @property
    def finished(self) -> bool:
        """Whether the run is finished."""
        return bool(self.summary.get("finished")) and bool(self.epochs)

    def setting(self, section: str, name: str, default: Any = None) -> Any:
        """Return a setting of recipe.yaml, or the default."""
        settings = self.sections.get(section)
        return settings.get(name, default) if isinstance(settings, dict) else default

    @property
    def training_time(self) -> tuple[float | None, bool]:
        """Seconds of all training steps (None: unknown), and whether every epoch has its speed in the log.

        An epoch without a speed, because the run stopped at its end, counts as fast as the others.
        """
        known, steps, before = 0.0, 0, 0
        for row in self.epochs:
            if speed := number(row.get("images_per_second")):
                known += (row["step"] - before) / speed
                steps += row["step"] - before
            before = row["step"]
        batch = number(self.setting("optimization", "batch_size"))
        if not batch or not steps:
            return None, False
        return batch * known * before / steps, steps == before

    @cached_property
    def recipe(self) -> Recipe:
        """Every setting. Raises RecipeError if recipe.yaml cannot be read, or has settings that are unknown now."""
        return read_recipe(self.folder)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The class list. Raises RunError if classes.json cannot be read."""
        return read_classes(self.folder)

    @property
    def images(self) -> tuple[int, ...] | None:
        """Number of validation images per class; None before the run has finished."""
        return tuple(self.confusion.images.tolist()) if self.finished and self.confusion is not None else None

    @property
    def seed(self) -> int:
        """Random seed of the run."""
        return self.recipe.run.seed

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Setting -> value, without the sections; settings of the label rule are separate entries."""
        found = flat(self.recipe)
        return found | {f"labels {name}": value for name, value in found.pop("labels_options").items()}

    @property
    def of_labels(self) -> set[str]:
        """Names of the settings of the label rule, as `settings` has them."""
        return {f"labels {name}" for name in self.recipe.mixing.labels_options}

    @property
    def title(self) -> str:
        """Display name of its mix and labels."""
        return title(self.recipe.mixing.mix, self.recipe.mixing.labels)


def read_run(folder: Path) -> RunRecord:
    """Read a run folder.

    Raises:
        RunError: there is no run.
    """
    if not folder.is_dir():
        raise RunError(f"{folder}: no such run folder")
    if not any((folder / name).exists() for name in KNOWN):
        raise RunError(f"{folder} holds no run: none of {', '.join(KNOWN)} is there")
    problems: dict[str, str] = {}

    def read(name: str, reader: Callable[[Path], Any]) -> Any:
        return tried(problems, name, lambda: reader(folder / name))

    evaluations = {path.name: read(path.name, _mapping) for path in sorted(folder.glob("evaluation*.json"))[:20]}
    return RunRecord(
        folder,
        sections=read("recipe.yaml", _mapping) or {},
        environment=read("environment.json", _mapping) or {},
        rows=read("metrics.jsonl", _log) or [],
        summary=read("summary.json", _mapping) or {},
        data=(read("data.json", _mapping) or {}) if (folder / "data.json").exists() else {},  # runs of before lack it
        reliability=read("reliability.json", _mapping) or {},
        evaluations={name: found for name, found in evaluations.items() if found is not None},
        confusion=read("confusion.csv", _confusion),
        problems=problems,
    )


def read_file(path: Path, largest: int = LARGEST) -> bytes:
    """Return a file's content.

    Raises:
        ValueError: it is not a plain file, or too large.
        OSError: it cannot be read.
    """
    about = path.stat()
    if not stat.S_ISREG(about.st_mode):  # a pipe would never end
        raise ValueError("it is not a plain file")
    if about.st_size > largest:
        raise NoDamageError(f"it has {about.st_size / 1e6:,.1f} MB, more than is read ({largest / 1e6:g} MB)")
    return path.read_bytes()


def number(value: Any) -> float | None:
    """Return a finite number unchanged, and None for everything else (bools too)."""
    return value if type(value) in (int, float) and math.isfinite(value) else None


def tried(problems: dict[str, str], name: str, read: Callable[[], Any]) -> Any:
    """Return the result of `read`, or None with the reason in `problems`."""
    try:
        return read()
    except FileNotFoundError:
        problems[name] = f"There is no {name}"
    except json.JSONDecodeError as error:
        problems[name] = Damage(f"{name} is not JSON ({error})")
    except Exception as error:  # whatever a damaged file may bring about, the rest of the run is worth having
        kind = str if isinstance(error, NoDamageError) else Damage
        problems[name] = kind(f"{name} cannot be used: {one_line(error)}")
    return None


def _mapping(path: Path) -> dict[str, Any]:
    text = read_file(path, LARGEST if path.suffix == ".json" else LARGEST_RECIPE).decode()
    value = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    if not isinstance(value, dict):
        raise ValueError("it is not a mapping of names to values")
    return value


def _log(path: Path) -> list[dict[str, Any]]:
    read_file(path)
    rows = read_rows(path)
    if not rows:
        raise NoDamageError("it holds no row yet")
    return rows


def _confusion(path: Path) -> Confusion:
    lines = csv.reader(io.StringIO(read_file(path).decode(), newline=""))
    classes = next(lines)[1:]
    images, right = np.zeros((2, len(classes)), dtype=np.int64)
    wrong: list[tuple[int, int, int]] = []
    position = -1
    for position, (_, *cells) in enumerate(lines):
        if position >= len(classes) or len(cells) != len(classes):
            raise ValueError(f"row {position + 1} of {len(classes)} has {len(cells)} counts")
        counts = {at: int(cell) for at, cell in enumerate(cells) if cell != "0"}
        images[position], right[position] = sum(counts.values()), counts.pop(position, 0)
        wrong += [(count, position, at) for at, count in counts.items()]
    if position + 1 != len(classes):
        raise ValueError(f"it has {position + 1} rows for {len(classes)} classes")
    return Confusion(classes, images, right, sorted(wrong, key=lambda one: (-one[0], *one[1:])))

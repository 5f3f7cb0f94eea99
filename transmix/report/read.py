"""What a run folder holds, read so that what is missing or damaged costs its own place in the report and no more."""

import csv
import io
import json
import math
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from transmix.recipes.file import LARGEST as LARGEST_RECIPE
from transmix.runs.error import RunError
from transmix.runs.log import read_rows

LARGEST = 100_000_000
"""Bytes of a file; larger ones are named and left out. A confusion matrix of 7,000 classes is as large."""

KNOWN = ("recipe.yaml", "metrics.jsonl", "summary.json", "environment.json")
"""A folder with none of these holds no run."""


class Confusion(NamedTuple):
    """How often each class was taken for each other, as (K, K) counts hold it, without their zeros."""

    classes: list[str]
    images: np.ndarray  # (K,) int64, of each class
    right: np.ndarray  # (K,) int64
    wrong: list[tuple[int, int, int]]  # (count, true, predicted), the most frequent first


@dataclass(eq=False)
class RunFiles:
    """What a run left behind; None, or nothing in it, where `problems` says why.

    Attributes:
        folder: of the run.
        recipe: section -> setting -> value.
        environment: versions, machine, command.
        rows: of the log.
        summary: of a finished run.
        data: which part was held out, what it lacks, what was said; empty where a run has not kept it.
        reliability: weights -> 'hits', 'confidence' (their sum) and 'count' of each bin.
        evaluations: name of the file -> what `transmix evaluate` found.
        confusion: of the last evaluation.
        problems: name of the file -> why it is not shown.
    """

    folder: Path
    recipe: dict[str, Any] = field(default_factory=dict)
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

    def setting(self, section: str, name: str, default: Any = None) -> Any:
        """Return what the recipe says, if it can be read."""
        settings = self.recipe.get(section)
        return settings.get(name, default) if isinstance(settings, dict) else default


def read_run(folder: Path) -> RunFiles:
    """Read a run folder.

    Raises:
        RunError: there is no run.
    """
    if not folder.is_dir():
        raise RunError(f"{folder}: no such run folder")
    if not any((folder / name).exists() for name in KNOWN):
        raise RunError(f"{folder} holds no run: none of {', '.join(KNOWN)} is there")
    found = RunFiles(folder)
    names = {"recipe.yaml": "recipe", "environment.json": "environment", "summary.json": "summary"}
    for name, place in (names | {"reliability.json": "reliability"}).items():
        setattr(found, place, _tried(found, name, _mapping) or {})
    if (folder / "data.json").exists():
        found.data = _tried(found, "data.json", _mapping) or {}
    found.rows = _tried(found, "metrics.jsonl", _log) or []
    found.confusion = _tried(found, "confusion.csv", _confusion)
    for path in sorted(folder.glob("evaluation*.json"))[:20]:
        if (evaluation := _tried(found, path.name, _mapping)) is not None:
            found.evaluations[path.name] = evaluation
    return found


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
        raise ValueError(f"it has {about.st_size / 1e6:,.1f} MB, more than the report reads ({largest / 1e6:g} MB)")
    return path.read_bytes()


def number(value: Any) -> float | None:
    """Return a finite number as it is, and None for everything else."""
    return value if type(value) in (int, float) and math.isfinite(value) else None


def tried(problems: dict[str, str], name: str, read: Callable[[], Any]) -> Any:
    """Return what `read` gives, or None with the reason in `problems`."""
    try:
        return read()
    except FileNotFoundError:
        problems[name] = f"There is no {name}"
    except Exception as error:  # whatever a damaged file may bring about, the rest of the report is worth having
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        problems[name] = f"{name} cannot be used: {reason}"
    return None


def _tried(found: RunFiles, name: str, read: Callable[[Path], Any]) -> Any:
    return tried(found.problems, name, lambda: read(found.folder / name))


def _mapping(path: Path) -> dict[str, Any]:
    text = read_file(path, LARGEST if path.suffix == ".json" else LARGEST_RECIPE).decode()
    if path.suffix == ".json":
        value = json.loads(text)
    else:
        import yaml

        value = yaml.safe_load(text)
    if not isinstance(value, dict):
        raise ValueError("it holds no names and values")
    return value


def _log(path: Path) -> list[dict[str, Any]]:
    read_file(path)
    rows = read_rows(path)
    if not rows:
        raise ValueError("it holds no row yet")
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
    return Confusion(classes, images, right, sorted(wrong, key=_by_count))


def _by_count(one: Sequence[int]) -> tuple[int, ...]:
    return (-one[0], *one[1:])

"""A run folder as a comparison sees it: what was asked for, where it ran, and its scores epoch by epoch."""

import csv
import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transmix.recipes import Recipe
from transmix.recipes.mixing import title
from transmix.runs.atomic_write import why
from transmix.runs.error import RunError
from transmix.runs.folder import read_classes, read_recipe
from transmix.runs.log import read_rows


@dataclass(frozen=True, eq=False)
class Trained:
    """A run.

    Attributes:
        folder: where it lies.
        recipe: every setting.
        classes: the class list.
        environment: versions, machine and command, as the run wrote them; empty if it did not.
        epochs: the log's row of each epoch.
        finished: whether it came to its end.
        images: validation images of each class; None before it has finished.
    """

    folder: Path
    recipe: Recipe
    classes: tuple[str, ...]
    environment: dict[str, Any]
    epochs: tuple[dict[str, Any], ...]
    finished: bool
    images: tuple[int, ...] | None

    @property
    def seed(self) -> int:
        """Of everything random in it."""
        return self.recipe.run.seed

    @property
    def settings(self) -> dict[str, Any]:
        """Setting -> value, without the sections; those of the label rule stand by themselves."""
        sections = dataclasses.asdict(self.recipe).values()
        found = {name: value for section in sections for name, value in section.items()}
        return found | {f"labels {name}": value for name, value in found.pop("labels_options").items()}

    @property
    def of_labels(self) -> set[str]:
        """Names of the settings of the label rule, as `settings` has them."""
        return {f"labels {name}" for name in self.recipe.mixing.labels_options}

    @property
    def title(self) -> str:
        """What its mix with its labels is called."""
        return title(self.recipe.mixing.mix, self.recipe.mixing.labels)

    @property
    def seconds(self) -> float | None:
        """Time of the training steps, evaluation and start not counted; None if the log does not say."""
        rows = self.epochs
        known = [index for index, row in enumerate(rows) if number(row.get("images_per_second"))]
        if not known:
            return None
        before = [0, *(row["step"] for row in rows)]
        took = sum((rows[i]["step"] - before[i]) / rows[i]["images_per_second"] for i in known)
        done = sum(rows[i]["step"] - before[i] for i in known)
        # an epoch that a stopped run had finished before it could say its speed counts as fast as the others
        return self.recipe.optimization.batch_size * took * rows[-1]["step"] / done if done else None


def read_run(folder: Path) -> Trained:
    """Read a run.

    Raises:
        RunError: no such folder, or none of a run.
        RecipeError: its recipe cannot be read.
    """
    if not folder.is_dir():
        raise RunError(f"{folder}: no such run folder")
    if not (folder / "recipe.yaml").exists():
        raise RunError(f"{folder} holds no run (recipe.yaml); name run folders: transmix compare RUN RUN ...")
    summary = _json(folder / "summary.json")
    rows = [row for row in read_rows(folder / "metrics.jsonl") if row["kind"] == "epoch"]
    finished = bool(summary.get("finished")) and bool(rows)
    return Trained(
        folder,
        read_recipe(folder),
        read_classes(folder),
        _json(folder / "environment.json"),
        tuple(rows),
        finished,
        _images(folder / "confusion.csv") if finished else None,
    )


def number(value: Any) -> bool:
    """Whether a value of a log is a number (True is none, nan neither)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise RunError(f"cannot read {path}: {why(error)}") from error
    except ValueError as error:
        raise RunError(f"{path} is not JSON ({error}); --resume of that run writes it again") from error
    if not isinstance(found, dict):
        raise RunError(f"{path} is not what a run writes; --resume of that run writes it again")
    return found


def _images(path: Path) -> tuple[int, ...] | None:
    """Return how many images of each class a run was measured on: the rows of its confusion counts."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return tuple(sum(map(int, row[1:])) for row in list(csv.reader(file))[1:])
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RunError(f"cannot read {path}: {error}") from error

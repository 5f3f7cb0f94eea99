"""The run folder: what a run leaves behind for people, figures and later runs.

    recipe.yaml            every setting, resolved
    classes.json           the class list; every other data set is matched to it by name
    environment.json       versions, machine, command
    metrics.jsonl, .csv    the log
    first_boxes.png        the first batch with boxes: labels by area, by attention, and the attention
    last_boxes.png         the same in the last epoch that mixes
    examples/              per epoch, attention and logits of eight fixed validation images
    checkpoints/           to resume from

and when the run is finished model.safetensors, ema.safetensors, confusion.csv, summary.json.
"""

import csv
import json
import os
import platform
import shutil
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from transmix.distributed import World
from transmix.recipes import Recipe, changed_settings, dump_recipe, load_recipe
from transmix.runs.checkpoint import newest_checkpoint
from transmix.runs.log import replace_text

MAY_CHANGE = {
    "workers",
    "cache_gb",
    "threads",
    "log_every",
    "eval_every",
    "checkpoint_every",
    "keep_checkpoints",
    "tensorboard",
    "max_steps",
    "device",
    "data",
}
"""Settings that a resumed run may change: they do not change what is trained. (Data may have moved, not changed.)"""


class RunError(Exception):
    """A run folder that cannot be used as asked; the message says what to do."""


def open_run(folder: Path, recipe: Recipe, resume: bool) -> tuple[Path | None, list[str]]:
    """Check a run folder against what is asked of it, before anything is written.

    Returns:
        The checkpoint to go on from, if any, and what was wrong with newer ones.

    Raises:
        RunError: it exists and resume was not asked for, or it holds a run with other settings.
    """
    if not folder.exists():
        return None, []
    if not folder.is_dir() or (not resume and any(folder.iterdir())):
        raise RunError(f"{folder} exists already; give --resume to go on with that run, or another --out")
    if (folder / "recipe.yaml").exists():
        before = load_recipe(str(folder / "recipe.yaml"))
        changed = [text for text in changed_settings(before, recipe) if text.split(":")[0] not in MAY_CHANGE]
        if changed:
            raise RunError(f"{folder} was trained with other settings: {'; '.join(changed)}. Resume with the same ones")
    elif any(folder.iterdir()):
        raise RunError(f"{folder} holds files but no run (recipe.yaml); give another --out")
    return newest_checkpoint(folder / "checkpoints")


def is_finished(folder: Path, max_steps: int | None) -> bool:
    """Whether the run in a folder has come to its end, or to the step it was told to stop at."""
    try:
        summary = json.loads((folder / "summary.json").read_text())
    except (OSError, ValueError):
        return False
    return summary["finished"] or (max_steps is not None and summary["step"] >= max_steps)


def write_start(folder: Path, recipe: Recipe, classes: tuple[str, ...], world: World) -> None:
    """Write what is known before the first step."""
    folder.mkdir(parents=True, exist_ok=True)
    replace_text(folder / "recipe.yaml", dump_recipe(recipe))
    replace_text(folder / "classes.json", json.dumps(list(classes), indent=1, ensure_ascii=False))
    replace_text(folder / "environment.json", json.dumps(environment(world), indent=1))


def read_classes(folder: Path) -> tuple[str, ...]:
    """Return the class list of a run.

    Raises:
        RunError: the folder holds no run.
    """
    try:
        return tuple(json.loads((folder / "classes.json").read_text()))
    except (OSError, ValueError) as error:
        raise RunError(f"{folder} is not the folder of a run: {error}") from error


def environment(world: World) -> dict[str, Any]:
    """Return what else a result depends on: versions, machine, processes, command."""
    packages = ("transmix", "torch", "torchvision", "timm", "numpy", "pillow")
    found = {name: metadata.version(name) for name in packages if _installed(name)}
    on_gpu = world.device.type == "cuda"
    return {
        "command": " ".join(["transmix", *sys.argv[1:]]),
        "python": platform.python_version(),
        "packages": found,
        "system": platform.platform(),
        "device": torch.cuda.get_device_name(world.device) if on_gpu else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": world.size,
    }


def read_best_step(folder: Path) -> int:
    """Return the step of the best checkpoint, by the last checkpoint's account.

    Raises:
        RunError: no checkpoint, or none evaluated yet.
    """
    newest, problems = newest_checkpoint(folder / "checkpoints")
    best = json.loads((newest / "state.json").read_text())["best"] if newest is not None else None
    if best is None:
        raise RunError(f"{folder} has no evaluated checkpoint. {' '.join(problems)}")
    return best["step"]


def write_examples(folder: Path, epoch: int, tensors: dict[str, Tensor]) -> None:
    """Keep what the model said of the fixed validation images after an epoch."""
    (folder / "examples").mkdir(exist_ok=True)
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        folder / "examples" / f"epoch-{epoch + 1:04d}.safetensors",
    )


def write_confusion(folder: Path, counts: Tensor, classes: tuple[str, ...]) -> None:
    """Write how often each class (row) was taken for each other (column)."""
    with (folder / "confusion.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["true \\ predicted", *classes])
        for name, row in zip(classes, counts.tolist(), strict=True):
            writer.writerow([name, *row])


def write_end(folder: Path, summary: dict[str, Any], confusion: Tensor, classes: tuple[str, ...]) -> None:
    """Write what a finished run has, the summary last."""
    write_confusion(folder, confusion, classes)
    newest, _ = newest_checkpoint(folder / "checkpoints")
    for name in ("model.safetensors", "ema.safetensors"):
        if newest is not None and (newest / name).exists():
            shutil.copyfile(newest / name, folder / f"{name}.tmp")
            (folder / f"{name}.tmp").replace(folder / name)
    replace_text(folder / "summary.json", json.dumps(summary, indent=1))


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True

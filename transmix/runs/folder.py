"""The run folder: the files that a run writes.

    recipe.yaml            every setting, resolved
    classes.json           the class list; every other data set is matched to it by name
    data.json              held-out part, columns, missing classes, notes
    grey_range.json        values for black and white in grey images of more than 8 bits; null: no such images
    environment.json       versions, machine, command
    start.json             with pretrained or init: which weights were loaded, and which are new
    metrics.jsonl, .csv    the log
    first_boxes.png        the first batch with boxes: labels by area, by attention, and the attention
    last_boxes.png         the same in the last epoch that mixes
    examples/              per epoch, attention and logits of eight fixed validation images
    checkpoints/           to resume from

and when the run is finished model.safetensors, ema.safetensors, confusion.csv, reliability.json (bins of the
reliability diagram), summary.json, report.html.
"""

import csv
import dataclasses
import io
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from transmix import plugins
from transmix.data.dataset import ImageData, classes_without
from transmix.data.grey import EACH_IMAGE, Grey, as_grey
from transmix.data.packed import LAYOUT as PACKED
from transmix.data.parts import HELD_OUT_BEFORE, Choice
from transmix.data.source import SOURCES
from transmix.data.subset import fingerprint
from transmix.data.torchvision_sets import PREFIX
from transmix.distributed import World
from transmix.recipes import Recipe, changed_settings, dump_recipe, load_recipe, resolved
from transmix.recipes.settings import flat
from transmix.runs.atomic_write import make_folder, replace_file, sync, why, write_json, writing
from transmix.runs.checkpoint import newest_checkpoint, read_state
from transmix.runs.error import RunError

MAY_CHANGE = (
    {"workers", "cache_gb", "threads", "device", "shard", "wait_minutes", "data", "data_dir", "download"}
    | {"log_every", "eval_every", "checkpoint_every", "keep_checkpoints", "tensorboard", "max_steps", "epochs"}
    | {"patience", "on_bad_image", "max_bad_images", "on_nonfinite", "max_nonfinite"}
)
"""Settings that a resumed run may change. Data may have moved, not changed; epochs may not fall below what was done;
the others do not change what is trained."""


YOUNGER = {"ema_warmup": False, "pixel_version": 1}
"""Settings that are younger than some runs, and what runs did before there was such a setting."""


def read_recipe(folder: Path) -> Recipe:
    """Return the recipe of a run.

    Raises:
        RecipeError: the folder has no recipe, or it cannot be read.
    """
    recipe = load_recipe(str(folder / "recipe.yaml"))
    # where a setting changes nothing, a run with and one without it are the same run, and are compared as such
    matters = {"ema_warmup": recipe.optimization.ema_decay is not None, "pixel_version": not recipe.data.on_device}
    absent = {name: value for name, value in YOUNGER.items() if matters[name]}
    return resolved(load_recipe(str(folder / "recipe.yaml"), absent=absent))


def as_started(folder: Path, recipe: Recipe) -> Recipe:
    """Return the recipe to resume a run with.

    Features that it was started without stay off; batch size and autocast type, where not given, are those it chose.

    Raises:
        RecipeError: the run's own recipe cannot be read.
    """
    if not os.path.isfile(folder / "recipe.yaml"):
        return recipe
    run, augmentation = read_recipe(folder), recipe.augmentation
    optimization, model = recipe.optimization, recipe.model
    if not run.optimization.ema_warmup:
        optimization = replace(optimization, ema_warmup=False)
    if run.augmentation.pixel_version == 1:
        augmentation = replace(augmentation, pixel_version=1)
    if optimization.batch_size is None:
        optimization = replace(optimization, batch_size=run.optimization.batch_size)
    if model.amp == "auto":
        model = replace(model, amp=run.model.amp)
    return replace(recipe, augmentation=augmentation, optimization=optimization, model=model)


def check_run(folder: Path, recipe: Recipe, resume: bool) -> dict[str, tuple[Any, Any]]:
    """Check that a run can start or resume in a folder, before anything is written.

    Returns:
        Settings changed by the resumed run: name -> (old, new).

    Raises:
        RunError: it exists and `resume` is false, or it holds a run with other settings.
    """
    try:
        if not folder.exists():
            return {}
        if not folder.is_dir() or (not resume and any(folder.iterdir())):
            raise RunError(f"{folder} exists already; give --resume to continue that run, or another --out")
        if not (folder / "recipe.yaml").exists():
            if any(folder.iterdir()):
                raise RunError(f"{folder} holds files but no run (recipe.yaml); give another --out")
            return {}
    except OSError as error:
        raise RunError(f"cannot open {folder}: {why(error)}") from error
    before = read_recipe(folder)
    changed = {text.split(":")[0]: text for text in changed_settings(before, recipe)}
    refused = [text for name, text in changed.items() if name not in MAY_CHANGE]
    names, known = {before.data.data or "", recipe.data.data or ""}, plugins.names("data", SOURCES)
    if "data" in changed and any(one in known or one.startswith(PREFIX) for one in names):
        refused.insert(0, changed["data"])  # a folder may have moved; another name is another data set
    if refused:
        raise RunError(f"{folder} was trained with other settings: {'; '.join(refused)}. Resume with the same ones")
    if recipe.optimization.epochs < before.optimization.epochs:
        _check_epochs(folder, recipe.optimization.epochs + recipe.optimization.cooldown_epochs)
    old, new = flat(before), flat(recipe)
    return {name: (old[name], new[name]) for name in changed}


def _check_epochs(folder: Path, epochs: int) -> None:
    """Raise an error if the newest checkpoint has already trained more epochs (cool-down included) than requested."""
    newest, _ = newest_checkpoint(folder / "checkpoints")
    if newest is None:
        return
    state = read_state(newest)
    done = -(-state["step"] // state.get("steps_per_epoch", 1))
    if epochs < done:
        raise RunError(
            f"{folder} has trained {done} epochs already (step {state['step']}), more than the {epochs} asked for; "
            f"resume with at least as many"
        )


def schedule_notice(changed: dict[str, tuple[Any, Any]]) -> str | None:
    """Return a notice if a resumed run changes the number of epochs."""
    if "epochs" not in changed:
        return None
    before, now = changed["epochs"]
    schedule = "longer" if now > before else "shorter"
    return f"epochs: {before} -> {now}; from here on the learning rate follows the {schedule} schedule"


def younger_notice(asked: Recipe, recipe: Recipe) -> str | None:
    """Return a notice for a resumed run that was started without a feature and continues without it."""
    texts = [text for text in changed_settings(asked, recipe) if text.split(":")[0] in YOUNGER]
    return f"as the run was started, it continues with {'; '.join(texts)} (asked for -> used)" if texts else None


def is_finished(folder: Path, max_steps: int | None, changed: Collection[str] = ()) -> bool:
    """Whether the run in a folder is finished, or has reached `max_steps`.

    Args:
        folder: run folder.
        max_steps: step at which to stop.
        changed: names of changed settings; if the epochs change, or the patience of a run that it stopped, the run is
            not finished.
    """
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        ended, step = summary["finished"], summary["step"]
        may_go_on = {"epochs", "patience"} if "stopped_early" in summary else {"epochs"}
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return (ended and not may_go_on & set(changed)) or (max_steps is not None and step >= max_steps)


def write_start(folder: Path, recipe: Recipe, data: ImageData, world: World, start: Any = None) -> None:
    """Write the files that are known before the first step, or before the first step after a resume.

    Args:
        folder: run folder.
        recipe: every setting.
        data: training data.
        world: rank and device of this process.
        start: report of the initial weights, a dataclass; None: random weights.

    Raises:
        RunError: a file cannot be written.
    """
    with writing(folder):
        make_folder(folder)
        # What it says of an end no longer holds, and a crash must not leave it beside a recipe with more epochs.
        (folder / "summary.json").unlink(missing_ok=True)
        fraction = data.parts.val_fraction
        about = {
            "held_out": data.parts.held_out,
            "columns": data.parts.columns,
            "packed": data.parts.layout == PACKED,
            **(
                {}
                if fraction is None
                else {"val_fraction": fraction, "fingerprint": fingerprint(data.val, data.classes)}
            ),
            "images": {"train": len(data.train), "held_out": len(data.val)},
            "classes_not_held_out": classes_without(data.val.labels, data.classes),
            "notes": data.notes,
        }
        replace_file(folder / "recipe.yaml", dump_recipe(recipe).encode())
        write_json(folder / "classes.json", data.classes)
        write_json(folder / "data.json", about)
        write_json(folder / "grey_range.json", data.grey)
        if start is not None:
            write_json(folder / "start.json", {"text": str(start), **dataclasses.asdict(start)})
        write_json(folder / "environment.json", environment(world))


def read_choice(folder: Path) -> Choice:
    """Return the held-out part and the columns of a run; for an old run without the file, the defaults of that time.

    Raises:
        RunError: the file cannot be read.
    """
    path = folder / "data.json"
    if not path.exists():
        return Choice(HELD_OUT_BEFORE)
    with _reading(f"{path} does not say which part is held out"):
        found = json.loads(path.read_text(encoding="utf-8"))
        image_column, label_column = found["columns"] or (None, None)
        fraction, seen = found.get("val_fraction"), found.get("fingerprint")
        return Choice((found["held_out"],), image_column, label_column, fraction, seen)


def check_packed(folder: Path, data: ImageData) -> None:
    """Check that a resumed run's images are packed if they were when it began: others have other pixels.

    Raises:
        RunError: they are not, or were not; or data.json cannot be read.
    """
    path, packed = folder / "data.json", data.parts.layout == PACKED
    before = False  # as of a run older than packed images
    if path.exists():
        with _reading(f"{path} does not say whether the images are packed"):
            before = json.loads(path.read_text(encoding="utf-8")).get("packed", False)
    if before != packed:
        was, now = ("packed images", "not packed") if before else ("images that are not packed", "packed")
        raise RunError(
            f"{folder} was trained on {was}, and {data.name} is {now}: other pixels; resume on the run's own data, or "
            "start a new run"
        )


def read_classes(folder: Path) -> tuple[str, ...]:
    """Return the class list of a run.

    Raises:
        RunError: the folder holds no run.
    """
    with _reading(f"{folder} is not the folder of a run"):
        return tuple(json.loads((folder / "classes.json").read_text(encoding="utf-8")))


def read_grey_range(folder: Path) -> Grey:
    """Return a run's scale for greyscale of more than 8 bits; an old run without a range scales each image by itself.

    Raises:
        RunError: the file cannot be read.
    """
    path = folder / "grey_range.json"
    with _reading(f"{path} does not hold a grey range"):
        return as_grey(json.loads(path.read_text(encoding="utf-8")) if path.exists() else EACH_IMAGE)


@contextmanager
def _reading(problem: str) -> Iterator[None]:
    """Convert errors of a missing, unreadable or invalid file into a RunError."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{problem}: {error}") from error


def read_best_step(folder: Path) -> int:
    """Return the step of the best checkpoint, as recorded in the last checkpoint.

    Raises:
        RunError: no checkpoint, or none evaluated yet.
    """
    newest, problems = newest_checkpoint(folder / "checkpoints")
    best = read_state(newest)["best"] if newest is not None else None
    if best is None:
        raise RunError(f"{folder} has no evaluated checkpoint. {' '.join(problems)}")
    return best["step"]


def write_examples(folder: Path, epoch: int, tensors: dict[str, Tensor]) -> None:
    """Write the model's outputs on the fixed validation images after an epoch.

    Raises:
        RunError: it cannot be written.
    """
    path = folder / "examples" / f"epoch-{epoch + 1:04d}.safetensors"
    with writing(path):
        path.parent.mkdir(exist_ok=True)
        replace_file(path, save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}))


def write_end(
    folder: Path,
    summary: dict[str, Any],
    confusion: Tensor,
    classes: tuple[str, ...],
    reliability: dict[str, Any] | None = None,
) -> None:
    """Write the files of a finished run, the summary last.

    Args:
        folder: run folder.
        summary: results of the run.
        confusion: (K, K) counts: true class (row), predicted class (column).
        classes: names of the K classes.
        reliability: bins of the reliability diagram.

    Raises:
        RunError: a file cannot be written.
    """
    table = io.StringIO(newline="")
    rows = zip(classes, confusion.tolist(), strict=True)
    csv.writer(table).writerows([["true \\ predicted", *classes], *([name, *row] for name, row in rows)])
    with writing(folder):
        replace_file(folder / "confusion.csv", table.getvalue().encode())
        if reliability:
            write_json(folder / "reliability.json", reliability)
        newest, _ = newest_checkpoint(folder / "checkpoints")
        for name in ("model.safetensors", "ema.safetensors"):
            if newest is not None and (newest / name).exists():
                temporary = folder / f"{name}.tmp"
                shutil.copyfile(newest / name, temporary)
                sync(temporary)  # its content before its name; the name is on disk with that of summary.json below
                temporary.replace(folder / name)
        write_json(folder / "summary.json", summary)


def environment(world: World) -> dict[str, Any]:
    """Return the environment of a run: versions, commit of a checkout, machine, processes, command."""
    found = {}
    for name in ("transmix", "torch", "torchvision", "timm", "numpy", "pillow"):
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    on_gpu = world.device.type == "cuda"
    return {
        "command": " ".join(["transmix", *sys.argv[1:]]),
        "python": platform.python_version(),
        "packages": found,
        "commit": commit(Path(__file__).parents[2]),
        "system": platform.platform(),
        "device": torch.cuda.get_device_name(world.device) if on_gpu else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": world.size,
    }


def commit(checkout: Path) -> str | None:
    """Return the commit of a checkout, with "+" appended if files differ; None without a checkout."""
    if not (checkout / ".git").exists():
        return None
    git = ["git", "-C", str(checkout), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+"]
    try:
        return subprocess.run(git, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):  # no git, or not ours to read
        return None

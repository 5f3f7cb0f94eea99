"""Train the missing runs of a comparison: several mixes and seeds of one recipe."""

import dataclasses
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from transmix.compare.groups import LEFT_OUT
from transmix.compare.schedule import Outcome, Task, run_tasks
from transmix.recipes import Recipe, RecipeError, changed_settings, check_recipe, dump_recipe, resolved
from transmix.recipes.mixing import SWITCH, build_mixer, find_rule, mix_and_labels, rule_name, title
from transmix.recipes.settings import Mixing, Option
from transmix.runs.atomic_write import replace_file, why
from transmix.runs.error import RunError
from transmix.runs.folder import as_started, is_finished, read_recipe
from transmix.runs.log import read_rows
from transmix.runs.read import number

PROGRAM = (sys.executable, "-m", "transmix")
"""What a run is trained by."""


def plan(
    recipe: Recipe,
    mixes: Sequence[str],
    seeds: int,
    labels: Sequence[str] = (),
    own: Mapping[str, Mapping[str, Option]] = MappingProxyType({}),
) -> dict[str, Recipe]:
    """Return the runs to train: name -> recipe, ordered by seed, so that pairs are complete early.

    Args:
        recipe: the common recipe.
        mixes: the mixes.
        seeds: number of seeds.
        labels: label rules for each mix; empty: each mix with its default labels.
        own: label rule -> settings for this rule only; those in `recipe` apply to every rule that has them.

    Raises:
        RecipeError: a repeated mix, fewer than two runs, or settings that contradict a mix.
    """
    for option, asked in (("--mix", mixes), ("--labels", labels)):
        if twice := sorted({one for one in asked if asked.count(one) > 1}):
            raise RecipeError(f"{option} has {', '.join(twice)} twice")
    if seeds < 1:
        raise RecipeError(f"--seeds must be at least 1, not {seeds}")
    ways = [(mix, rule) for mix in mixes for rule in labels or (None,)]
    if seeds * len(ways) < 2:
        raise RecipeError("one run cannot be compared; name more mixes or labels, or give more --seeds")
    named: dict[str, Mixing] = {}
    for mix, rule in ways:
        mixing = replace(recipe.mixing, mix=mix, labels=rule)
        mixing = replace(mixing, **_own_options(mixing))
        of_rule = dict(own.get(rule_name(mixing), {}))
        mixing = replace(mixing, labels_options=of_rule | mixing.labels_options)
        one = replace(recipe, mixing=mixing)
        try:
            check_recipe(one)
        except RecipeError as error:
            raise RecipeError(f"{title(mix, rule)}: {error}") if len(ways) > 1 and rule else error from None
        name = mix if rule is None else title(mix, rule).replace(" ", "-")
        if name in named or resolved(one).mixing in [
            resolved(replace(recipe, mixing=m)).mixing for m in named.values()
        ]:
            raise RecipeError(f"{name} is asked for twice, under two names; leave one out")
        named[name] = mixing
    _check_used(recipe.mixing, list(named.values()))
    return {
        f"{name}-seed{seed}": replace(recipe, mixing=mixing, run=replace(recipe.run, seed=seed))
        for seed in range(seeds)
        for name, mixing in named.items()
    }


def _own_options(mixing: Mixing) -> dict[str, dict[str, Option]]:
    """Keep the given settings that this run's mixing methods and label rule have."""
    rule = find_rule(mixing)
    has = [field.name for field in dataclasses.fields(rule)] if dataclasses.is_dataclass(rule) else []
    mix = mix_and_labels(mixing.mix, None)[0].split("+")
    others = [name for name in mix if name not in SWITCH and name != "none"]
    return {
        "labels_options": {name: value for name, value in mixing.labels_options.items() if name in has},
        "mix_options": {
            name: value
            for name, value in mixing.mix_options.items()
            if name.partition(".")[0] in others or ("." not in name and len(mix) == 1 and others)
        },
        "mix_weights": {name: value for name, value in mixing.mix_weights.items() if name in mix and others},
    }


def _check_used(asked: Mixing, planned: Sequence[Mixing]) -> None:
    """Raise an error for a setting that no run has: a typo would silently do nothing."""
    for option in ("labels_options", "mix_options", "mix_weights"):
        used = {name for mixing in planned for name in getattr(mixing, option)}
        if unused := sorted(getattr(asked, option).keys() - used):
            raise RecipeError(f"{option}: none of the runs has a setting {unused[0]!r}")


def lacks_twin(planned: Iterable[Recipe]) -> bool:
    """Whether some run with a label rule has no twin: the same mixed images with labels by area."""
    mixed = [mixing for recipe in planned if (mixing := resolved(recipe).mixing).mix != "none"]
    draws = [(build_mixer(mixing).methods, mixing.prob, mixing.mode, mixing.partner) for mixing in mixed]
    by_area = [drawn for mixing, drawn in zip(mixed, draws, strict=True) if mixing.labels == "area"]
    return any(drawn not in by_area for drawn in draws)


def places(recipe: Recipe, at_once: int | None = None) -> tuple[Recipe, list[dict[str, str]]]:
    """Return the recipe with fixed threads and workers, and the slots on which its runs can train in parallel.

    On a CPU each run has one thread (or the number in the recipe) and no loader workers, so that its results do not
    depend on the number of parallel runs; the number of slots follows from the cores. On GPUs, each visible one is a
    slot.

    Args:
        recipe: recipe of all runs.
        at_once: number of parallel runs; None: as many as possible.

    Raises:
        RecipeError: `at_once` is below 1, or above the number of GPUs.
    """
    import torch

    if at_once is not None and at_once < 1:
        raise RecipeError(f"--at-once must be at least 1, not {at_once}")
    device, cores = recipe.run.device, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        threads, workers = recipe.run.threads or 1, recipe.data.workers or 0
        fixed = replace(recipe, run=replace(recipe.run, threads=threads), data=replace(recipe.data, workers=workers))
        number_of = at_once or max(1, cores // (threads + workers))
        return fixed, [{"OMP_NUM_THREADS": str(threads)} for _ in range(number_of)]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(index) for index in range(torch.cuda.device_count())]
    slots = [{"CUDA_VISIBLE_DEVICES": name} for name in names] if device in ("auto", "cuda") else [{}]
    if at_once is not None and at_once > len(slots):
        raise RecipeError(f"--at-once {at_once} is more than the {len(slots)} GPUs available; each run uses one")
    slots = slots[:at_once]
    if len(slots) > 1 and recipe.data.workers is None:
        share = min(16, max(1, cores // len(slots) - 1))
        recipe = replace(recipe, data=replace(recipe.data, workers=share))
    return recipe, slots


def train_missing(planned: Mapping[str, Recipe], folder: Path, slots: Sequence[Mapping[str, str]]) -> Outcome:
    """Train the unfinished runs, each in FOLDER/NAME as a separate process.

    NAME.yaml holds the recipe of a run and NAME.log its output. Stopped runs are resumed.

    Raises:
        RunError: a folder holds a run with other settings, or another comparison is running in FOLDER.
    """
    check_folders(planned, folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ".lock").open("w") as lock:
            _lock(lock.fileno(), folder)
            tasks = [_task(name, recipe, folder) for name, recipe in planned.items()]
            left = [task for task in tasks if not is_finished(folder / task.name, None)]
            kept = len(tasks) - len(left)
            if kept:
                print(f"{kept} of {len(tasks)} runs are finished already", flush=True)
            return run_tasks(left, slots[: len(left)], keep_open=[lock.fileno()]) if left else Outcome((), {}, 0)
    except OSError as error:
        raise RunError(f"cannot write in {folder}: {why(error)}", 1) from error


def check_folders(planned: Mapping[str, Recipe], folder: Path) -> None:
    """Raise an error for run folders with a different recipe, before any training.

    Raises:
        RunError: which folder, and what differs.
    """
    for name, recipe in planned.items():
        run = folder / name
        if not (run / "recipe.yaml").exists():
            continue
        changed = changed_settings(read_recipe(run), as_started(run, recipe))
        may = LEFT_OUT - {"data", "seed", "on_bad_image"}
        refused = [text for text in changed if text.split(":")[0] not in may]
        if refused:
            raise RunError(
                f"{run} was trained with other settings: {'; '.join(refused)}. Ask for the same, give another --out, "
                f"or remove it first"
            )


def _task(name: str, recipe: Recipe, folder: Path) -> Task:
    run, file = folder / name, folder / f"{name}.yaml"
    replace_file(file, dump_recipe(recipe).encode())
    command = ["train", "--recipe", str(file), "--out", str(run), "--resume"]
    epochs = recipe.optimization.epochs + recipe.optimization.cooldown_epochs

    def share() -> tuple[float, str]:
        done = [row["epoch"] for row in read_rows(run / "metrics.jsonl") if number(row.get("epoch"))]
        ended = max(done, default=1) - 1  # rows of the epoch that is under way bear its number too
        return ended / epochs, f"epoch {ended + 1}/{epochs}"

    return Task(name, [*PROGRAM, *command], folder / f"{name}.log", share)


def _lock(descriptor: int, folder: Path) -> None:
    """Lock a folder. Training processes inherit the lock, so a process that survives a crash still holds it."""
    try:
        import fcntl
    except ImportError:  # Windows has none
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise RunError(
            f"another transmix compare is running in {folder}, or training runs that it started; wait until they end"
        ) from error

"""A run's state in one place; of it, what is saved and taken back: all that the next step depends on, no more."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from transmix import distributed
from transmix.attention import AttentionReader
from transmix.data.dataset import ImageData, listing
from transmix.data.sampler import EpochSampler
from transmix.distributed import World, cut_like, gather_whole
from transmix.error import one_line
from transmix.recipes import Recipe
from transmix.runs.checkpoint import (
    Checkpoint,
    load_optimizer_tensors,
    newest_checkpoint,
    optimizer_tensors,
    random_state,
    remove_old_checkpoints,
    save_checkpoint,
    settle_checkpoints,
)
from transmix.runs.error import CheckpointError, RunError
from transmix.runs.log import RunLog
from transmix.training.batches import Batches
from transmix.training.optimizer import WeightAverage
from transmix.training.step import TrainingStep

SHOWN = 3
"""More samples than these are in a dump, not in its message."""

MAX_FAILED_SAVES = 3
"""So many in a row stop a run; fewer cost it no more than a line."""


@dataclass(eq=False)
class RunState:
    """The parts of a run, and its progress.

    Attributes:
        recipe: settings.
        folder: run folder.
        world: rank and device of this process.
        data: the full data set.
        batches: this process's batches.
        bare: the model, neither wrapped nor compiled.
        average: EMA of its weights, if there is one.
        step: the training step with optimizer, scaler and meter.
        reader: attention reader, for labels or only for pictures; None if attention cannot be read.
        say: prints a line above the progress bar.
        log: log; only in the main process.
        step_number: number of finished optimizer steps.
        best: score, step, epoch and weights of the best evaluation.
        stale: number of evaluations since the best.
        scores: scores of the last evaluation.
        reliability: reliability bins of the last evaluation, for "model" and "ema".
        reads: meter reads of this epoch.
        random_states: step number -> random state before it, for each step since the last read.
        pending_random_state: random state from a checkpoint, until the first step uses it.
        failed_saves: number of consecutive checkpoints that could not be written.
        log_rows: number of log rows at the checkpoint.
    """

    recipe: Recipe
    folder: Path
    world: World
    data: ImageData
    batches: Batches
    bare: nn.Module
    average: WeightAverage | None
    step: TrainingStep
    reader: AttentionReader | None
    say: Callable[[str], None] = print
    log: RunLog | None = None
    step_number: int = 0
    best: dict[str, Any] | None = None
    stale: int = 0
    scores: dict[str, Any] | None = None
    reliability: dict[str, Any] = field(default_factory=dict)
    reads: list[dict[str, Any]] = field(default_factory=list)
    random_states: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    pending_random_state: dict[str, Tensor] | None = None
    failed_saves: int = 0
    log_rows: int | None = None

    @property
    def order(self) -> EpochSampler:
        """The sampler of the training images."""
        return self.batches.order

    @property
    def sharded(self) -> bool:
        """Whether weights are sharded over the processes."""
        return self.recipe.run.shard and self.world.size > 1

    @property
    def epochs(self) -> int:
        """Epochs of the whole run, cool-down included."""
        return self.recipe.optimization.epochs + self.recipe.optimization.cooldown_epochs

    @property
    def last_step(self) -> int:
        """Number of the step at which this run stops."""
        steps = self.epochs * self.order.steps_per_epoch
        return min(steps, self.recipe.run.max_steps or steps)

    @property
    def stops_early(self) -> bool:
        """Whether the score has not improved for as long as the recipe's patience."""
        return self.recipe.run.patience is not None and self.stale >= self.recipe.run.patience

    @property
    def may_stop(self) -> bool:
        """Whether the next evaluation may stop the run early."""
        return self.recipe.run.patience is not None and self.stale + 1 >= self.recipe.run.patience


def choose_checkpoint(folder: Path, world: World) -> tuple[Path | None, list[str]]:
    """Return the checkpoint to resume from, if any, equal in all processes; every process must call this.

    The main process renames damaged checkpoints, and only it gets messages about them.

    Raises:
        RunError: the checkpoints cannot be listed.
    """
    root = folder / "checkpoints"
    newest, problem, said = None, "", []
    if world.is_main:
        try:
            newest, said = settle_checkpoints(root)
        except CheckpointError as error:
            problem = str(error)
    name, problem = distributed.from_first((newest and newest.name, problem), world)
    if problem:
        raise RunError(problem)
    return name and root / name, said


def save(run: RunState, last: bool = False) -> None:
    """Write a checkpoint of a run at its current step; every process must call this.

    If it cannot be written, training continues with a warning: the next one may succeed.

    Args:
        run: what to save.
        last: the final save, which must succeed.

    Raises:
        RunError: in every process: the final save failed, or MAX_FAILED_SAVES in a row, or the run folder is gone.
    """
    tensors = _gather_tensors(run, random_state(run.world.device), ema=run.average is not None)
    reason = _write(run, tensors, last) if run.world.is_main else ""
    reason = distributed.from_first(reason, run.world)
    if reason:
        raise RunError(reason, code=1)


def _gather_tensors(run: RunState, generators: dict[str, Tensor], ema: bool) -> dict[str, dict[str, Tensor]]:
    """Return the unsharded tensors of a checkpoint (in the main process): weights, optimizer, all random states."""
    names: dict[Tensor, str] = {weight: name for name, weight in run.bare.named_parameters()}
    tensors = {"model": run.bare.state_dict(), "optimizer": optimizer_tensors(run.step.optimizer, names)}
    if ema and run.average is not None:
        tensors["ema"] = run.average.model.state_dict()
    # Kind by kind, in the same order in every process: each gathering is a call that all of them make.
    tensors = {kind: gather_whole(found, run.world.is_main) for kind, found in tensors.items()}
    states = enumerate(distributed.gather(generators, run.world))
    return tensors | {f"random-{rank}": state for rank, state in states if state}


def _write(run: RunState, tensors: dict[str, dict[str, Tensor]], last: bool) -> str:
    """Write a checkpoint; return the reason if the run must stop, else an empty text."""
    root = run.folder / "checkpoints"
    try:
        assert run.log is not None
        run.log.sync()  # before the checkpoint, which says how many rows of the log are its own
        save_checkpoint(root, Checkpoint(tensors, _state(run), weights_metadata(run)))
    except RunError as error:
        return str(error)
    except CheckpointError as error:
        run.failed_saves += 1
        row = f" {run.failed_saves} saves in a row have failed." if run.failed_saves > 1 else ""
        message = f"step {run.step_number} is not saved: {error}.{row} {_newest_good(root)}"
        if last or run.failed_saves >= MAX_FAILED_SAVES:
            return f"{message} --resume continues from the last good checkpoint"
        run.say(f"warning: {message} Training continues")
        return ""
    run.failed_saves = 0
    remove_old_checkpoints(root, run.recipe.run.keep_checkpoints, run.best["step"] if run.best else None)
    return ""


def _state(run: RunState) -> dict[str, Any]:
    return {
        "step": run.step_number,
        "steps_per_epoch": run.order.steps_per_epoch,
        "training_images": len(run.data.train),
        "best": run.best,
        "stale": run.stale,
        "reads": run.reads,
        "scaler": run.step.scaler.state_dict(),
        "log_rows": run.log.rows if run.log is not None else None,
        "ema_updates": int(run.average.updates) if run.average is not None else None,
    }


def _newest_good(root: Path) -> str:
    try:
        newest, _ = newest_checkpoint(root)
    except CheckpointError as error:
        return f"{error}."
    return "There is no good checkpoint." if newest is None else f"The newest good checkpoint is {newest.name}."


def restore(run: RunState, checkpoint: Checkpoint) -> None:
    """Restore a run to the state at `save`.

    Raises:
        RunError: the number of training images has changed, or the checkpoint is from another model.
    """
    before, now = checkpoint.state.get("training_images"), len(run.data.train)
    if before != now:
        raise RunError(
            f"{run.data.name} had {before} training images when {run.folder} was trained, now {now}; restore the "
            f"data (older versions skipped linked folders and images with suffixes such as .jfif and .jp2)"
        )
    try:
        _load(run.bare, checkpoint.tensors["model"])
        if run.average is not None:
            _load(run.average.model, checkpoint.tensors["ema"])
            if run.average.warmup:  # runs from before there was a warm-up did not count
                run.average.updates.fill_(checkpoint.state["ema_updates"])
        weights: dict[str, Tensor] = dict(run.bare.named_parameters())
        load_optimizer_tensors(run.step.optimizer, checkpoint.tensors["optimizer"], weights)
        state = checkpoint.state
        run.step_number, run.best, run.reads = state["step"], state["best"], state["reads"]
        run.log_rows, run.stale = state.get("log_rows"), state.get("stale", 0)
        run.step.scaler.load_state_dict(state["scaler"])
    except (KeyError, RuntimeError) as error:
        step, problem = checkpoint.state["step"], one_line(error)
        raise RunError(
            f"the checkpoint of step {step} in {run.folder} does not belong to this run: {problem}"
        ) from error
    # A process that was not there before has no state to take back and keeps its own. Not set here: what is yet to
    # be made before the first step, such as the loader's iterator, draws from the generators too.
    run.pending_random_state = checkpoint.tensors.get(f"random-{run.world.rank}")


def _load(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Load full tensors into a model; if it is sharded, each process keeps its shard."""
    mine = model.state_dict()
    model.load_state_dict({name: cut_like(value, mine.get(name, value)) for name, value in tensors.items()})


def weights_metadata(run: RunState) -> dict[str, str]:
    """Return the metadata that makes a weights file usable alone: model, classes, preprocessing."""
    model, augmentation = run.recipe.model, run.recipe.augmentation
    about = {
        "model": model.model,
        "model_options": model.model_options,
        "class_attention": model.class_attention,
        "image_size": run.recipe.data.image_size,
        "classes": list(run.data.classes),
        "eval_crop": augmentation.eval_crop,
        "mean": augmentation.mean,
        "std": augmentation.std,
        "grey_range": run.data.grey,
    }
    return {"transmix": json.dumps(about, ensure_ascii=False)}


def write_dump(run: RunState, step: int) -> str:
    """Write the state before a NaN/Inf step, and return a message about it.

    RUN/nonfinite/step-N holds weights, optimizer and random states before the step, and the keys of its images.
    """
    accumulate = run.recipe.optimization.accumulate
    shares = [islice(run.order.batches_of(step, rank), accumulate) for rank in range(run.world.size)]
    samples = [[index for batch in share for _, index, _ in batch] for share in shares]
    tensors = _gather_tensors(run, run.random_states.get(step, {}), ema=run.recipe.mixing.guide == "ema")
    if run.world.is_main:
        about = {"step": step, "samples": samples, "processes": run.world.size, "accumulate": accumulate}
        save_checkpoint(run.folder / "nonfinite", Checkpoint(tensors, about, {}))
    shown = listing((run.data.train.where(index) for rank in samples for index in rank), SHOWN)
    epoch = (step - 1) // run.order.steps_per_epoch + 1
    return (
        f"loss or gradient was not finite at step {step} (epoch {epoch}; training images {shown}); it was skipped. "
        f"transmix replay {run.folder} runs it again and says where. Train anew (another --out) with a lower learning "
        f"rate, clipped gradients, or bf16 instead of fp16; or --resume with --on-nonfinite skip"
    )

"""What a run saves and takes back: everything that the next step depends on, and nothing else."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from transmix import distributed
from transmix.runs.checkpoint import (
    Checkpoint,
    load_optimizer_tensors,
    optimizer_tensors,
    random_state,
    remove_old_checkpoints,
    save_checkpoint,
)
from transmix.runs.folder import RunError

if TYPE_CHECKING:
    from transmix.training.loop import TrainingRun


def save(run: TrainingRun) -> None:
    """Write a checkpoint of a run at its present step; every process calls this."""
    names = {weight: name for name, weight in run.bare.named_parameters()}
    tensors = {"model": run.bare.state_dict(), "optimizer": optimizer_tensors(run.step.optimizer, names)}
    if run.average is not None:
        tensors["ema"] = run.average.model.state_dict()
    for rank, state in enumerate(distributed.gather(random_state(run.world.device), run.world)):
        tensors[f"random-{rank}"] = state
    if run.world.leads:
        state = {
            "step": run.step_number,
            "training_images": len(run.data.train),
            "best": run.best,
            "reads": run.reads,
            "scaler": run.step.scaler.state_dict(),
        }
        run.log.sync()
        root = run.folder / "checkpoints"
        save_checkpoint(root, Checkpoint(tensors, state, weights_metadata(run)))
        remove_old_checkpoints(root, run.recipe.run.keep_checkpoints, run.best["step"] if run.best else None)
    distributed.wait_for_all(run.world)


def restore(run: TrainingRun, checkpoint: Checkpoint) -> None:
    """Put a run where `save` was called.

    Raises:
        RunError: the training data has grown or shrunk since.
    """
    before, now = checkpoint.state["training_images"], len(run.data.train)
    if before != now:
        raise RunError(f"{run.data.name} had {before} training images when {run.folder} was trained, now {now}")
    run.bare.load_state_dict(checkpoint.tensors["model"])
    if run.average is not None:
        run.average.model.load_state_dict(checkpoint.tensors["ema"])
    load_optimizer_tensors(run.step.optimizer, checkpoint.tensors["optimizer"], dict(run.bare.named_parameters()))
    state = checkpoint.state
    run.step_number, run.best, run.reads = state["step"], state["best"], state["reads"]
    run.step.scaler.load_state_dict(state["scaler"])
    # A process that was not there before has no state to take back and keeps its own.
    run.pending_random_state = checkpoint.tensors.get(f"random-{run.world.rank}")


def weights_metadata(run: TrainingRun) -> dict[str, str]:
    """Return what a weights file must say to be used by itself: the model, its classes, its preprocessing."""
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
    }
    return {"transmix": json.dumps(about, ensure_ascii=False)}

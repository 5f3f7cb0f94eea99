"""What is kept of a step that was not finite, so that it can be replayed: RUN/nonfinite/step-N."""

from torch import Tensor

from transmix import distributed
from transmix.data.sampler import EpochSampler
from transmix.runs.checkpoint import Checkpoint, optimizer_tensors, save_checkpoint
from transmix.training.sharding import gather_whole
from transmix.training.state import RunState

SHOWN = 8
"""More samples than these are in the dump, not in the message."""


def sample_indices(run: RunState, step: int) -> list[list[int]]:
    """Return the training images of an optimizer step (counted from 1), for every process, in order."""
    epoch, within = divmod(step - 1, run.order.steps_per_epoch)
    order = run.order
    found = []
    for rank in range(order.world):
        one = EpochSampler(order.samples, order.seed, order.batch, order.step_batch, order.repeats, rank, order.world)
        one.start_at(epoch, within)
        batches = iter(one)
        found.append([index for _ in range(run.recipe.optimization.accumulate) for _, index, _ in next(batches)])
    return found


def write_dump(run: RunState, step: int) -> str:
    """Write what a step that was not finite started from, and return a message that says so.

    RUN/nonfinite/step-N holds weights, optimizer and generators as that step found them, and which images it saw.
    """
    samples = sample_indices(run, step)
    names: dict[Tensor, str] = {weight: name for name, weight in run.bare.named_parameters()}
    tensors = {"model": run.bare.state_dict(), "optimizer": optimizer_tensors(run.step.optimizer, names)}
    tensors = {kind: gather_whole(found, run.world.is_main) for kind, found in tensors.items()}
    state = run.random_states.get(step, {})
    for rank, one in enumerate(distributed.gather(state, run.world)):
        if one:
            tensors[f"random-{rank}"] = one
    if run.world.is_main:
        about = {
            "step": step,
            "samples": samples,
            "processes": run.world.size,
            "accumulate": run.recipe.optimization.accumulate,
        }
        save_checkpoint(run.folder / "nonfinite", Checkpoint(tensors, about, {}))
    flat = [index for rank in samples for index in rank]
    shown = ", ".join(map(str, flat[:SHOWN])) + (f" and {len(flat) - SHOWN} more" if len(flat) > SHOWN else "")
    epoch = (step - 1) // run.order.steps_per_epoch + 1
    return (
        f"loss or gradient was not finite at step {step} (epoch {epoch}; training images {shown}); it was held back. "
        f"transmix replay {run.folder} runs it again and says where. Train anew (another --out) with a lower learning "
        f"rate, clipped gradients, or bf16 instead of fp16; or --resume with --on-nonfinite skip"
    )

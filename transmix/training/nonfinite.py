"""Steps whose loss or gradient is not finite: held back on the device, counted, and written down to be replayed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

from transmix import distributed
from transmix.data.order import EpochOrder
from transmix.distributed import World
from transmix.runs.checkpoint import Checkpoint, optimizer_tensors, save_checkpoint
from transmix.training.sharding import gather_whole

if TYPE_CHECKING:
    from transmix.training.loop import TrainingRun

SHOWN = 8
"""More samples than these are in the dump, not in the message."""


class NotFiniteError(Exception):
    """Loss or gradients became infinite or not a number, and training was stopped."""


@dataclass(frozen=True)
class Count:
    """What was not finite since the last read.

    Attributes:
        steps: how many steps.
        first: the number of the first of them; 0 if there was none.
        in_a_row: the longest row of them, those before the last read included.
    """

    steps: int
    first: int
    in_a_row: int


class NotFinite:
    """Counts on the device which steps were not finite, and says which to hold back.

    Args:
        device: where gradients are.
        stays: after one such step hold back all later ones too: weights then are still those it was taken from when
            the count is read and training stops.
    """

    def __init__(self, device: torch.device, stays: bool):
        self.stays = stays
        self.counts = torch.zeros(4, dtype=torch.int64, device=device)  # steps, first, row now, longest row

    def hold(self, step: int, bad: Tensor) -> Tensor:
        """Note whether a step (counted from 1) is bad, and return whether to hold it back, as bool on the device."""
        steps, first, row, longest = self.counts
        bad = bad & (steps == 0) if self.stays else bad  # what follows a held back step says nothing new
        row = (row + 1) * bad
        self.counts = torch.stack(
            [steps + bad, torch.where((first == 0) & bad, step, first), row, torch.maximum(longest, row)]
        )
        return bad | (self.counts[0] > 0) if self.stays else bad

    def read(self, world: World) -> Count:
        """Return the count of the process that saw most, and start anew; a row that is not over goes on."""
        counts = self.counts.clone()
        if world.size > 1:
            dist.all_reduce(counts, dist.ReduceOp.MAX)
        steps, first, row, longest = counts.tolist()
        self.counts = torch.tensor([0, 0, row, row], device=self.counts.device)
        return Count(steps, first, longest)


def sample_indices(run: TrainingRun, step: int) -> list[list[int]]:
    """Return the training images of an optimizer step (counted from 1), for every process, in order."""
    epoch, within = divmod(step - 1, run.order.steps_per_epoch)
    order = run.order
    found = []
    for rank in range(order.world):
        one = EpochOrder(order.samples, order.seed, order.batch, order.step_batch, order.repeats, rank, order.world)
        one.start_at(epoch, within)
        batches = iter(one)
        found.append([index for _ in range(run.recipe.optimization.accumulate) for _, index, _ in next(batches)])
    return found


def write_dump(run: TrainingRun, step: int) -> str:
    """Write what a step that was not finite started from, and return a message that says so.

    RUN/nonfinite/step-N holds weights, optimizer and generators as that step found them, and which images it saw.
    """
    samples = sample_indices(run, step)
    names = {weight: name for name, weight in run.bare.named_parameters()}
    tensors = {"model": run.bare.state_dict(), "optimizer": optimizer_tensors(run.step.optimizer, names)}
    tensors = {kind: gather_whole(found, run.world.leads) for kind, found in tensors.items()}
    state = run.random_states.get(step, {})
    for rank, one in enumerate(distributed.gather(state, run.world)):
        if one:
            tensors[f"random-{rank}"] = one
    if run.world.leads:
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

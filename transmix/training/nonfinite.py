"""Steps whose loss or gradient is not finite: skipped on the device, and counted."""

import torch
import torch.distributed as dist
from torch import Tensor

from transmix.distributed import World
from transmix.error import TransMixError


class NotFiniteError(TransMixError):
    """Loss or gradients became NaN or Inf, and training was stopped."""

    code = 1


class NotFinite:
    """Tracks NaN/Inf steps on the device, and decides which steps to skip.

    Args:
        device: device of the gradients.
        stays: after one such step also skip all later ones, so that the weights are still those before it when
            training stops.
    """

    def __init__(self, device: torch.device, stays: bool):
        self.stays = stays
        self.counts = torch.zeros(4, dtype=torch.int64, device=device)  # steps, first, row now, longest row

    def skip(self, step: int, bad: Tensor) -> Tensor:
        """Record whether a step (counted from 1) is bad; return whether to skip it, a bool on the device."""
        steps, first, row, longest = self.counts
        bad = bad & (steps == 0) if self.stays else bad  # what follows a skipped step says nothing new
        row = (row + 1) * bad
        self.counts = torch.stack(
            [steps + bad, torch.where((first == 0) & bad, step, first), row, torch.maximum(longest, row)]
        )
        return bad | (self.counts[0] > 0) if self.stays else bad

    def read(self, world: World) -> tuple[int, int, int]:
        """Return the largest counts over all processes, and reset; a series of bad steps at the end is continued.

        Returns:
            Number of NaN/Inf steps since the last read; number of the first such step, or 0; length of the longest
            series, including steps before the last read.
        """
        counts = self.counts.clone()
        if world.size > 1:
            dist.all_reduce(counts, dist.ReduceOp.MAX)
        steps, first, row, longest = counts.tolist()
        self.counts = torch.tensor([0, 0, row, row], device=self.counts.device)
        return steps, first, longest

"""Steps whose loss or gradient is not finite: skipped on the device, and counted."""

import torch
import torch.distributed as dist
from torch import Tensor

from transmix.distributed import World
from transmix.error import TransMixError


class NotFiniteError(TransMixError):
    """Loss or gradients became infinite or not a number, and training was stopped."""

    code = 1


class NotFinite:
    """Counts on the device which steps were not finite, and says which to skip.

    Args:
        device: where gradients are.
        stays: after one such step skip all later ones too: weights then are still those it was taken from when
            the count is read and training stops.
    """

    def __init__(self, device: torch.device, stays: bool):
        self.stays = stays
        self.counts = torch.zeros(4, dtype=torch.int64, device=device)  # steps, first, row now, longest row

    def skip(self, step: int, bad: Tensor) -> Tensor:
        """Note whether a step (counted from 1) is bad, and return whether to skip it, as bool on the device."""
        steps, first, row, longest = self.counts
        bad = bad & (steps == 0) if self.stays else bad  # what follows a skipped step says nothing new
        row = (row + 1) * bad
        self.counts = torch.stack(
            [steps + bad, torch.where((first == 0) & bad, step, first), row, torch.maximum(longest, row)]
        )
        return bad | (self.counts[0] > 0) if self.stays else bad

    def read(self, world: World) -> tuple[int, int, int]:
        """Return the largest count of any process, and start anew; an unfinished series goes on.

        Returns:
            How many steps were not finite since the last read; the number of the first of them, 0 if there was none;
            the longest row of them, those before the last read included.
        """
        counts = self.counts.clone()
        if world.size > 1:
            dist.all_reduce(counts, dist.ReduceOp.MAX)
        steps, first, row, longest = counts.tolist()
        self.counts = torch.tensor([0, 0, row, row], device=self.counts.device)
        return steps, first, longest

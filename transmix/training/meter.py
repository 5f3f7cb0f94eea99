"""What training counts on the device between two reads: sums to report, and steps that were not finite."""

import torch
import torch.distributed as dist
from torch import Tensor

from transmix.distributed import World, average
from transmix.error import TransMixError
from transmix.evaluation.accumulators import sum_dtype
from transmix.mixing import Mixed
from transmix.transmix import label_shift

NAMES = ("loss", "mixed_accuracy", "label_shift", "empty_boxes", "boxes", "batches")


class Meter:
    """Running sums over the micro-batches since the last read.

    Args:
        device: where the sums live.
    """

    def __init__(self, device: torch.device):
        self.sums = torch.zeros(len(NAMES), device=device, dtype=sum_dtype(device))

    def add(self, loss: Tensor, accuracy: Tensor, mixed: Mixed) -> None:
        """Add one micro-batch; nothing is read back."""
        # Zeros in place of what is missing keep the sum one tensor, which is read back in a single copy.
        one, nothing = loss.new_ones(()), loss.new_zeros(())
        shift = empty = boxes = nothing
        if mixed.mask is not None and mixed.rule != "area":
            measured = label_shift(mixed)
            empty, boxes = measured["empty_boxes"], measured["boxes"]
            shift = measured["label_shift"] * boxes
        self.sums += torch.stack([loss, accuracy, shift, empty, boxes, one])

    def read(self, world: World) -> dict[str, float]:
        """Return means since the last read, over all processes, and start anew.

        Returns:
            loss, mixed_accuracy; with labels other than the area's also label_shift (mean |lam_area - lam| of rows with
            a box) and empty_boxes (share of boxes with evidence under a tenth of their area).
        """
        sums = dict(zip(NAMES, average(self.sums, world).tolist(), strict=True))
        self.sums = torch.zeros_like(self.sums)
        means = {name: sums[name] / max(sums["batches"], 1) for name in ("loss", "mixed_accuracy")}
        if sums["boxes"] > 0:
            means["label_shift"] = sums["label_shift"] / sums["boxes"]
            means["empty_boxes"] = sums["empty_boxes"] / sums["boxes"]
        return means


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

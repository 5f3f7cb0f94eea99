"""Training statistics: sums on the device, read back all at once."""

import torch
from torch import Tensor

from transmix.distributed import World, average
from transmix.evaluation.accumulators import sum_dtype
from transmix.mixing import Mixed
from transmix.transmix import label_shift

NAMES = ("loss", "mixed_accuracy", "label_shift", "empty_boxes", "boxes", "batches")


class Meter:
    """Running sums over the micro-batches since the last read.

    Args:
        device: device of the sums.
    """

    def __init__(self, device: torch.device):
        self.sums = torch.zeros(len(NAMES), device=device, dtype=sum_dtype(device))

    def add(self, loss: Tensor, accuracy: Tensor, mixed: Mixed) -> None:
        """Add one micro-batch, without device synchronisation."""
        # Zeros in place of what is missing keep the sum one tensor, which is read back in a single copy.
        one, nothing = loss.new_ones(()), loss.new_zeros(())
        shift = empty = boxes = nothing
        if mixed.mask is not None and mixed.rule != "area":
            measured = label_shift(mixed)
            empty, boxes = measured["empty_boxes"], measured["boxes"]
            shift = measured["label_shift"] * boxes
        self.sums += torch.stack([loss, accuracy, shift, empty, boxes, one])

    def read(self, world: World) -> dict[str, float]:
        """Return the means since the last read, over all processes, and reset.

        Returns:
            loss, mixed_accuracy; for label rules other than area also label_shift (mean |lam_area - lam| of rows
            with a box) and empty_boxes (fraction of boxes with an evidence share below a tenth of their area share).
        """
        sums = dict(zip(NAMES, average(self.sums, world).tolist(), strict=True))
        self.sums = torch.zeros_like(self.sums)
        means = {name: sums[name] / max(sums["batches"], 1) for name in ("loss", "mixed_accuracy")}
        if sums["boxes"] > 0:
            means["label_shift"] = sums["label_shift"] / sums["boxes"]
            means["empty_boxes"] = sums["empty_boxes"] / sums["boxes"]
        return means

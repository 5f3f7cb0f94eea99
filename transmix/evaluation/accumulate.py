"""What all accumulators share: how a batch is read, and how ranks are added up.

An accumulator keeps sums in tensors on the device. `update(logits, labels)` adds a batch without reading
anything back to the host; `compute()` reads the sums and yields (name, value) pairs. Because the state is
only sums, batches of any size give the same result as one large batch, and so do several processes.
"""

import copy
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

AnyAccumulator = TypeVar("AnyAccumulator")


def check_batch(logits: Tensor, labels: Tensor, num_classes: int) -> None:
    """Check shapes and types of a batch without looking at its values.

    Raises:
        ValueError: If logits are not (B, K) with K = `num_classes`, or labels not (B,).
        TypeError: If logits are not floating point, or labels not int64.
    """
    if logits.ndim != 2 or logits.shape[1] != num_classes or labels.shape != logits.shape[:1]:
        raise ValueError(
            f"expected logits (B, {num_classes}) and labels (B,), got {tuple(logits.shape)} and {tuple(labels.shape)}"
        )
    if not logits.is_floating_point() or labels.dtype != torch.int64:
        raise TypeError(f"expected float logits and int64 labels, got {logits.dtype} and {labels.dtype}")


def finite_rows(logits: Tensor) -> Tensor:
    """Say which rows of (B, K) logits hold only finite numbers: (B,) bool."""
    return logits.isfinite().all(dim=1)


def top_classes(logits: Tensor) -> Tensor:
    """Give the five (or K, if fewer) highest classes of every row, best first: (B, min(5, K)) int64.

    Equal logits stand in the order of `torch.topk`, which PyTorch leaves open. Everything that needs the
    predicted class asks here, so that top-1 accuracy, calibration and confusion agree on ties too.
    """
    return logits.float().topk(min(5, logits.shape[1]), dim=1).indices


def sum_dtype(device: torch.device | str) -> torch.dtype:
    """Give the type that sums of real numbers have: float64, or float32 where the device has no float64."""
    return torch.float32 if torch.device(device).type == "mps" else torch.float64


def sum_over_ranks(accumulator: AnyAccumulator) -> AnyAccumulator:
    """Give a copy of an accumulator whose state is the sum over all processes.

    The accumulator itself is left as it is, so asking twice does not count twice. Every rank must call it,
    one that saw no sample too. Without a process group the copy is plain.
    """
    total = copy.copy(accumulator)
    for name, value in vars(accumulator).items():
        if isinstance(value, Tensor):
            value = value.clone()
            if dist.is_available() and dist.is_initialized():
                dist.all_reduce(value)
            setattr(total, name, value)
    return total


def gather_rows(rows: Tensor) -> Tensor:
    """Give the rows (n, ...) of all processes, one process after the other, to every process.

    For what cannot be added up because it must be sorted. Every rank must call it, one that has no row too. Without a
    process group the rows are its own.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return rows
    counts = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, torch.tensor([len(rows)], device=rows.device))
    most = max(map(int, counts))
    padded = rows.new_zeros(most, *rows.shape[1:])
    padded[: len(rows)] = rows
    everyone = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(everyone, padded)
    return torch.cat([theirs[: int(count)] for theirs, count in zip(everyone, counts, strict=True)])

"""All scores of a model on a data set, in one pass."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from transmix.attention.eval_mode import eval_mode
from transmix.distributed import is_part
from transmix.evaluation.accumulators import Accuracy, CalibrationError, Confusion, CrossEntropy, sum_over_ranks
from transmix.metrics import added_metrics


def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor, Tensor | None]],
    num_classes: int,
    device: torch.device | str,
    *,
    normalise: Callable[[Tensor], Tensor],
    amp_dtype: torch.dtype | None = None,
) -> dict[str, Any]:
    """Measure a model on batches of labelled images.

    If a process group is initialised, every rank must call this with its own share of the data (may be empty), and
    every rank gets the result for all data.

    Args:
        model: Returns logits (B, K) for images. It is set to evaluation mode here; each module's own mode is restored
            at the end, also after an exception.
        batches: Yields (images, labels, valid): images (B, 3, H, W), uint8 or float; labels (B,) int64; valid (B,)
            bool, False for padding rows, or None if all count. Padding rows go through the model, so that shapes stay
            the same, but do not count. Keep `valid` on the CPU: on a GPU it costs a device synchronisation per batch.
        num_classes: K.
        device: Device of the model; batches are moved there.
        normalise: Converts images to the model's float input, on the device.
        amp_dtype: Autocast dtype, e.g. torch.bfloat16; None: no autocast.

    Returns:
        'images', their number; 'loss' in nats; 'nonfinite_logits', a number of images; 'top1', 'top5',
        'calibration_error' in 0..1; 'reliability', see `CalibrationError.reliability`; 'per_class_accuracy', K numbers
        in 0..1, nan for a class without images; 'confusion', (K, K) counts; and the metrics that installed packages
        add, by their names.

    Raises:
        ValueError: No rank has a valid image, or shapes do not fit.
        TypeError: `normalise` does not return floating point, or labels are not int64.
    """
    device = torch.device(device)
    if isinstance(model, DistributedDataParallel):
        # its forward broadcasts buffers, and waits for ever where ranks differ in their number of batches
        model = model.module
    accuracy, calibration = Accuracy(num_classes, device), CalibrationError(num_classes, device)
    accumulators = (CrossEntropy(num_classes, device), accuracy, calibration, Confusion(num_classes, device))
    added = {name: metric.accumulator(num_classes, device) for name, metric in added_metrics().items()}  # type: ignore[misc]
    # Of a sharded model, weights that are put together in inference mode could not be trained afterwards.
    sharded = any(map(is_part, model.parameters()))
    with eval_mode(model), torch.no_grad() if sharded else torch.inference_mode():
        for logits, labels in _answers(model, batches, device, normalise, amp_dtype):
            for accumulator in (*accumulators, *added.values()):
                accumulator.update(logits, labels)

    images_seen = int(sum_over_ranks(accuracy).count)
    if images_seen == 0:
        raise ValueError("nothing to evaluate: no rank has a valid image")
    scores: dict[str, Any] = {"images": images_seen}
    for accumulator in accumulators:
        scores.update(sum_over_ranks(accumulator).compute())
    for name, accumulator in added.items():
        scores[name] = dict(sum_over_ranks(accumulator).compute())[name]
    scores["reliability"] = sum_over_ranks(calibration).reliability()
    return scores


def _answers(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor, Tensor | None]],
    device: torch.device,
    normalise: Callable[[Tensor], Tensor],
    amp_dtype: torch.dtype | None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield logits and labels of the valid rows."""
    for images, labels, valid in batches:
        pixels = normalise(images.to(device, non_blocking=True))
        if not pixels.is_floating_point():
            raise TypeError(f"normalise must give floating point images, got {pixels.dtype}")
        with torch.autocast(device.type, dtype=amp_dtype, enabled=amp_dtype is not None):
            logits = model(pixels)
        labels = labels.to(device, non_blocking=True)
        if valid is not None:
            if valid.shape != labels.shape or valid.dtype != torch.bool:
                raise ValueError(f"expected valid {tuple(labels.shape)} bool, got {tuple(valid.shape)} {valid.dtype}")
            rows = valid.nonzero().squeeze(1).to(device, non_blocking=True)
            logits, labels = logits[rows], labels[rows]
        yield logits, labels

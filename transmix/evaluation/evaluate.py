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

    If a process group is initialised, every rank calls this with its own share of the data, however large or
    small (none at all too), and every rank gets the result for the whole.

    Args:
        model: Gives logits (B, K) for images. Every module is in evaluation mode meanwhile, and back in its
            own mode after, also if something raises.
        batches: Gives (images, labels, valid): images (B, 3, H, W), uint8 or float; labels (B,) int64; valid
            (B,) bool, False for rows that only fill up the batch, or None if all count. Padding rows pass the
            model, so that shapes stay the same, but no metric. Keep `valid` on the CPU: on a GPU it costs a
            host read a batch.
        num_classes: K.
        device: Where the model is; batches are moved there.
        normalise: Makes the model's float input of the images as they came, on the device.
        amp_dtype: Type for autocast, e.g. torch.bfloat16; None for none.

    Returns:
        'images', their number; 'loss' in nats; 'nonfinite_logits', a number of images; 'top1', 'top5',
        'calibration_error' in 0..1; 'reliability', see `CalibrationError.reliability`; 'per_class_accuracy', K numbers
        in 0..1, nan for a class without images; 'confusion', (K, K) counts; and the metrics that installed packages
        add, by their names.

    Raises:
        ValueError: If no rank has an image that counts, or shapes do not fit.
        TypeError: If `normalise` does not give floating point, or labels are not int64.
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
        raise ValueError("nothing to evaluate: the evaluation set gave no image that counts, on any rank")
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
    """Yield logits and labels of the rows that count."""
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

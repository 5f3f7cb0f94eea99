"""The suite 'calibration': calibration errors, and their values after temperature scaling."""

from collections.abc import Iterator

import numpy as np

from transmix.data.dataset import DataError, ImageData, Split
from transmix.data.seeding import derive_seed
from transmix.evaluation.accumulators import Accuracy, BrierScore, CalibrationError, CrossEntropy, sum_over_ranks
from transmix.evaluation.confidence import Confidences, Temperature
from transmix.evaluation.evaluate import Evaluator, part_of
from transmix.evaluation.suites import Settings


def calibration(evaluator: Evaluator, data: ImageData, settings: Settings) -> Iterator[tuple[str, float]]:
    """Yield calibration errors, AURRA, Brier score and cross-entropy of all images, then of temperature scaling.

    The temperature is fitted on one half of the images (`halves`); '..._before' and '..._after' are measured on the
    other half, without and with the temperature. Each image passes the model once.

    Raises:
        DataError: fewer than two images.
    """
    if len(data.val) < 2:
        raise DataError(f"{data.name}: temperature scaling needs at least two images, there is {len(data.val)}")
    return _measure(evaluator, data.val, settings.suite_seed)


def halves(samples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split N indices at random into N // 2 to fit on, and the rest; each (n,) int64, ascending."""
    order = np.random.Generator(np.random.Philox(derive_seed(seed, "temperature"))).permutation(samples)
    return np.sort(order[: samples // 2]), np.sort(order[samples // 2 :])


def _measure(evaluator: Evaluator, split: Split, seed: int) -> Iterator[tuple[str, float]]:
    fitting, scoring = halves(len(split), seed)
    classes, device = len(evaluator.classes), evaluator.device
    accuracy = Accuracy(classes, device)
    kinds = (CalibrationError, BrierScore, CrossEntropy)
    whole, before, after = ([kind(classes, device) for kind in kinds] for _ in range(3))
    confidences, temperature = Confidences(classes, device), Temperature(classes, device)

    def see(positions: np.ndarray):
        for pixels, labels, _ in evaluator.batches(part_of(split, positions), "calibration"):
            logits = evaluator.logits(pixels)
            for score in (accuracy, confidences, *whole):
                score.update(logits, labels)
            yield logits, labels

    for logits, labels in see(fitting):
        temperature.update(logits, labels)
    best = temperature.fit()
    temperature.batches.clear()
    for logits, labels in see(scoring):
        for score in before:
            score.update(logits, labels)
        for score in after:
            score.update(logits / best, labels)

    yield "images", int(sum_over_ranks(accuracy).count)
    yield from _values(whole)
    yield from confidences.compute()
    yield "temperature", best
    for scores, when in ((before, "before"), (after, "after")):
        yield from ((f"{name}_{when}", value) for name, value in _values(scores))


def _values(scores: list) -> Iterator[tuple[str, float]]:
    for score in scores:
        yield from (pair for pair in sum_over_ranks(score).compute() if pair[0] != "nonfinite_logits")

"""The suite 'linear-probe': logistic regression on frozen features.

The input of the model's classifier is taken as it is, of one view of each image: no augmentation, no learning rate and
no epochs to choose. Differs from the linear evaluation of DINO and MAE, which trains the layer by SGD on augmented
images; nearer to that of CLIP (Radford et al., ICML 2021), which sweeps the regularisation of logistic regression too.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from transmix.data.dataset import DataError, ImageData
from transmix.data.seeding import derive_seed
from transmix.evaluation.evaluate import Evaluator
from transmix.evaluation.features import both_features, hits, probe_positions
from transmix.evaluation.logistic import Logistic, fit_logistic
from transmix.evaluation.suites import Settings, Value

CS = tuple(10.0**power for power in range(-5, 3))
"""What C is chosen from, the inverse of the regularisation, as scikit-learn has it."""

CHOOSING = 0.2
"""Share of the training images that C is chosen on; the layer is then fitted on all of them."""


@dataclass(frozen=True, eq=False)
class Probe:
    """A linear layer, and how its regularisation was chosen.

    Attributes:
        layer: fitted on all training images.
        c: the C chosen.
        found: for each C top-1 accuracy on the images that it was chosen on, in 0..1.
    """

    layer: Logistic
    c: float
    found: list[float]


def split_to_choose(samples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split N >= 2 indices at random into those to fit on, and a fifth, at least one, to choose C on."""
    generator = np.random.Generator(np.random.Philox(derive_seed(seed, "linear-probe")))
    order = generator.permutation(samples)
    some = max(1, round(CHOOSING * samples))
    return order[some:], order[:some]


def fit_probe(features: Tensor, labels: Tensor, classes: int, seed: int, bar: tqdm, cs: Sequence[float] = CS) -> Probe:
    """Choose C on a part of the training images, then fit on all of them.

    The C with the best top-1 accuracy is taken; of several, that with the lowest cross-entropy. Validation images are
    not looked at. Each fit starts from the one before it, with a smaller C; once the cross-entropy has risen twice, the
    larger ones, which take longest, are left out.

    Args:
        features: (N, D), on the device to solve on.
        labels: (N,) int64 in 0..K-1.
        classes: K.
        seed: of the part.
        bar: progress bar, moved on after each fit.
        cs: ascending.
    """
    fitting, choosing = (torch.from_numpy(part).to(labels.device) for part in split_to_choose(len(labels), seed))
    layers, found = [], []
    for c in cs:
        layers.append(fit_logistic(features[fitting], labels[fitting], classes, c, layers[-1] if layers else None))
        scores, true = layers[-1](features[choosing]), labels[choosing]
        found.append((int(hits(scores, true)[0]) / len(true), -float(F.cross_entropy(scores, true))))
        bar.update()
        if len(found) > 2 and found[-1][1] < found[-2][1] < found[-3][1]:
            break
    best = found.index(max(found))
    layer = fit_logistic(features, labels, classes, cs[best], layers[best])
    bar.update()
    return Probe(layer, cs[best], [top1 for top1, _ in found])


def linear_probe(evaluator: Evaluator, data: ImageData, settings: Settings) -> Iterator[tuple[str, Value]]:
    """Yield the accuracy of logistic regression on the model's features, as fractions in 0..1.

    'top1', 'top5'        of a linear layer that is fitted on training images
    'top1_of_pixels'      the same of images at 8 x 8 pixels in place of features: what needs no model
    'C', 'C_of_pixels'    the C chosen from 'Cs' by 'top1_by_C' on a fifth of the training images
    'note'                where the search found no minimum, or the C is at an end of 'Cs'

    Raises:
        DataError: the data has no training images of two classes, or measures those that it is fitted on.
        RecipeError: the model's features cannot be read, or a setting is out of range.
    """
    positions = probe_positions(data, settings, "linear-probe")
    if len(np.unique(data.train.labels[positions])) < 2:
        raise DataError(f"{data.name}: the suite 'linear-probe' needs training images of two classes or more")
    return _measure(evaluator, data, positions, settings.suite_seed)


def _measure(evaluator: Evaluator, data: ImageData, positions: np.ndarray, seed: int) -> Iterator[tuple[str, Value]]:
    train, val = both_features(evaluator, data, positions)
    device, classes = evaluator.device, len(data.classes)
    known = torch.bincount(train.labels, minlength=classes) > 0
    if len(train) < 2:
        raise DataError(f"{data.name}: the suite 'linear-probe' needs two readable training images, there is one")

    def measure(of_train: Tensor, of_val: Tensor) -> tuple[Probe, list[float]]:
        found = fit_probe(of_train.to(device), train.labels.to(device), classes, seed, bar)
        scores = found.layer(of_val.to(device)).masked_fill(~known.to(device), -torch.inf)
        return found, (hits(scores, val.labels.to(device)).cpu().double() / len(val)).tolist()

    hidden = None if evaluator.world.is_main else True
    title = f"linear-probe {evaluator.name}"
    with tqdm(desc=title, total=2 * (len(CS) + 1), leave=False, unit="fit", disable=hidden) as bar:
        probe, found = measure(train.vectors, val.vectors)
        of_pixels, (top1_of_pixels, _) = measure(train.pixels, val.pixels)
    yield "train_images", len(train)
    yield "images", len(val)
    yield from zip(("top1", "top5"), found, strict=True)
    yield "top1_of_pixels", top1_of_pixels
    yield "C", probe.c
    yield "C_of_pixels", of_pixels.c
    yield "Cs", list(CS[: len(probe.found)])
    yield "top1_by_C", probe.found
    if not probe.layer.converged:
        yield "note", "the search ended before the minimum: the score may be too low"
    elif probe.c in (CS[0], CS[-1]):
        yield "note", f"C is at an end of what it is chosen from, {CS[0]:g} to {CS[-1]:g}"

"""Predictions: the most probable classes of image files, in the order of the files."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset
from torch import Tensor

from transmix.data.dataset import ImageData
from transmix.data.loader import FileSamples, file_batches
from transmix.evaluation.accumulators import finite_rows, top_classes
from transmix.evaluation.confidence import Temperature
from transmix.evaluation.evaluate import Evaluator
from transmix.evaluation.features import classifier, inputs_of
from transmix.models.loaded import LoadedModel
from transmix.predict.labels import Labels
from transmix.recipes import RecipeError

NOT_FINITE = "the model's answer holds NaN or Inf"
"""The error of an image that gets no probabilities."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """The prediction of one image.

    Attributes:
        image: path of its file, as it was given.
        label: its class, if it is known.
        classes: names of the k most probable classes, best first; empty after an error.
        probabilities: (k,) float32, in 0..1.
        features: (D,) float32, input of the classifier, if asked for.
        pixels: (3, H, W) uint8, what the model saw; a view of its batch.
        error: why there is no prediction; None if there is one.
    """

    image: str
    label: str | None
    classes: tuple[str, ...]
    probabilities: np.ndarray
    features: np.ndarray | None
    pixels: Tensor
    error: str | None = None

    @property
    def is_right(self) -> bool | None:
        """Whether the most probable class is the label; None without a label or a prediction."""
        return None if self.label is None or self.error else self.classes[0] == self.label


@dataclass(frozen=True)
class Predictor:
    """What predicts: a model on its device and what is made of its answer.

    Attributes:
        evaluator: the model, as `transmix evaluate` runs it.
        classes: the K names of the logits' columns.
        top: k, number of classes of each prediction.
        temperature: T; the probabilities are the softmax of logits / T.
        features: also return the input of the classifier.
    """

    evaluator: Evaluator
    classes: tuple[str, ...]
    top: int = 5
    temperature: float = 1.0
    features: bool = False

    def predict(self, paths: Iterable[str], labels: Labels | None = None) -> Iterator[Prediction]:
        """Yield the prediction of every image file, in order; memory does not grow with their number."""
        one = self.evaluator
        seen, pin = one.preprocessing, one.device.type == "cuda"
        normalise, samples = seen.normaliser(one.device), FileSamples(seen.read, seen.height_width)
        workers = one.choose_workers(in_memory=False)
        with inputs_of(classifier(one.model) if self.features else None) as inputs:
            for files, images, found in file_batches(paths, samples, one.batch_size, workers, pin):
                inputs.clear()
                logits = one.logits(normalise(images))
                if logits.shape != (shape := (len(files), len(self.classes))):
                    raise RecipeError(f"the model returns {tuple(logits.shape)}, not images and classes {shape}")
                best = top_classes(logits, self.top)
                shares = (logits / self.temperature).softmax(dim=1).gather(1, best).cpu().numpy()
                features = inputs[-1].float().cpu().numpy() if self.features else None  # the image's, not its mirror's
                finite, best = finite_rows(logits).tolist(), best.tolist()
                for row, file in enumerate(files):
                    error = found[row][0][1] if found[row] else None if finite[row] else NOT_FINITE
                    names = () if error else tuple(self.classes[number] for number in best[row])
                    vector = None if features is None or error else features[row]
                    label = None if labels is None else labels.of(file)
                    yield Prediction(file, label, names, shares[row][: len(names)], vector, images[row], error)


def class_names(loaded: LoadedModel) -> tuple[tuple[str, ...], str | None]:
    """Return the K names of a model's classes, and a note if they are not of a run or an export.

    Published weights of ImageNet get timm's descriptions; other models without names get their numbers from 0.

    Raises:
        RecipeError: the model has no classes.
    """
    if loaded.classes is not None:
        return loaded.classes, None
    model: Any = loaded.model
    if not model.num_classes:
        raise RecipeError(f"{loaded.target} has no classifier; fine-tune it first: transmix train --init")
    subset = infer_imagenet_subset(model.pretrained_cfg) if loaded.settings.pretrained else None
    if subset is None:
        return tuple(map(str, range(model.num_classes))), "class names: unknown; their numbers from 0 stand for them"
    info = ImageNetInfo(subset)
    words = [info.index_to_description(number) for number in range(model.num_classes)]
    twice = {
        word for word, count in Counter(words).items() if count > 1
    }  # the crane that flies, and the one that lifts
    names = (f"{word} ({info.index_to_label_name(at)})" if word in twice else word for at, word in enumerate(words))
    return tuple(names), f"class names: timm's for {subset}"


def fit_temperature(evaluator: Evaluator, data: ImageData) -> float:
    """Return the temperature fitted on the validation images of a data set.

    Raises:
        RecipeError: there is none, because an answer is not finite.
    """
    found = Temperature(len(evaluator.classes), evaluator.device)
    for pixels, labels, _ in evaluator.batches(data.val, "temperature"):
        found.update(evaluator.logits(pixels), labels)
    if not math.isfinite(value := found.fit()):
        raise RecipeError(f"no temperature fits {data.name}: an answer of the model holds NaN or Inf")
    return value

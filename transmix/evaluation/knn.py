"""The suite 'knn': nearest neighbours of frozen features, DINO's measure of a representation without any training.

Source: Caron et al., Emerging properties in self-supervised vision transformers (ICCV 2021), and its eval_knn.py;
Wu et al. (CVPR 2018), for the weighted vote.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from transmix.data.dataset import DataError, ImageData
from transmix.evaluation.evaluate import Evaluator
from transmix.evaluation.features import both_features, hits, probe_positions
from transmix.evaluation.suites import Settings, Value
from transmix.recipes import RecipeError

TEMPERATURE = 0.07
"""Of the vote: a neighbour counts exp(similarity / 0.07)."""

KS = (10, 20, 100, 200)
"""Numbers of neighbours that DINO reports."""

AT_ONCE = 2**24
"""Similarities that are formed at once: 64 MB."""


def votes(train: Tensor, train_labels: Tensor, val: Tensor, classes: int, ks: list[int]) -> list[Tensor]:
    """Return the votes of the nearest training images of some images.

        vote_c = sum over the k most similar training images i of class c of exp(cos(x, x_i) / 0.07)

    Args:
        train: (N, D) features of norm 1.
        train_labels: (N,) int64 in 0..K-1.
        val: (M, D) features of norm 1.
        classes: K.
        ks: numbers of neighbours, each at most N.

    Returns:
        For each k votes (M, K); -inf for a class without one.
    """
    similarity, nearest = (val @ train.T).topk(max(ks), dim=1)
    weights, labels = (similarity / TEMPERATURE).exp(), train_labels[nearest]
    found = (weights.new_zeros(len(val), classes).scatter_add_(1, labels[:, :k], weights[:, :k]) for k in ks)
    return [of_k.masked_fill(of_k == 0, -torch.inf) for of_k in found]


def accuracies(train: Tensor, val: Tensor, labels: tuple[Tensor, Tensor], classes: int, ks: list[int]) -> Tensor:
    """Return top-1 and top-5 accuracy with each number of neighbours: (len(ks), 2) float64, on the CPU.

    Args:
        train: (N, D) features.
        val: (M, D) features, M > 0.
        labels: of both, (N,) and (M,).
        classes: K.
        ks: numbers of neighbours, each at most N.
    """
    train, val = F.normalize(train, dim=1), F.normalize(val, dim=1)
    found = torch.zeros(len(ks), 2, dtype=torch.int64, device=val.device)
    size = max(1, AT_ONCE // len(train))
    for part, true in zip(val.split(size), labels[1].split(size), strict=True):
        found += torch.stack([hits(scores, true) for scores in votes(train, labels[0], part, classes, ks)])
    return found.cpu().double() / len(val)


def knn(evaluator: Evaluator, data: ImageData, settings: Settings) -> Iterator[tuple[str, Value]]:
    """Yield the accuracy of the classes of the nearest training images by cosine similarity, as fractions in 0..1.

    'top1', 'top5'       with `knn_k` neighbours; a class without a vote is not among the five
    'top1_of_pixels'     the same of images at 8 x 8 pixels in place of features: what needs no model
    'ks', 'top1_by_k'    for 10, 20, 100 and 200 neighbours, and `knn_k`, as far as there are training images

    Raises:
        DataError: the data has no training images, fewer than `knn_k`, or measures those that it is fitted on.
        RecipeError: the model's features cannot be read, or a setting is out of range.
    """
    positions, k = probe_positions(data, settings, "knn"), settings.knn_k
    if k < 1:
        raise RecipeError(f"knn_k must be at least 1, not {k}")
    if k > len(positions):
        raise DataError(f"{data.name}: {k} neighbours of {len(positions)} training images; take fewer: --knn-k")
    return _measure(evaluator, data, positions, k)


def _measure(evaluator: Evaluator, data: ImageData, positions: np.ndarray, k: int) -> Iterator[tuple[str, Value]]:
    train, val = both_features(evaluator, data, positions)
    if k > len(train):
        raise DataError(f"{data.name}: {k} neighbours of {len(train)} readable training images; take fewer: --knn-k")
    ks = sorted({k, *(one for one in KS if one <= len(train))})
    device, chosen = evaluator.device, ks.index(k)
    labels = train.labels.to(device), val.labels.to(device)
    of_features, of_pixels = (
        accuracies(one.to(device), other.to(device), labels, len(data.classes), ks).tolist()
        for one, other in ((train.vectors, val.vectors), (train.pixels, val.pixels))
    )
    yield "train_images", len(train)
    yield "images", len(val)
    yield "k", k
    yield from zip(("top1", "top5"), of_features[chosen], strict=True)
    yield "top1_of_pixels", of_pixels[chosen][0]
    yield "ks", ks
    yield "top1_by_k", [top1 for top1, _ in of_features]
    yield "top5_by_k", [top5 for _, top5 in of_features]

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from transmix.data.dataset import DataError
from transmix.evaluation import knn as module
from transmix.evaluation.features import features_of
from transmix.evaluation.suites import Settings, load_suite
from transmix.recipes import RecipeError


def by_scikit_learn(train, train_labels, val, labels, k):
    """Top-1 and top-5 of scikit-learn's neighbours, with DINO's weights."""
    model = KNeighborsClassifier(k, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07))
    votes = model.fit(train, train_labels).predict_proba(val)
    best = [model.classes_[order[row[order] > 0]] for row, order in zip(votes, np.argsort(-votes), strict=True)]
    return [np.mean([label in of_image[:n] for label, of_image in zip(labels, best, strict=True)]) for n in (1, 5)]


@pytest.mark.parametrize("at_once", [2**24, 100])
def test_accuracies_are_scikit_learns(at_once, monkeypatch):
    monkeypatch.setattr(module, "AT_ONCE", at_once)  # in one piece, and image by image
    rng = np.random.default_rng(0)
    centres, labels, val_labels = rng.normal(size=(12, 16)), rng.integers(0, 12, 90), rng.integers(0, 12, 41)
    train, val = (centres[of] + rng.normal(0, 1.3, (len(of), 16)) for of in (labels, val_labels))
    tensors = [torch.from_numpy(one) for one in (train, val, labels, val_labels)]
    found = module.accuracies(tensors[0], tensors[1], (tensors[2], tensors[3]), 12, [1, 7, 90])
    expected = [by_scikit_learn(train, labels, val, val_labels, k) for k in (1, 7, 90)]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)
    assert found[0, 0] == found[0, 1] < found[1, 1] < 1  # of one neighbour, one class has a vote


def test_the_suite_measures_features_and_pixels(opened, coloured):
    one, data = opened(classes=("ant", "bee", "cat")), coloured(train=130)
    found = dict(load_suite("knn")(one, data, Settings(knn_k=5)))
    train, val = (features_of(one, split, "") for split in (data.train, data.val))
    for of, top1 in (("vectors", found["top1"]), ("pixels", found["top1_of_pixels"])):
        vectors = (getattr(split, of).numpy() for split in (train, val))
        expected = by_scikit_learn(next(vectors), data.train.labels, next(vectors), data.val.labels, 5)[0]
        assert top1 == pytest.approx(expected, abs=1e-12)
    assert found["top1"] > 0.8
    assert (found["k"], found["ks"], found["images"], found["train_images"]) == (5, [5, 10, 20, 100], 21, 130)
    assert found["top1_by_k"][0] == found["top1"]
    assert len(found["top5_by_k"]) == 4


def test_wrong_labels_fall_to_chance(opened, coloured):
    """The negative control: what it measures comes from the labels of the training images."""
    one, data = opened(classes=("ant", "bee", "cat")), coloured(train=130, val=300)
    np.random.default_rng(0).shuffle(data.train.labels)
    assert dict(load_suite("knn")(one, data, Settings()))["top1"] < 0.5


def test_more_neighbours_than_images_are_an_error(opened, coloured, says):
    with says(DataError, "coloured: 20 neighbours of 12 training images; take fewer: --knn-k"):
        load_suite("knn")(opened(), coloured(), Settings(probe_images=12))
    with says(RecipeError, "knn_k must be at least 1, not 0"):
        load_suite("knn")(opened(), coloured(), Settings(knn_k=0))

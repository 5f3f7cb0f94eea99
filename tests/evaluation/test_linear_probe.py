from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import top_k_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

from transmix.data.dataset import DataError
from transmix.evaluation.features import features_of
from transmix.evaluation.linear_probe import fit_probe, split_to_choose
from transmix.evaluation.logistic import fit_logistic
from transmix.evaluation.suites import Settings, load_suite

TIGHT = {"tol": 1e-10, "max_iter": 10_000}


def problem(samples=120, width=7, classes=4):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, samples)
    features = rng.normal(size=(classes, width))[labels] + rng.normal(0, 1.5, (samples, width))
    features[:, 0] = 3.0  # one that does not vary
    features[:, 1] *= 1000
    return features, labels


def by_scikit_learn(features, labels, c):
    return make_pipeline(StandardScaler(), LogisticRegression(C=c, **TIGHT)).fit(features, labels)


@pytest.mark.parametrize("c", [1e-3, 1.0, 100.0])
def test_the_layer_is_scikit_learns(c):
    features, labels = problem()
    tensors = torch.from_numpy(features), torch.from_numpy(labels)
    expected = by_scikit_learn(features, labels, c).predict_proba(features)
    start = fit_logistic(*tensors, 4, 0.1)
    for first in (None, start):  # the minimum is one, wherever the search begins
        layer = fit_logistic(*tensors, 4, c, first)
        assert layer.converged
        np.testing.assert_allclose(layer(tensors[0]).softmax(1).numpy(), expected, atol=2e-4)


def test_soft_targets_are_rows_of_each_class_with_a_weight():
    features, _ = problem()
    shares = np.random.default_rng(1).random((len(features), 2)) * (features[:, 2:3] > 0) ** np.array([1, 2])
    twice, labels = np.concatenate([features, features]), np.repeat([0, 1], len(features))
    scaled = StandardScaler().fit(features).transform(twice)
    expected = LogisticRegression(C=2 * 0.3, **TIGHT).fit(scaled, labels, shares.T.ravel())
    layer = fit_logistic(torch.from_numpy(features), torch.from_numpy(shares), 2, 0.3)
    found = layer(torch.from_numpy(features))
    np.testing.assert_allclose(found[:, 1] - found[:, 0], expected.decision_function(scaled[:120]), atol=2e-3)


def test_c_is_chosen_on_a_fifth_of_the_training_images_as_by_hand():
    features, labels = problem()
    cs = (1e-4, 1e-2, 1.0)
    probe = fit_probe(torch.from_numpy(features), torch.from_numpy(labels), 4, 7, tqdm(disable=True), cs)
    fitting, choosing = split_to_choose(120, 7)
    assert sorted([*fitting, *choosing]) == list(range(120))
    assert len(choosing) == 24
    models = [by_scikit_learn(features[fitting], labels[fitting], c) for c in cs]
    assert probe.found == pytest.approx([model.score(features[choosing], labels[choosing]) for model in models])
    losses = [-model.predict_log_proba(features[choosing])[np.arange(24), labels[choosing]].mean() for model in models]
    assert probe.c == max(zip(probe.found, [-loss for loss in losses], cs, strict=True))[2]
    expected = by_scikit_learn(features, labels, probe.c).predict_proba(features)
    found = probe.layer(torch.from_numpy(features)).softmax(1).numpy()
    np.testing.assert_allclose(found, expected, atol=2e-4)


@pytest.fixture(scope="module")
def opened_three(opened):
    return opened(classes=("ant", "bee", "cat"))


def test_the_suite_is_the_score_of_that_layer_on_validation_images(opened_three, coloured):
    data = coloured()
    found = dict(load_suite("linear-probe")(opened_three, data, Settings()))
    train, val = (features_of(opened_three, split, "") for split in (data.train, data.val))
    for of, top1, c in (("vectors", found["top1"], "C"), ("pixels", found["top1_of_pixels"], "C_of_pixels")):
        model = by_scikit_learn(getattr(train, of).numpy(), data.train.labels, found[c])
        assert top1 == pytest.approx(model.score(getattr(val, of).numpy(), data.val.labels))
    assert found["top1"] > 0.8
    assert found["top5"] == 1
    assert found["C"] in found["Cs"]
    assert len(found["Cs"]) == len(found["top1_by_C"])


def test_validation_images_choose_nothing(opened_three, coloured):
    """The negative control too: with other labels the score falls, and nothing else changes."""
    data = coloured(val=120)
    other = replace(data, val=replace(data.val, labels=np.random.default_rng(0).permutation(data.val.labels)))
    found, wrong = (dict(load_suite("linear-probe")(opened_three, one, Settings())) for one in (data, other))
    assert found["top1"] - wrong["top1"] > 0.3
    for scores in (found, wrong):
        for name in ("top1", "top1_of_pixels"):
            del scores[name]
    assert found == wrong


def test_a_class_without_training_images_is_never_found(opened, coloured):
    """Class 1 has none: its images are wrong, even among the five best; the others are as without it."""
    classes = tuple("abcdef")
    data = coloured(classes=classes)
    kept = np.flatnonzero(data.train.labels != 1)
    train = replace(
        data.train, images=data.train.images[kept], labels=data.train.labels[kept], masks=data.train.masks[kept]
    )
    one, data = opened(classes=classes), replace(data, train=train)
    found = dict(load_suite("linear-probe")(one, data, Settings()))
    features = [features_of(one, split, "").vectors.numpy() for split in (train, data.val)]
    model = by_scikit_learn(features[0], train.labels, found["C"])
    there = data.val.labels != 1
    assert found["top1"] == pytest.approx(model.score(features[1], data.val.labels))
    assert found["top5"] == pytest.approx(there.mean())
    assert top_k_accuracy_score(data.val.labels[there], model.predict_proba(features[1][there]), k=5) == 1


def test_one_class_is_an_error(opened_three, coloured, says):
    data = coloured()
    data.train.labels[:] = 2
    with says(DataError, "coloured: the suite 'linear-probe' needs training images of two classes or more"):
        load_suite("linear-probe")(opened_three, data, Settings())

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, log_loss

from transmix.evaluation.brier import BrierScore
from transmix.evaluation.loss import CrossEntropy


def random_batch(seed, samples, classes):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(samples, classes, generator=generator)
    return logits, torch.randint(classes, (samples,), generator=generator)


def measured(kind, logits, labels, sizes=None):
    score = kind(logits.shape[1])
    sizes = sizes or [len(labels)]
    for some_logits, some_labels in zip(logits.split(sizes), labels.split(sizes), strict=True):
        score.update(some_logits, some_labels)
    return next(iter(score.compute()))[1]


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), samples=st.integers(2, 60), classes=st.integers(2, 12))
def test_brier_score_and_loss_are_those_of_scikit_learn(seed, samples, classes):
    logits, labels = random_batch(seed, samples, classes)
    probability = logits.double().softmax(1).numpy()
    every = list(range(classes))
    brier = brier_score_loss(labels.numpy(), probability, labels=every, scale_by_half=False)
    assert measured(BrierScore, logits, labels) == pytest.approx(brier, abs=1e-6)
    assert measured(CrossEntropy, logits, labels) == pytest.approx(
        log_loss(labels.numpy(), probability, labels=every), abs=1e-6
    )
    assert measured(BrierScore, logits, labels, [1, samples - 1]) == pytest.approx(brier, abs=1e-12)
    assert 0 <= brier <= 2


def test_the_worst_score_is_two_and_the_best_none():
    sure = 100 * torch.eye(3)
    assert measured(BrierScore, sure, torch.arange(3)) == pytest.approx(0, abs=1e-12)
    assert measured(BrierScore, sure, torch.tensor([1, 2, 0])) == pytest.approx(2, abs=1e-12)


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_logit_that_is_not_finite_makes_it_nan(broken):
    assert math.isnan(measured(BrierScore, torch.tensor([[0.0, 1.0], [broken, 0.0]]), torch.tensor([0, 1])))

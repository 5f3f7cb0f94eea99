import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss
from torchmetrics.functional.text import perplexity

from transmix.evaluation.loss import CrossEntropy


def random_batch(seed, samples, classes):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(samples, classes, generator=generator)
    return logits, torch.randint(classes, (samples,), generator=generator)


def measured(logits, labels, sizes=None):
    loss = CrossEntropy(logits.shape[1])
    sizes = sizes or [len(labels)]
    for some_logits, some_labels in zip(logits.split(sizes), labels.split(sizes), strict=True):
        loss.update(some_logits, some_labels)
    return dict(loss.compute())


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), samples=st.integers(1, 60), classes=st.integers(2, 20))
def test_loss_is_that_of_torchmetrics_and_scikit_learn(seed, samples, classes):
    logits, labels = random_batch(seed, samples, classes)
    loss = measured(logits, labels)["loss"]
    assert loss == pytest.approx(perplexity(logits[None].double(), labels[None]).log().item(), abs=1e-6)
    theirs = log_loss(labels, logits.double().softmax(1), labels=range(classes))
    assert loss == pytest.approx(theirs, abs=1e-6)


def test_uneven_batches_and_an_empty_one_give_the_result_of_one_batch():
    logits, labels = random_batch(1, 20, 7)
    assert measured(logits, labels, [13, 0, 1, 6])["loss"] == pytest.approx(measured(logits, labels)["loss"], abs=1e-9)


def test_the_mean_of_batch_means_is_wrong_on_uneven_batches_and_ours_is_right():
    logits, labels = torch.zeros(5, 2), torch.zeros(5, dtype=torch.int64)
    logits[0, 1] = 10
    right = (math.log(1 + math.exp(10)) + 4 * math.log(2)) / 5
    naive = (measured(logits[:1], labels[:1])["loss"] + measured(logits[1:], labels[1:])["loss"]) / 2
    assert abs(naive - right) > 1
    assert measured(logits, labels, [1, 4])["loss"] == pytest.approx(right, abs=1e-6)


def test_bfloat16_logits_are_summed_in_float32():
    logits, labels = random_batch(2, 200, 10)
    logits = logits.bfloat16()
    right = torch.nn.functional.cross_entropy(logits.double(), labels).item()
    in_bfloat16 = torch.nn.functional.cross_entropy(logits, labels).item()
    assert abs(in_bfloat16 - right) > 1e-4
    assert measured(logits, labels)["loss"] == pytest.approx(right, abs=1e-6)


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf")])
def test_rows_with_non_finite_logits_are_counted_and_spoil_the_loss(poison):
    logits, labels = random_batch(3, 8, 6)
    labels[:] = 0
    logits[2, 4] = logits[5, 1] = logits[5, 2] = poison
    scores = measured(logits, labels, [3, 5])
    assert scores["nonfinite_logits"] == 2
    assert math.isnan(scores["loss"])


def test_finite_logits_however_large_are_not_counted():
    scores = measured(torch.tensor([[3e38, -3e38], [0.0, 1.0]]), torch.tensor([0, 1]))
    assert scores["nonfinite_logits"] == 0
    assert math.isfinite(scores["loss"])


@pytest.mark.parametrize("label", [-100, -1, 6])
def test_a_label_outside_the_classes_raises_instead_of_being_ignored(label):
    with pytest.raises((IndexError, RuntimeError), match=r"[Ii]ndex"):
        CrossEntropy(6).update(torch.zeros(2, 6), torch.tensor([0, label]))


def test_the_loss_of_nothing_is_nan():
    assert math.isnan(dict(CrossEntropy(6).compute())["loss"])

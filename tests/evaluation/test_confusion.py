import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, recall_score
from torchmetrics.functional.classification import multiclass_confusion_matrix, multiclass_recall

from transmix.evaluation.accuracy import Accuracy
from transmix.evaluation.confusion import Confusion


def random_batch(seed, samples, classes):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(samples, classes, generator=generator)
    return logits, torch.randint(classes, (samples,), generator=generator)


def filled(logits, labels, sizes=None):
    confusion = Confusion(logits.shape[1])
    sizes = sizes or [len(labels)]
    for some_logits, some_labels in zip(logits.split(sizes), labels.split(sizes), strict=True):
        confusion.update(some_logits, some_labels)
    return confusion


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), samples=st.integers(1, 60), classes=st.integers(2, 12))
def test_counts_and_class_accuracy_are_those_of_torchmetrics_and_scikit_learn(seed, samples, classes):
    logits, labels = random_batch(seed, samples, classes)
    confusion = filled(logits, labels)
    predicted = logits.argmax(1)
    assert torch.equal(confusion.counts, multiclass_confusion_matrix(logits, labels, num_classes=classes))
    theirs = confusion_matrix(labels, predicted, labels=range(classes))
    assert np.array_equal(confusion.counts.numpy(), theirs)

    ours = dict(confusion.compute())["per_class_accuracy"]
    theirs = recall_score(labels, predicted, labels=range(classes), average=None, zero_division=np.nan)
    assert ours == pytest.approx(list(theirs), abs=1e-6, nan_ok=True)
    theirs = multiclass_recall(logits, labels, num_classes=classes, average=None)
    assert [0 if math.isnan(a) else a for a in ours] == pytest.approx(theirs.tolist(), abs=1e-6)


def test_rows_are_the_truth_and_columns_the_prediction():
    confusion = filled(torch.tensor([[0.0, 1.0, 0.0]]), torch.tensor([2]))
    assert confusion.counts[2, 1] == 1
    assert confusion.counts.sum() == 1


def test_a_class_without_samples_has_no_accuracy():
    scores = dict(filled(torch.eye(3)[[0, 1]], torch.tensor([0, 0])).compute())
    assert scores["per_class_accuracy"] == pytest.approx([0.5, math.nan, math.nan], nan_ok=True)


def test_uneven_batches_and_an_empty_one_give_the_counts_of_one_batch():
    logits, labels = random_batch(1, 30, 5)
    assert torch.equal(filled(logits, labels, [1, 22, 0, 7]).counts, filled(logits, labels).counts)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6), classes=st.integers(2, 12))
def test_the_diagonal_is_top1_on_ties_as_well(seed, classes):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randint(0, 2, (30, classes), generator=generator).bfloat16()
    labels = torch.randint(classes, (30,), generator=generator)
    accuracy = Accuracy(classes)
    accuracy.update(logits, labels)
    diagonal = filled(logits, labels).counts.diagonal().sum().item() / 30
    assert diagonal == pytest.approx(dict(accuracy.compute())["top1"])


def test_a_row_with_a_non_finite_logit_predicts_nothing_and_counts_as_wrong():
    logits, labels = torch.eye(3), torch.tensor([0, 1, 0])
    logits[0, 0] = math.nan
    confusion = filled(logits, labels)
    assert confusion.counts.tolist() == [[0, 0, 1], [0, 1, 0], [0, 0, 0]]
    scores = dict(confusion.compute())
    assert scores["per_class_accuracy"] == pytest.approx([0.0, 1.0, math.nan], nan_ok=True)


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_outside_the_classes_raises(label):
    with pytest.raises((IndexError, RuntimeError), match="index"):
        filled(torch.eye(3), torch.tensor([0, 1, label]))
